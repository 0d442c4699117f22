# Who may know what: the access-control list of the stack.
# A secret is named for what it opens.
base:
  '*':
    - settings
    - aws
    - endpoints
    - roles
    - mine
  'salt-*':
    - secrets.cloud-ssh
  'lb-*':
    - haproxy
    - secrets.edge-tls
  'web-*':
    - airflow
    - postgres
    - redis
    - secrets.airflow-admin
    - secrets.airflow-keys
    - secrets.postgres-airflow
    - secrets.redis-airflow
  'postgres-*':
    - postgres
    - secrets.postgres-airflow
    - secrets.postgres-tls
  'redis-*':
    - redis
    - secrets.redis-airflow
    - secrets.redis-tls
