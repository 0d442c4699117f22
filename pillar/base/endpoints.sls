# Every port of the stack: the roles that listen on it, and the clients that may
# connect. Everything else is dropped. salt/_modules/endpoints.py reads this for
# the machines' firewalls (salt/base) and for the security groups (salt/aws),
# which let nothing in and nothing out but this.
#
# listeners, clients: roles, or `any-role`. Clients may also be `internet`
# (anybody) and `operators` (the networks in the deployment's
# `settings:operator_cidrs`, which the security group alone tells from the rest
# of the internet: salt/_modules/firewall.py). Listeners may also be `internet`
# (any address outside) and `s3` (the addresses of S3 in the region). The ports
# of SSH and of Salt are their programs' own and cannot be changed here.
endpoints:
  ssh:
    port: 22
    listeners: [any-role]
    clients: [salt]
  ssh-operators:
    port: 22
    listeners: [salt]
    clients: [operators]
  salt-publish:
    port: 4505
    listeners: [salt]
    clients: [any-role]
  salt-request:
    port: 4506
    listeners: [salt]
    clients: [any-role]
  # The way out of all machines but salt-1, to the names in pillar `proxy`.
  proxy:
    port: 3128
    listeners: [salt]
    clients: [any-role]
  # salt-1's own way out: packages, the EC2 API, and what others ask of its
  # proxy. A load balancer asks the EC2 API for the site's address, also when
  # salt-1 is gone, and asks the site at that address: docs/security.md.
  internet-http:
    port: 80
    listeners: [internet]
    clients: [salt]
  internet-https:
    port: 443
    listeners: [internet]
    clients: [salt, lb]
  # Through the gateway endpoint of the VPC, where it has one: backups.
  s3:
    port: 443
    listeners: [s3]
    clients: [salt, postgres]
  # Replication goes from one server to the others, whichever leads.
  postgres:
    port: 5432
    listeners: [postgres]
    clients: [web, postgres, monitor]
  # Patroni's REST API: the members ask each other for their state, and web
  # machines ask who leads. What changes something needs a member's certificate.
  patroni:
    port: 8008
    listeners: [postgres]
    clients: [web, postgres, monitor]
  # A replica that makes a backup has the server that leads begin and end it.
  pgbackrest:
    port: 8432
    listeners: [postgres]
    clients: [postgres]
  etcd-client:
    port: 2379
    listeners: [postgres]
    clients: [postgres]
  etcd-peer:
    port: 2380
    listeners: [postgres]
    clients: [postgres]
  redis:
    port: 6379
    listeners: [redis]
    clients: [web, redis, monitor]
  redis-sentinel:
    port: 26379
    listeners: [redis]
    clients: [redis]
  airflow:
    port: 8080
    listeners: [web]
    clients: [lb]
  http:
    port: 80
    listeners: [lb]
    clients: [internet]
  https:
    port: 443
    listeners: [lb]
    clients: [internet]
  # What all machines log.
  logs:
    port: 19532
    listeners: [monitor]
    clients: [any-role]
  # What Prometheus asks for. PostgreSQL, Patroni and Redis tell it at their own
  # ports.
  metrics-node:
    port: 9100
    listeners: [any-role]
    clients: [monitor]
  metrics-haproxy:
    port: 8405
    listeners: [lb]
    clients: [monitor]
