# Every machine sends the master its address inside the VPC;
# salt/_modules/machines.py reads it.
{% import_yaml 'aws.sls' as account %}
mine_functions:
  private_address:
    - mine_function: network.ip_addrs
    - cidr: {{ account.aws.vpc.cidr | json }}
