# Backups of PostgreSQL by pgBackRest: salt/postgres/backups.sls. One server
# makes them, a replica where there is one; the write-ahead log comes from the
# server that leads.
backups:
  # `s3`: in the deployment's bucket. `posix`: in a folder of the machine, which
  # is lost with it, for trials without a bucket.
  repository: s3
  # A segment of the log that is not full is archived after so many seconds: as
  # much may be lost with all machines.
  wal_seconds: 60
  # A backup of what has changed is made after so many hours, and of everything
  # after so many days.
  hours: 24
  full_days: 7
  # Every moment of so many days can be restored.
  keep_days: 30
  # Without S3, the log waits on the disk of 10 GB until it has this size. Then
  # it is dropped, so that the database goes on: until the next backup, no
  # moment after that can be restored.
  wal_waits: 2GiB
  # Tables that have rows as soon as the web app has started: the drill looks
  # for them in what it has restored.
  tables: [ab_user, alembic_version, dag]
