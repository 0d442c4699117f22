# Nothing in the account has a name of this deployment's without its tags. All else waits for this.
{% set aws = salt['aws.settings']() %}

aws-names:
  aws_account.unclaimed:
    - name: {{ ('names of ' ~ aws.vpc.name) | json }}
    - region: {{ aws.region | json }}
