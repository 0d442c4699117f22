# Each security group lets in exactly what pillar `endpoints` says; other rules are removed.
# The rules come after all groups, because the groups refer to each other.
{% set aws = pillar['aws'] %}
include:
  - aws.groups

{% for role, group in aws.security_groups.items() %}
aws-unmanaged-rules-{{ role }}:
  security_group.no_unmanaged_ingress:
    - name: {{ group | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.groups

aws-rules-{{ role }}:
  boto3_secgroup.present:
    - name: {{ group | json }}
    - description: {{ ('machines of role ' ~ role) | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - rules: {{ salt['security_group.ingress'](role) | json }}
    - region: {{ aws.region | json }}
    - require:
      - security_group: aws-unmanaged-rules-{{ role }}
{% endfor %}
