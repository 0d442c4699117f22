# What each machine runs. The id is proved by the minion's key; nothing is targeted by a grain.
base:
  '*':
    - base
  'salt-*':
    - master
  'lb-*':
    - haproxy
  'web-*':
    - airflow
  'postgres-*':
    - postgres
  'redis-*':
    - redis
