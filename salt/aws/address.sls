# The deployment keeps the site's public address, and the edge machine has it. The driver gives it
# to a new machine at its launch; these states give it to one that was there before or has lost it.
{% set aws = salt['aws.settings']() %}
include:
  - aws.names
  - aws.machines

aws-address:
  elastic_ip.present:
    - name: {{ aws.edge_address.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names

aws-address-associated:
  elastic_ip.associated:
    - name: {{ aws.edge_address.name | json }}
    - machine: {{ aws.edge_address.machine | json }}
    - region: {{ aws.region | json }}
    - require:
      - elastic_ip: aws-address
      - sls: aws.machines
