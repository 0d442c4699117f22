# What the site decides about its database; sizes that follow from the machine are in salt/postgres/defaults.yaml.
postgres:
  database: airflow
  role: airflow
  # The role of machines whose addresses pg_hba.conf lets in.
  clients: web
