# The account has one VPC with one public subnet, which an internet gateway connects. EC2 keeps one
# address of the subnet for salt-1.
{% set aws = pillar['aws'] %}
include:
  - aws.access

aws-vpc:
  boto3_vpc.present:
    - name: {{ aws.vpc.name | json }}
    - cidr_block: {{ aws.vpc.cidr | json }}
    - dns_support: True
    - dns_hostnames: True
    - region: {{ aws.region | json }}

aws-subnet:
  boto3_vpc.subnet_present:
    - name: {{ aws.subnet.name | json }}
    - cidr_block: {{ aws.subnet.cidr | json }}
    - availability_zone: {{ aws.subnet.zone | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - boto3_vpc: aws-vpc

# EC2 would give the address of a lost salt-1 to another machine.
aws-salt-address:
  subnet_reservation.present:
    - name: {{ aws.salt_address | json }}
    - subnet_name: {{ aws.subnet.name | json }}
    - tags:
        project: {{ aws.project | json }}
    - region: {{ aws.region | json }}
    - require:
      - boto3_vpc: aws-subnet

aws-internet-gateway:
  boto3_vpc.internet_gateway_present:
    - name: {{ aws.internet_gateway | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - region: {{ aws.region | json }}
    - require:
      - boto3_vpc: aws-vpc

aws-route-table:
  boto3_vpc.route_table_present:
    - name: {{ aws.route_table | json }}
    - vpc_name: {{ aws.vpc.name | json }}
    - routes:
      - destination_cidr_block: 0.0.0.0/0
        internet_gateway_name: {{ aws.internet_gateway | json }}
    - subnet_names: [{{ aws.subnet.name | json }}]
    - region: {{ aws.region | json }}
    - require:
      - boto3_vpc: aws-subnet
      - boto3_vpc: aws-internet-gateway
