# The deployment keeps the site's public address. The load balancers give it to one of themselves
# (salt/haproxy/address.sls).
{% set aws = salt['aws.settings']() %}
include:
  - aws.names

aws-address:
  elastic_ip.present:
    - name: {{ aws.edge_address.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names
