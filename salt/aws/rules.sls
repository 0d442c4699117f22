# Each security group lets in exactly what pillar `endpoints` says; a rule that was added by hand is taken out.
# Apart from aws.groups, because the groups name each other.
{% set aws = pillar['aws'] %}
{% set operators = pillar['settings'].get('operator_cidrs', []) %}
include:
  - aws.groups

{% for role, group in aws.security_groups.items() %}
aws-rules-{{ role }}:
  boto3_secgroup.present:
    - name: {{ group | json }}
    - description: {{ ('machines of role ' ~ role) | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - rules: {{ salt['security_group.ingress'](role, pillar['endpoints'], aws.security_groups, operators) | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.groups
{% endfor %}
