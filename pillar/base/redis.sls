# What the site decides about Redis. Sizes that follow from the machine are in
# salt/redis/defaults.yaml.
redis:
  user: airflow
  # Those of the machines themselves: what copies the data, what watches the
  # master, what asks for the web machines who that is (salt/stores), and what
  # reads its counters for Prometheus.
  users:
    replication: replication
    sentinel: sentinel
    check: check
    metrics: metrics
