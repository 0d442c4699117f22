# Every role: the unit that its machines run, how to tell that they serve, the name
# by which other machines reach it, and its certificate.
# A minion's role is its id without the number: web-1 is a `web`.

# The domain of the machines' own names: web-1.stack.internal, postgres.stack.internal.
domain: stack.internal

roles:
  salt:
    unit: salt-master
    check: {endpoint: salt-request}
  lb:
    unit: haproxy
    check: {endpoint: https, path: /api/v2/monitor/health}
    certificate: {secret: edge-tls, path: /etc/haproxy/tls.pem}
  web:
    unit: airflow
    check: {endpoint: airflow, path: /api/v2/monitor/health}
  postgres:
    # Debian names the unit for version and cluster; salt/postgres takes both from here.
    unit: postgresql@17-main
    service: postgres
    check: {endpoint: postgres}
    certificate: {secret: postgres-tls, path: /etc/postgresql/tls/certificate.pem}
  redis:
    unit: redis-server
    service: redis
    check: {endpoint: redis}
    certificate: {secret: redis-tls, path: /etc/redis/tls/certificate.pem}
