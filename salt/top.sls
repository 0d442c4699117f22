# What each machine runs. The minion's key proves its id; no state is targeted by a grain. An id is
# <role>-<n>, as in salt/_modules/role.py; a glob would also match web-evil and web-proxy-1.
base:
  '*':
    - base
  'E@^salt-[1-9][0-9]*$':
    - master
  'E@^lb-[1-9][0-9]*$':
    - haproxy
  'E@^web-[1-9][0-9]*$':
    - airflow
  'E@^postgres-[1-9][0-9]*$':
    - postgres
  'E@^redis-[1-9][0-9]*$':
    - redis
  'E@^monitor-[1-9][0-9]*$':
    - journal_remote
    - prometheus
