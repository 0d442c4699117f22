# AWS accepts the credentials; a look-up that they may not make fails here and in all states below.
{% set aws = pillar['aws'] %}

aws-access:
  aws_access.accepted:
    - region: {{ aws.region | json }}
