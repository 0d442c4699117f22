# The operator's key opens the machines; the Salt master may launch and remove this stack's machines in its region, without a key.
{% set aws = pillar['aws'] %}

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
            - Sid: Launch
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: '*'
              Condition:
                StringEquals: {'aws:RequestedRegion': {{ aws.region | json }}}
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
                  'aws:ResourceTag/project': airflow-stack
    - region: {{ aws.region | json }}
