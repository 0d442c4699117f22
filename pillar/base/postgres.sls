# What the site decides about PostgreSQL. Sizes that follow from the machine are
# in salt/postgres/defaults.yaml.
postgres:
  database: airflow
  role: airflow
  # The role of the machines that pg_hba.conf lets in.
  clients: web
