# The resources of the account that salt/aws creates and cloud.profiles.d names.
aws:
  region: eu-west-1
  # The tags `project` and `deployment` say whose a resource is. In the names
  # here and in cloud.profiles.d, {project} and {deployment} stand for their
  # values: an account may hold several deployments, and other things.
  project: airflow-stack
  # What the Salt master may launch: instance types, and images of these owners.
  # EC2 compares a policy with an image's owner alias, and with the number of
  # its account only where there is no alias. Debian's images have the alias
  # that Amazon gives to itself and to the publishers that it has verified.
  instance_types: [t2.micro]
  image_owners: [amazon, '136693071363']
  # The only user of Debian's image that may log in. The provider in
  # cloud.providers.d and stackctl name the same user.
  login_user: admin
  vpc:
    name: '{project}-{deployment}'
    cidr: 10.20.0.0/16
  # The subnet of salt-1, and a load balancer's. Earlier versions had no other,
  # and machines that they have launched stay in it.
  subnet:
    name: '{project}-{deployment}-a'
    cidr: 10.20.1.0/24
    zone: eu-west-1a
  # In each zone one for the load balancers, and a private one for all other
  # machines. The private ones have no route out of the VPC.
  other_subnets:
    b: {name: '{project}-{deployment}-b', cidr: 10.20.2.0/24, zone: eu-west-1b}
    c: {name: '{project}-{deployment}-c', cidr: 10.20.3.0/24, zone: eu-west-1c}
    private-a:
      name: '{project}-{deployment}-private-a'
      cidr: 10.20.11.0/24
      private: true
      zone: eu-west-1a
    private-b:
      name: '{project}-{deployment}-private-b'
      cidr: 10.20.12.0/24
      private: true
      zone: eu-west-1b
    private-c:
      name: '{project}-{deployment}-private-c'
      cidr: 10.20.13.0/24
      private: true
      zone: eu-west-1c
  # Every machine lets in SSH from this address only, and finds its master
  # there. A new salt-1 gets the same address.
  salt_address: 10.20.1.250
  # The site's public address, by its Name tag. A load balancer that serves has
  # it, and takes it by itself.
  edge_address:
    name: '{project}-{deployment}-edge'
  internet_gateway: '{project}-{deployment}'
  route_table: '{project}-{deployment}'
  private_route_table: '{project}-{deployment}-private'
  key_pair: '{project}-{deployment}'
  salt_role: '{project}-{deployment}-salt'
  # Role of another machine -> its IAM role (salt/aws/identity.sls). The roles
  # that are not here have nothing to do in AWS, and no credentials.
  machine_roles:
    lb: '{project}-{deployment}-lb'
    postgres: '{project}-{deployment}-postgres'
  # Backups below postgres/, Airflow's releases below releases/. All accounts of
  # the world share the names of buckets, so this one has the account's number;
  # S3 allows 63 characters. A version that was replaced or deleted stays for 30
  # days, so a wrong deletion can be undone for a month. Uploads that were never
  # completed are of no use after a week.
  bucket:
    name: '{project}-{deployment}-{account}-eu-west-1'
    noncurrent_days: 30
    upload_days: 7
  s3_endpoint: '{project}-{deployment}-s3'
  # Role of a machine -> its security group. A group's name counts in its VPC
  # only, and cannot be changed.
  security_groups:
    salt: airflow-salt
    lb: airflow-lb
    web: airflow-web
    postgres: airflow-postgres
    redis: airflow-redis
    monitor: airflow-monitor
  # The names that were the same in every deployment, before the tag
  # `deployment`. What has one is taken over once, if it is this deployment's:
  # salt/_modules/aws.py says how that is known.
  earlier:
    vpc: airflow
    subnet: airflow-a
    internet_gateway: airflow
    route_table: airflow
    key_pair: airflow-deploy
    salt_role: airflow-salt
    edge_address: airflow-edge
