# The account has the operator's key pair, and a role by which the Salt master may launch and manage
# this deployment's machines in its region, and no other's. AWS evaluates RunInstances for every
# resource that it creates or uses, so each statement's conditions are ones that all of its
# resources have:
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
{% set aws = salt['aws.settings']() %}
{% set arn = 'arn:aws:ec2:' ~ aws.region ~ ':*:' %}
{% set owner = salt['aws.tags']() %}
{% set parameters = 'arn:aws:ssm:' ~ aws.region ~ '::parameter/aws/service/debian/*' %}

include:
  - aws.names
  - aws.machines

aws-key-pair:
  key_pair.present:
    - name: {{ aws.key_pair | json }}
    - public_key: {{ pillar['settings']['ssh_public_key'] | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names

aws-earlier-key-pair:
  key_pair.earlier:
    - name: {{ aws.earlier.key_pair | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.machines

# A salt-1 that an earlier version launched keeps its role, so that role has the same policy.
# The policy tells machines by their tags, so these come first.
{% for id, state, name in [
  ('aws-salt-role', 'present', aws.salt_role),
  ('aws-earlier-salt-role', 'earlier', aws.earlier.salt_role),
] %}
{{ id }}:
  iam_role.{{ state }}:
    - name: {{ name | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names
      - sls: aws.machines
    - policies:
        salt-cloud:
          Version: '2012-10-17'
          Statement:
            - Sid: DescribeEc2
              Effect: Allow
              Action: 'ec2:Describe*'
              Resource: '*'
              Condition:
                StringEquals: {'aws:RequestedRegion': {{ aws.region | json }}}
            - Sid: GetImageParameters
              Effect: Allow
              Action: 'ssm:GetParameters'
              Resource: {{ parameters | json }}
            - Sid: RunOwnInstances
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'instance/*') | json }}
              Condition:
                StringEquals:
                  'aws:RequestTag/project': {{ owner.project | json }}
                  'aws:RequestTag/deployment': {{ owner.deployment | json }}
                  'ec2:InstanceType': {{ aws.instance_types | json }}
            - Sid: RunInstancesWithOwnVolumesAndInterfaces
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ [arn ~ 'volume/*', arn ~ 'network-interface/*'] | json }}
              Condition:
                StringEquals:
                  'aws:RequestTag/project': {{ owner.project | json }}
                  'aws:RequestTag/deployment': {{ owner.deployment | json }}
            - Sid: RunInstancesFromDebianImages
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ ('arn:aws:ec2:' ~ aws.region ~ '::image/*') | json }}
              Condition:
                StringEquals: {'ec2:Owner': {{ aws.image_owners | json }}}
            - Sid: RunInstancesInSubnet
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'subnet/*') | json }}
              Condition:
                StringEquals:
                  'aws:ResourceTag/project': {{ owner.project | json }}
                  'aws:ResourceTag/deployment': {{ owner.deployment | json }}
            - Sid: RunInstancesInSecurityGroups
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'security-group/*') | json }}
              Condition:
                StringEquals:
                  'aws:ResourceTag/project': {{ owner.project | json }}
                  'aws:ResourceTag/deployment': {{ owner.deployment | json }}
            - Sid: RunInstancesWithKeyPair
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'key-pair/' ~ aws.key_pair) | json }}
            - Sid: CreateTagsAtLaunch
              Effect: Allow
              Action: 'ec2:CreateTags'
              Resource:
                - {{ (arn ~ 'instance/*') | json }}
                - {{ (arn ~ 'network-interface/*') | json }}
                - {{ (arn ~ 'volume/*') | json }}
              Condition:
                StringEquals: {'ec2:CreateAction': RunInstances}
            - Sid: AssociateOwnAddress
              Effect: Allow
              Action: 'ec2:AssociateAddress'
              Resource:
                - {{ (arn ~ 'elastic-ip/*') | json }}
                - {{ (arn ~ 'instance/*') | json }}
                - {{ (arn ~ 'network-interface/*') | json }}
              Condition:
                StringEquals:
                  'aws:ResourceTag/project': {{ owner.project | json }}
                  'aws:ResourceTag/deployment': {{ owner.deployment | json }}
            - Sid: ManageOwnInstances
              Effect: Allow
              Action:
                - 'ec2:CreateTags'
                - 'ec2:GetConsoleOutput'
                - 'ec2:ModifyInstanceAttribute'
                - 'ec2:RebootInstances'
                - 'ec2:StartInstances'
                - 'ec2:StopInstances'
                - 'ec2:TerminateInstances'
              Resource: {{ (arn ~ 'instance/*') | json }}
              Condition:
                StringEquals:
                  'aws:ResourceTag/project': {{ owner.project | json }}
                  'aws:ResourceTag/deployment': {{ owner.deployment | json }}
{% endfor %}
