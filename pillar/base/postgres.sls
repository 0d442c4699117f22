# What the site decides about PostgreSQL. Sizes that follow from the machine are
# in salt/postgres/defaults.yaml.
postgres:
  database: airflow
  # Owns the database and its schema, and migrates it. It has no limits: a
  # migration holds a lock in an idle transaction while it works.
  owner: airflow_owner
  # The web app's role: it reads and writes rows.
  role: airflow
  # The one that takes turns with it: at each rotation of its password the other
  # one logs in, and both do until all web machines have the new one.
  other_role: airflow_b
  # What the sessions of that role begin with. HAProxy gives a request up after
  # timeout_server (salt/haproxy/defaults.yaml); less, so that the app can still
  # say what failed, and no statement goes on for nobody.
  role_settings:
    statement_timeout: 14s
    # Less, so that the log names the lock and not the statement that waits.
    lock_timeout: 5s
    # Between two statements a request computes; a dead one keeps its locks, and
    # keeps autovacuum from removing rows. Its client has his answer by then
    # (answer_seconds in salt/airflow/defaults.yaml).
    idle_in_transaction_session_timeout: 15s
  # The role of the machines that pg_hba.conf lets in.
  clients: web
  # The database role by which a replica follows the primary, and by which a
  # server that was primary goes back to where the histories part (pg_rewind).
  replication: replicator
  # Takes turns with it likewise.
  other_replication: replicator_b
  # Of the monitor machine: it reads the server's statistics, and no rows.
  metrics: metrics
