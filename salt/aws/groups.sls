# Every role has a security group, which lets nothing in until aws.rules adds rules.
{% set aws = pillar['aws'] %}
include:
  - aws.network

{% for role, group in aws.security_groups.items() %}
aws-group-{{ role }}:
  boto3_secgroup.present:
    - name: {{ group | json }}
    - description: {{ ('machines of role ' ~ role) | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - tags:
        project: {{ aws.project | json }}
    - region: {{ aws.region | json }}
    - require:
      - boto3_vpc: aws-vpc
{% endfor %}
