#!/bin/sh
# Airflow's command line with the environment of the web service. Managed by Salt (salt/airflow).
# It takes some 300 MB: on a machine of 1 GiB stop the service first (`systemctl stop airflow`).
set -eu
if [ ! -r /etc/airflow/secrets.env ]; then
    echo "airflow: /etc/airflow/secrets.env is not readable: run this as root" >&2
    exit 1
fi
set -a
. /etc/airflow/environment
. /etc/airflow/secrets.env
set +a
cd /
exec runuser -u airflow -- /opt/airflow/current/venv/bin/airflow "$@"
