#!/bin/sh
# Airflow's command line with the environment of the web service. Managed by Salt (salt/airflow).
# It takes some 300 MB: on a machine of 1 GiB stop the service first (`systemctl stop airflow`).
# The web app's role of the database reads and writes rows only. What changes tables, such as
# `airflow db migrate` and `airflow db clean`, needs the role that owns them, and a machine to which
# the state airflow.migrate was applied: AIRFLOW_DATABASE_ROLE=owner airflow db migrate
set -eu
read_settings() {
    if [ ! -r "$1" ]; then
        echo "airflow: $1 is not readable: run this as root${2:-}" >&2
        exit 1
    fi
    set -a
    # shellcheck source=/dev/null
    . "$1"
    set +a
}
read_settings /etc/airflow/environment
read_settings /etc/airflow/secrets.env
read_settings /etc/airflow/command.env
case "${AIRFLOW_DATABASE_ROLE:-app}" in
    app) ;;
    owner) read_settings /etc/airflow/owner.env ", after the state airflow.migrate" ;;
    *)
        echo "airflow: AIRFLOW_DATABASE_ROLE is 'app' or 'owner'" >&2
        exit 1
        ;;
esac
cd /
exec runuser -u airflow -- /opt/airflow/current/venv/bin/airflow "$@"
