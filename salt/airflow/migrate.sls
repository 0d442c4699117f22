# As `airflow`, and the database is migrated and holds the permissions, the first user and the DAGs.
# Applied on one web machine only, by the orchestration or by hand: salt web-1 state.apply
# airflow.migrate. Each step asks the database first and changes only what is missing.
{% import_yaml 'airflow/defaults.yaml' as defaults %}
{% set airflow = salt['pillar.get']('airflow', defaults.airflow, merge=True) %}

include:
  - base
  - airflow

airflow-owner:
  file.managed:
    - name: /etc/airflow/owner.env
    - source: salt://airflow/files/owner.env.j2
    - template: jinja
    - mode: '0600'
    - show_changes: False
    - context:
        user: {{ pillar['postgres']['owner'] | json }}
        password: {{ pillar['secrets']['postgres-owner']['password'] | json }}
        host: {{ salt['role.service_name']('postgres') | json }}
        port: {{ pillar['endpoints']['postgres']['port'] | json }}
        name: {{ pillar['postgres']['database'] | json }}
    - require:
      - file: airflow-settings

airflow-migrated:
  airflow.migrated:
    - name: airflow
    - require:
      - airflow: airflow-release
      - file: airflow-config
      - file: airflow-environment
      - file: airflow-secrets
      - file: airflow-owner
      - file: airflow-command-environment
      - file: airflow-local-settings
      - file: airflow-login-config
      - file: airflow-database-tool
      - file: airflow-home
      - file: airflow-logs
    - require_in:
      - airflow: airflow-database

airflow-permissions:
  airflow.permissions_synced:
    - name: airflow
    - require:
      - airflow: airflow-migrated

# On an empty database, the user's role is one of those that the permissions bring.
airflow-admin:
  airflow.user_present:
    - name: {{ airflow.admin.username | json }}
    - password: {{ pillar['secrets']['airflow-admin']['password'] | json }}
    - firstname: {{ airflow.admin.firstname | json }}
    - lastname: {{ airflow.admin.lastname | json }}
    - email: {{ (airflow.admin.username ~ '@' ~ pillar['domain']) | json }}
    - require:
      - airflow: airflow-permissions
    - require_in:
      - airflow: airflow-database

airflow-dags:
  airflow.dags_serialized:
    - name: dags
    - examples: {{ pillar['settings']['load_examples'] | json }}
    - require:
      - airflow: airflow-migrated
    - require_in:
      - airflow: airflow-database
