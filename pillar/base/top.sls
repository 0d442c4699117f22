# Who may know what: the access-control list of the stack.
# A secret is named for what it opens. An id is <role>-<n>, as in
# salt/_modules/role.py; a glob would also match web-evil and web-proxy-1.
base:
  '*':
    - settings
    - aws
    - endpoints
    - proxy
    - roles
  'E@^salt-[1-9][0-9]*$':
    - growth
    - secrets.cloud-ssh
    - secrets.logs-client-tls
    - secrets.metrics-scrape
    - secrets.metrics-tls
  'E@^lb-[1-9][0-9]*$':
    - haproxy
    - secrets.acme-account
    - secrets.edge-client-tls
    - secrets.edge-tls
    - secrets.logs-client-tls
    - secrets.metrics-scrape
    - secrets.metrics-tls
  'E@^web-[1-9][0-9]*$':
    - airflow
    - postgres
    - redis
    - secrets.airflow-admin
    - secrets.airflow-keys
    - secrets.logs-client-tls
    - secrets.metrics-scrape
    - secrets.metrics-tls
    - secrets.postgres-airflow
    - secrets.postgres-owner
    - secrets.redis-airflow
    - secrets.redis-check
    - secrets.web-tls
  'E@^postgres-[1-9][0-9]*$':
    - backups
    - postgres
    - retention
    - secrets.logs-client-tls
    - secrets.metrics-scrape
    - secrets.metrics-tls
    - secrets.postgres-airflow
    - secrets.postgres-backup
    - secrets.postgres-cluster-tls
    - secrets.postgres-owner
    - secrets.postgres-replication
  'E@^redis-[1-9][0-9]*$':
    - redis
    - secrets.logs-client-tls
    - secrets.metrics-scrape
    - secrets.metrics-tls
    - secrets.redis-airflow
    - secrets.redis-check
    - secrets.redis-replication
    - secrets.redis-sentinel
    - secrets.redis-tls
  'E@^monitor-[1-9][0-9]*$':
    - postgres
    - redis
    - secrets.logs-client-tls
    - secrets.logs-tls
    - secrets.metrics-scrape
    - secrets.metrics-tls
