# What the site decides about its Redis; sizes that follow from the machine are in salt/redis/defaults.yaml.
redis:
  user: airflow
