# The Airflow web app of the locked release answers on its socket, with a migrated database.
# `airflow.migrate` has to migrate the database first, on one web machine. Without a migrated
# database this stops at airflow-database. Watch: airflow-healthy.
{% import_yaml 'airflow/defaults.yaml' as defaults %}
{% set airflow = salt['pillar.get']('airflow', defaults.airflow, merge=True) %}
{% set path = pillar['roles']['web']['check']['path'] %}

include:
  - airflow.config
  - nginx

airflow-database:
  airflow.database_current:
    - name: airflow
{% if pillar.get('stores_follow') %}
    # Of a new machine, which the stores let in meanwhile (salt/orch/deploy.sls).
    - retry:
        attempts: 30
        interval: 2
{% endif %}
    - require:
      - airflow: airflow-release
      - file: airflow-secrets
      - file: airflow-database-tool

airflow-unit:
  file.managed:
    - name: /etc/systemd/system/airflow.service
    - source: salt://airflow/files/airflow.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        memory_high: {{ airflow.memory_high_megabytes }}M
        memory_max: {{ airflow.memory_max_megabytes }}M
        runtime: {{ airflow.runtime | json }}
        leaving: {{ airflow.leaving | json }}
        leave_seconds: {{ airflow.leave_seconds | json }}

airflow-config-loaded:
  service_config.loaded:
    - name: airflow
    - paths:
        airflow-release: /opt/airflow/current

airflow-service:
  service.running:
    - name: airflow
    - enable: True
    - require:
      - airflow: airflow-database
      - file: airflow-home
      - file: airflow-dags-folder
      - file: airflow-logs
      - file: airflow-runtime
      # Read for each connection to a store.
      - file: airflow-ca
    - watch:
      - service_config: airflow-config-loaded
      - airflow: airflow-release
      - file: airflow-config
      - file: airflow-environment
      - file: airflow-secrets
      - file: airflow-login-config
      - file: airflow-local-settings
      - file: airflow-worker
      - file: airflow-queue
      - file: airflow-answers
      - file: airflow-auth-manager
      - file: airflow-unit

airflow-healthy:
  airflow.healthy:
    - name: http://localhost{{ path }}
    - via: unix:{{ airflow.socket }}
    - require:
      - service: airflow-service
{% if 'previous_fernet_key' in pillar['secrets']['airflow-keys'] and salt['machines.is_last']() %}

# What only the previous key opens. The last machine of the role does it: all others have both keys.
airflow-encrypted:
  airflow.encrypted_anew:
    - name: airflow
    - require:
      - airflow: airflow-healthy
{% endif %}
