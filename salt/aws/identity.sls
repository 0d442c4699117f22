# The operator's key opens the machines; the Salt master may launch and remove this stack's machines in its region, without a key.
# RunInstances asks for every resource that it makes or uses: each statement here has conditions that all of its resources know.
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
{% set aws = pillar['aws'] %}
{% set arn = 'arn:aws:ec2:' ~ aws.region ~ ':*:' %}

aws-key-pair:
  key_pair.present:
    - name: {{ aws.key_pair | json }}
    - public_key: {{ pillar['settings']['ssh_public_key'] | json }}
    - region: {{ aws.region | json }}

aws-salt-role:
  boto3_iam_role.present:
    - name: {{ aws.salt_role | json }}
    - policy_document:
        Version: '2012-10-17'
        Statement:
          - Effect: Allow
            Action: sts:AssumeRole
            Principal: {Service: ec2.amazonaws.com}
    - policies:
        salt-cloud:
          Version: '2012-10-17'
          Statement:
            - Sid: Look
              Effect: Allow
              Action: ['ec2:Describe*', 'ec2:GetConsoleOutput']
              Resource: '*'
              Condition:
                StringEquals: {'aws:RequestedRegion': {{ aws.region | json }}}
            - Sid: FindImages
              Effect: Allow
              Action: ['ssm:GetParameter', 'ssm:GetParameters']
              Resource: {{ ('arn:aws:ssm:' ~ aws.region ~ '::parameter/aws/service/debian/*') | json }}
            - Sid: LaunchOwn
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'instance/*') | json }}
              Condition:
                StringEquals:
                  'aws:RequestTag/project': {{ aws.project | json }}
                  'ec2:InstanceType': {{ aws.instance_types | json }}
            - Sid: LaunchWithOwn
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ [arn ~ 'volume/*', arn ~ 'network-interface/*'] | json }}
              Condition:
                StringEquals: {'aws:RequestTag/project': {{ aws.project | json }}}
            - Sid: LaunchFromImage
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ ('arn:aws:ec2:' ~ aws.region ~ '::image/*') | json }}
              Condition:
                StringEquals: {'ec2:Owner': {{ aws.image_owner | json }}}
            - Sid: LaunchInSubnet
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'subnet/*') | json }}
              Condition:
                StringEquals: {'aws:ResourceTag/Name': {{ aws.subnet.name | json }}}
            - Sid: LaunchInGroups
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'security-group/*') | json }}
              Condition:
                StringEquals: {'aws:ResourceTag/project': {{ aws.project | json }}}
            - Sid: LaunchWithKey
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'key-pair/' ~ aws.key_pair) | json }}
            - Sid: TagAtLaunch
              Effect: Allow
              Action: 'ec2:CreateTags'
              Resource: '*'
              Condition:
                StringEquals:
                  'aws:RequestedRegion': {{ aws.region | json }}
                  'ec2:CreateAction': RunInstances
            - Sid: ManageOwn
              Effect: Allow
              Action:
                - 'ec2:CreateTags'
                - 'ec2:DeleteTags'
                - 'ec2:ModifyInstanceAttribute'
                - 'ec2:RebootInstances'
                - 'ec2:StartInstances'
                - 'ec2:StopInstances'
                - 'ec2:TerminateInstances'
              Resource: '*'
              Condition:
                StringEquals:
                  'aws:RequestedRegion': {{ aws.region | json }}
                  'aws:ResourceTag/project': {{ aws.project | json }}
    - region: {{ aws.region | json }}
