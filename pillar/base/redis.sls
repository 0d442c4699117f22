# What the site decides about Redis. Sizes that follow from the machine are in
# salt/redis/defaults.yaml.
redis:
  user: airflow
