# What each machine runs. The minion's key proves its id; no state is targeted by a grain.
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
