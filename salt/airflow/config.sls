# Airflow's locked release is current, and its settings are in /etc/airflow, owned by root. Only
# root and the user airflow can read the secrets.
{% import_yaml 'airflow/defaults.yaml' as defaults %}
{% import_yaml 'postgres/defaults.yaml' as postgres_defaults %}
{% set airflow = salt['pillar.get']('airflow', defaults.airflow, merge=True) %}
{% set database = salt['pillar.get']('postgres', postgres_defaults.postgres, merge=True) %}
{% set web = salt['machines.addresses']('web') | length %}
{% set pools = salt['web_sizes.checked'](airflow, web, database.role_connections) %}
{% set secrets = pillar['secrets'] %}
{% set keys = secrets['airflow-keys'] %}
{% set fernet_keys = [keys.fernet_key] %}
{% if 'previous_fernet_key' in keys %}
{% do fernet_keys.append(keys.previous_fernet_key) %}
{% endif %}
{% set postgres, redis, endpoints = pillar['postgres'], pillar['redis'], pillar['endpoints'] %}

include:
  - airflow.release
  - stores

# Only directly before the service restarts: a running process would load further modules from the
# new release.
airflow-release:
  airflow.current:
    - name: /opt/airflow
    - lockfile: /opt/airflow/requirements.txt
    - require:
      - airflow: airflow-installed

airflow-settings:
  file.directory:
    - name: /etc/airflow
    - mode: '0755'

airflow-home:
  file.directory:
    - name: /var/lib/airflow
    - user: airflow
    - group: airflow
    - mode: '0750'
    - require:
      - user: airflow-user

airflow-dags-folder:
  file.directory:
    - name: /var/lib/airflow/dags
    - user: airflow
    - group: airflow
    - mode: '0750'
    - require:
      - file: airflow-home

airflow-logs:
  file.directory:
    - name: /var/log/airflow
    - user: airflow
    - group: airflow
    - mode: '0750'
    - require:
      - user: airflow-user

# nginx reaches the web app's socket through its group, so it need not be in the group airflow,
# which reads the secrets. Other users do not reach it.
airflow-runtime:
  file.directory:
    - name: {{ airflow.runtime }}
    - user: airflow
    - group: www-data
    - mode: '0750'
    - require:
      - user: airflow-user

airflow-runtime-at-boot:
  file.managed:
    - name: /etc/tmpfiles.d/airflow.conf
    - source: salt://airflow/files/tmpfiles.conf.j2
    - template: jinja
    - mode: '0644'
    - context:
        runtime: {{ airflow.runtime | json }}

airflow-ca:
  file.managed:
    - name: /etc/airflow/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'

airflow-config:
  file.managed:
    - name: /etc/airflow/airflow.cfg
    - source: salt://airflow/files/airflow.cfg.j2
    - template: jinja
    - mode: '0644'
    - context:
        airflow: {{ airflow | json }}
        base_url: {{ pillar['settings']['base_url'] | json }}
        deployment: {{ pillar['settings']['deployment'] | json }}
        port: {{ endpoints.airflow.port | json }}
        load_examples: {{ pillar['settings']['load_examples'] | json }}
        pool_size: {{ pools.synchronous }}

airflow-environment:
  file.managed:
    - name: /etc/airflow/environment
    - source: salt://airflow/files/environment.j2
    - template: jinja
    - mode: '0644'
    - context:
        gunicorn:
          - --bind=unix:{{ airflow.socket }}
          - --worker-class=web_worker.WebWorker
          - --no-control-socket
        worker:
          workers: {{ airflow.workers }}
          renewal_lock: {{ airflow.runtime }}/renewal.lock
          worker_megabytes: {{ airflow.worker_megabytes }}
          worker_requests: {{ airflow.worker_requests }}
          requests: {{ airflow.requests_per_worker }}
          queue: {{ airflow.queue_per_worker }}
          wait_seconds: {{ airflow.wait_seconds }}
          answer_seconds: {{ airflow.answer_seconds }}
          health_seconds: {{ airflow.health_seconds }}
          streams: {{ airflow.streams_per_worker }}
          async_pool: {{ pools.asynchronous }}

airflow-secrets:
  file.managed:
    - name: /etc/airflow/secrets.env
    - source: salt://airflow/files/secrets.env.j2
    - template: jinja
    - group: airflow
    - mode: '0640'
    - show_changes: False
    - context:
        keys: {{ keys | json }}
        # Airflow encrypts with the first one, and decrypts with any.
        fernet_keys: {{ fernet_keys | json }}
        database:
          user: {{ secrets['postgres-airflow'].get('user', postgres.role) | json }}
          password: {{ secrets['postgres-airflow']['password'] | json }}
          host: {{ salt['role.service_name']('postgres') | json }}
          port: {{ endpoints.postgres.port | json }}
          name: {{ postgres.database | json }}
        redis:
          user: {{ redis.user | json }}
          password: {{ secrets['redis-airflow']['password'] | json }}
          host: {{ salt['role.service_name']('redis') | json }}
          port: {{ endpoints.redis.port | json }}
          broker_database: {{ airflow.broker_database | json }}
          limiter_database: {{ airflow.limiter_database | json }}
    # The names in it lead to the stores.
    - require:
      - user: airflow-user
      - file: base-hosts

airflow-command-environment:
  file.managed:
    - name: /etc/airflow/command.env
    - source: salt://airflow/files/command.env
    - mode: '0644'

airflow-login-config:
  file.managed:
    - name: /etc/airflow/webserver_config.py
    - source: salt://airflow/files/webserver_config.py
    - mode: '0644'

airflow-local-settings:
  file.managed:
    - name: /etc/airflow/airflow_local_settings.py
    - source: salt://airflow/files/airflow_local_settings.py
    - mode: '0644'

airflow-worker:
  file.managed:
    - name: /etc/airflow/web_worker.py
    - source: salt://airflow/files/web_worker.py
    - mode: '0644'

airflow-queue:
  file.managed:
    - name: /etc/airflow/web_queue.py
    - source: salt://airflow/files/web_queue.py
    - mode: '0644'

airflow-answers:
  file.managed:
    - name: /etc/airflow/web_answers.py
    - source: salt://airflow/files/web_answers.py
    - mode: '0644'

airflow-auth-manager:
  file.managed:
    - name: /etc/airflow/web_auth.py
    - source: salt://airflow/files/web_auth.py
    - mode: '0644'

airflow-database-tool:
  file.managed:
    - name: /opt/airflow/database.py
    - source: salt://airflow/files/database.py
    - mode: '0644'

airflow-command:
  file.managed:
    - name: /usr/local/bin/airflow
    - source: salt://airflow/files/airflow.sh
    - mode: '0755'
