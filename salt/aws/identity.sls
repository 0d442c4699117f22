# The account has the operator's key pair, and roles. By theirs, the Salt master may launch and
# manage this deployment's machines in its region, and no other's, and keep releases and backups of
# its keys in the bucket, where it deletes nothing; a database machine may keep backups there; an
# edge may take the site's address. All other machines have no role. AWS evaluates RunInstances for
# every resource that it creates or uses, so each statement's conditions are ones that all of its
# resources have:
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
{% set aws = salt['aws.settings']() %}
{% set arn = 'arn:aws:ec2:' ~ aws.region ~ ':*:' %}
{% set owner = salt['aws.tags']() %}
{% set owned = {
  'aws:ResourceTag/project': owner.project,
  'aws:ResourceTag/deployment': owner.deployment,
} %}
{% set bucket = 'arn:aws:s3:::' ~ aws.bucket.name %}
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
              Action:
                - 'ec2:DescribeAddresses'
                - 'ec2:DescribeAvailabilityZones'
                - 'ec2:DescribeImages'
                - 'ec2:DescribeInstanceTypes'
                - 'ec2:DescribeInstances'
                - 'ec2:DescribeKeyPairs'
                - 'ec2:DescribeRegions'
                - 'ec2:DescribeSecurityGroups'
                - 'ec2:DescribeSubnets'
                - 'ec2:DescribeTags'
                - 'ec2:DescribeVolumes'
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
                StringEquals: {{ owned | json }}
            - Sid: RunInstancesInSecurityGroups
              Effect: Allow
              Action: 'ec2:RunInstances'
              Resource: {{ (arn ~ 'security-group/*') | json }}
              Condition:
                StringEquals: {{ owned | json }}
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
            - Sid: ManageOwnInstances
              Effect: Allow
              Action:
                - 'ec2:DescribeInstanceAttribute'
                - 'ec2:GetConsoleOutput'
                - 'ec2:RebootInstances'
                - 'ec2:StartInstances'
                - 'ec2:StopInstances'
                - 'ec2:TerminateInstances'
              Resource: {{ (arn ~ 'instance/*') | json }}
              Condition:
                StringEquals: {{ owned | json }}
            # The driver's own tags. Those that say whose a machine is, and its name, are set at
            # its launch, and stay.
            - Sid: TagOwnInstances
              Effect: Allow
              Action: 'ec2:CreateTags'
              Resource: {{ (arn ~ 'instance/*') | json }}
              Condition:
                StringEquals: {{ owned | json }}
                'ForAllValues:StringEquals':
                  'aws:TagKeys': ['salt-cloud:deploy', 'salt-cloud:host-key']
            # No other attribute: changed user data would run as root at the next start. Should EC2
            # take two attributes in a call, which its manual denies, none is user data.
            - Sid: EndProtectionOfOwnInstances
              Effect: Allow
              Action: 'ec2:ModifyInstanceAttribute'
              Resource: {{ (arn ~ 'instance/*') | json }}
              Condition:
                StringEquals: {{ owned | json }}
                StringEqualsIgnoreCase: {'ec2:Attribute/DisableApiTermination': 'false'}
                'Null': {'ec2:Attribute/UserData': 'true'}
            - Sid: GiveRolesToMachines
              Effect: Allow
              Action: 'iam:PassRole'
              Resource:
{%- for name in aws.machine_roles.values() %}
                - {{ ('arn:aws:iam::{account}:role/' ~ name) | json }}
{%- endfor %}
              Condition:
                StringEquals: {'iam:PassedToService': ec2.amazonaws.com}
        releases:
          Version: '2012-10-17'
          Statement:
            - Sid: KeepReleases
              Effect: Allow
              Action:
                - 's3:GetObject'
                - 's3:PutObject'
              Resource: {{ (bucket ~ '/releases/*') | json }}
            - Sid: ListReleases
              Effect: Allow
              Action: 's3:ListBucket'
              Resource: {{ bucket | json }}
              Condition:
                StringLike: {'s3:prefix': 'releases/*'}
        backups:
          Version: '2012-10-17'
          Statement:
            - Sid: KeepBackups
              Effect: Allow
              Action:
                - 's3:GetObjectVersion'
                - 's3:PutObject'
              Resource: {{ (bucket ~ '/master/*') | json }}
            - Sid: ListBackups
              Effect: Allow
              Action: 's3:ListBucketVersions'
              Resource: {{ bucket | json }}
              Condition:
                StringLike: {'s3:prefix': 'master/*'}
{% endfor %}

# A program for backups deletes those that have expired. In a bucket with versions that leaves a
# version behind, which the lifecycle removes later. Nobody but the operator may delete versions.
aws-postgres-role:
  iam_role.present:
    - name: {{ aws.machine_roles.postgres | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names
    - policies:
        backups:
          Version: '2012-10-17'
          Statement:
            - Sid: KeepBackups
              Effect: Allow
              Action:
                - 's3:AbortMultipartUpload'
                - 's3:DeleteObject'
                - 's3:GetObject'
                - 's3:PutObject'
              Resource: {{ (bucket ~ '/postgres/*') | json }}
            # The whole bucket: S3 tells that an object is missing, and not forbidden, only to those
            # who may list it without a condition, since that request names no prefix.
            - Sid: ListBackups
              Effect: Allow
              Action: 's3:ListBucket'
              Resource: {{ bucket | json }}

# An edge takes the site's address when the one with it does not serve
# (salt/haproxy/files/site_address.py); it takes no other, and gives it to nobody else.
aws-lb-role:
  iam_role.present:
    - name: {{ aws.machine_roles.lb | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names
    - policies:
        address:
          Version: '2012-10-17'
          Statement:
            # Of all addresses: AWS cannot limit it.
            - Sid: FindSitesAddress
              Effect: Allow
              Action: 'ec2:DescribeAddresses'
              Resource: '*'
              Condition:
                StringEquals: {'aws:RequestedRegion': {{ aws.region | json }}}
            - Sid: TakeSitesAddress
              Effect: Allow
              Action: 'ec2:AssociateAddress'
              Resource: {{ (arn ~ 'elastic-ip/*') | json }}
              Condition:
                StringEquals:
                  'aws:ResourceTag/Name': {{ aws.edge_address.name | json }}
                  'aws:ResourceTag/project': {{ owner.project | json }}
                  'aws:ResourceTag/deployment': {{ owner.deployment | json }}
            - Sid: GiveAddressToEdges
              Effect: Allow
              Action: 'ec2:AssociateAddress'
              Resource:
                - {{ (arn ~ 'instance/*') | json }}
                - {{ (arn ~ 'network-interface/*') | json }}
              Condition:
                StringEquals: {{ owned | json }}
                StringLike: {'aws:ResourceTag/Name': 'lb-*'}

# Machines that were launched before their role existed get it while they run.
{% for role, name in aws.machine_roles.items() %}
aws-{{ role }}-machines:
  iam_role.attached:
    - name: {{ name | json }}
    - machines: {{ role | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.machines
      - iam_role: aws-{{ role }}-role
{% endfor %}
