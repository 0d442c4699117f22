# The deployment has one VPC with subnets in three zones. An internet gateway connects the public
# ones; the private ones have no way out of the VPC. EC2 keeps one address of the first subnet for
# salt-1.
{% set aws = salt['aws.settings']() %}
include:
  - aws.names

aws-vpc:
  ec2_network.vpc:
    - name: {{ aws.vpc.name | json }}
    - cidr: {{ aws.vpc.cidr | json }}
    - region: {{ aws.region | json }}
    - require:
      - sls: aws.names

aws-subnet:
  ec2_network.subnet:
    - name: {{ aws.subnet.name | json }}
    - cidr: {{ aws.subnet.cidr | json }}
    - zone: {{ aws.subnet.zone | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-vpc

{% for key, subnet in aws.other_subnets.items() %}
aws-subnet-{{ key }}:
  ec2_network.subnet:
    - name: {{ subnet.name | json }}
    - cidr: {{ subnet.cidr | json }}
    - zone: {{ subnet.zone | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-vpc
{% endfor %}

# EC2 would give the address of a lost salt-1 to another machine.
aws-salt-address:
  ec2_network.reserved_address:
    - name: {{ aws.salt_address | json }}
    - subnet_name: {{ aws.subnet.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-subnet

aws-internet-gateway:
  ec2_network.internet_gateway:
    - name: {{ aws.internet_gateway | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-vpc

aws-route-table:
  ec2_network.route_table:
    - name: {{ aws.route_table | json }}
    - gateway: {{ aws.internet_gateway | json }}
    - subnets: {{ salt['aws.subnets'](private=False) | map(attribute='name') | list | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-subnet
{%- for key in aws.other_subnets %}
      - ec2_network: aws-subnet-{{ key }}
{%- endfor %}
      - ec2_network: aws-internet-gateway

# Their machines fetch packages by the proxy on salt-1.
aws-private-route-table:
  ec2_network.route_table:
    - name: {{ aws.private_route_table | json }}
    - subnets: {{ salt['aws.subnets'](private=True) | map(attribute='name') | list | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-route-table

aws-network-checked:
  ec2_network.checked:
    - name: {{ aws.vpc.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - ec2_network: aws-private-route-table
