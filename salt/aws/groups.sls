# Every role has a security group, which lets nothing in until aws.rules adds rules.
{% set aws = salt['aws.settings']() %}
include:
  - aws.network

{% for role, group in aws.security_groups.items() %}
aws-group-{{ role }}:
  security_group.present:
    - name: {{ group | json }}
    - description: {{ ('machines of role ' ~ role) | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-vpc
{% endfor %}
