# Each security group lets in and out exactly what pillar `endpoints` says; other rules are removed,
# with them EC2's own, which lets out everything.
# The rules come after all groups, because the groups refer to each other.
{% set aws = salt['aws.settings']() %}
include:
  - aws.groups

{% for role, group in aws.security_groups.items() %}
aws-rules-{{ role }}:
  security_group.ingress:
    - name: {{ group | json }}
    - rules: {{ salt['security_group.ingress'](role) | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.groups

aws-egress-{{ role }}:
  security_group.egress:
    - name: {{ group | json }}
    - rules: {{ salt['security_group.egress'](role) | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.groups
{% endfor %}
