# Every role, and how its machines serve. The role of a minion is its id without
# the number: web-1 is a `web`, and an id that is not `<role>-<n>` has no role.
#
# unit: the systemd unit that the role's machines run.
# serving: how many machines of the role serve, from number 1 on; without it all
#   of them. A machine above it has the base alone: it runs no service, holds no
#   secret of the role, and nothing depends on it. salt/top.sls and top.sls give
#   the role's states and secrets to those that serve.
# votes: whether more than half of the role's machines have to agree on who is
#   the master. An even number bears no more losses than one machine less, so
#   stackctl refuses it.
# optional: whether a map may have no machine of the role. Then the endpoints of
#   which it is the only client are closed.
# metrics: what Prometheus asks a machine of the role for, beside what every
#   machine tells: jobs of salt/prometheus/files/prometheus.yml.j2.
# data: what the disk of such a machine may hold; so nothing removes the machine
#   unasked.
# service: the name below `domain` by which other machines reach the role.
# proxied: the roles whose machines reach it by a proxy of their own, which
#   finds out which machine takes writes (salt/stores): there the name leads to
#   themselves.
# check: how a machine of the role tells that it serves (salt/_modules/role.py).
#   endpoint: the entry of endpoints.sls whose port has to accept a connection
#     at the machine's own address. A role with a certificate speaks TLS there.
#   path: a GET of this page has to answer 200.
#   expect: a text that the page has to contain.
#   alpn: the protocol that the TLS handshake asks for.
#   ca: a file with the CAs one of which has to have signed the certificate that
#     is served there, for the name of the role below `domain`.
#   local: where the page is asked instead, for a port that asks clients for a
#     certificate which the machine does not have.
# certificate:
#   secret: the secret that holds it.
#   path: its file on the machine.
#   copies: further files there that hold it.
#   everywhere: the machines of all roles hold it, while the map has a machine
#     of this role: at `path`, and those of the roles here also in these files.
# client: the certificate with which the role's machines prove themselves.
#   secret: the secret that holds it.
#   path: its file on the machine.
#   name: the common name in it, by which servers know the role.
# receiver: the certificate under which the role's machines take what all log.
#   secret: the secret that holds it.
#   path: its file on the machine.
#   name: the name in it, below `domain`, by which others reach them.
# senders: the certificate with which the machines of all roles prove themselves
#   there, while the map has a machine of this role.
#   secret, path, name: as of `client`.
#   trusts: the files there that hold the deployment's CA.
# trusts: the files on the machine that hold the deployment's CA, or both CAs
#   while it is rotated.

# The domain of the machines' and the services' own names.
domain: stack.internal

roles:
  salt:
    unit: salt-master
    check:
      endpoint: salt-request
  lb:
    unit: haproxy
    metrics: [haproxy]
    check:
      endpoint: https
      path: /api/v2/monitor/health
      # The page answers 200 even when its database is not healthy.
      expect: &healthy '"metadatabase":{"status":"healthy"}'
    certificate:
      secret: edge-tls
      path: /etc/haproxy/tls.pem
    client:
      secret: edge-client-tls
      path: /etc/haproxy/client.pem
      name: edge
    trusts: [/etc/haproxy/ca.pem]
  web:
    unit: airflow
    # HAProxy asks the web machines for the same page.
    check:
      endpoint: airflow
      path: /api/v2/monitor/health
      expect: *healthy
      ca: /etc/nginx/tls/ca.pem
      local: 127.0.0.1
    certificate:
      secret: web-tls
      path: /etc/nginx/tls/certificate.pem
    trusts: [/etc/airflow/ca.pem, /etc/haproxy/ca.pem, /etc/nginx/tls/ca.pem]
  postgres:
    # Patroni runs PostgreSQL, and stops what another program started.
    unit: patroni
    metrics: [patroni, postgres]
    votes: true
    data: Airflow's metadata
    service: postgres
    proxied: [web]
    check:
      endpoint: postgres
      # PostgreSQL refuses a TLS handshake that does not ask for this.
      alpn: postgresql
    certificate:
      secret: postgres-cluster-tls
      path: /etc/postgresql/tls/certificate.pem
      copies: [/etc/etcd/tls/certificate.pem]
      # Its machines talk to each other too: by these names, as clients.
      members: 5
    trusts: [/etc/etcd/tls/ca.pem, /etc/postgresql/tls/ca.pem]
  redis:
    unit: redis-server
    metrics: [redis]
    votes: true
    data: Celery's queue and the login limit's counters
    service: redis
    proxied: [web]
    check:
      endpoint: redis
    certificate:
      secret: redis-tls
      path: /etc/redis/tls/certificate.pem
    trusts: [/etc/redis/tls/ca.pem]
  monitor:
    unit: prometheus
    optional: true
    # The name in the certificate with which every machine serves its metrics.
    service: metrics
    check:
      endpoint: metrics-node
    certificate:
      secret: metrics-tls
      path: /etc/node-exporter/tls.pem
      everywhere:
        lb: [/etc/haproxy/metrics.pem]
    receiver:
      secret: logs-tls
      path: /etc/haproxy/logs.pem
      name: logs
    senders:
      secret: logs-client-tls
      path: /etc/journal-upload/client.pem
      name: logs-sender
      trusts: [/etc/journal-upload/ca.pem]
    trusts: [/etc/prometheus/ca.pem, /etc/haproxy/ca.pem]
