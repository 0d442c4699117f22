# The machines that an earlier version has launched have the tags by which this one finds them.
{% set aws = salt['aws.settings']() %}
include:
  - aws.network

aws-machines:
  aws_account.machines_taken_over:
    - name: {{ ('machines of ' ~ aws.vpc.name) | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-vpc
