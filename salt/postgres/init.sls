# PostgreSQL has one database. One role owns it and migrates it; the application's role reads and
# writes its rows. Both connect over TLS, from the clients' machines only.
# Watch: postgres-service, postgres-access.
{% import_yaml 'postgres/defaults.yaml' as defaults %}
{% set postgres = salt['pillar.get']('postgres', defaults.postgres, merge=True) %}
{% set secrets, server = pillar['secrets'], pillar['roles']['postgres'] %}
{% set version, cluster = server.unit.removeprefix('postgresql@').split('-', 1) %}
{% set etc = '/etc/postgresql/%s/%s' | format(version, cluster) %}
{% set tls = salt['file.dirname'](server.certificate.path) %}

include:
  - postgres.cleaning

# The package reads this when it makes the cluster. Checksums detect a corrupt disk.
postgres-cluster-defaults:
  file.managed:
    - name: /etc/postgresql-common/createcluster.d/stack.conf
    - source: salt://postgres/files/createcluster.conf
    - makedirs: True
    - mode: '0644'

postgres-package:
  pkg.installed:
    - name: postgresql-{{ version }}
    - install_recommends: False
    - require:
      - file: postgres-cluster-defaults

postgres-tls:
  file.directory:
    - name: {{ tls }}
    - group: postgres
    - mode: '0750'
    - require:
      - pkg: postgres-package

postgres-certificate:
  file.managed:
    - name: {{ server.certificate.path }}
    - contents: {{ secrets['postgres-tls']['certificate'] | json }}
    - mode: '0644'
    - require:
      - file: postgres-tls

postgres-key:
  file.managed:
    - name: {{ tls }}/key.pem
    - contents: {{ secrets['postgres-tls']['private_key'] | json }}
    - group: postgres
    - mode: '0640'
    - show_changes: False
    - require:
      - file: postgres-tls

postgres-config:
  file.managed:
    - name: {{ etc }}/conf.d/stack.conf
    - source: salt://postgres/files/stack.conf.j2
    - template: jinja
    - mode: '0644'
    - context:
        address: {{ salt['machines.own_address']() | json }}
        port: {{ pillar['endpoints']['postgres']['port'] | json }}
        max_connections: {{ postgres.max_connections | json }}
        settings: {{ postgres.settings | json }}
        certificate: {{ server.certificate.path }}
        key: {{ tls }}/key.pem
    - require:
      - pkg: postgres-package

postgres-environment:
  file.managed:
    - name: {{ etc }}/environment
    - source: salt://postgres/files/environment.j2
    - template: jinja
    - mode: '0644'
    - context:
        environment: {{ postgres.environment | json }}
    - require:
      - pkg: postgres-package

postgres-clients:
  file.managed:
    - name: {{ etc }}/pg_hba.conf
    - source: salt://postgres/files/pg_hba.conf.j2
    - template: jinja
    - group: postgres
    - mode: '0640'
    - context:
        postgres: {{ postgres | json }}
        addresses: {{ salt['machines.addresses'](postgres.clients).values() | list | json }}
    - require:
      - pkg: postgres-package

postgres-unit:
  file.managed:
    - name: /etc/systemd/system/postgresql@.service.d/stack.conf
    - source: salt://postgres/files/postgresql.service.conf
    - makedirs: True
    - mode: '0644'

postgres-config-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

postgres-service:
  service.running:
    - name: {{ server.unit }}
    - watch:
      - service_config: postgres-config-loaded
      - file: postgres-certificate
      - file: postgres-key
      - file: postgres-config
      - file: postgres-environment
      - file: postgres-unit

# Earlier releases kept the certificate here.
postgres-old-tls:
  file.absent:
    - name: {{ etc }}/tls
    - require:
      - service: postgres-service

postgres-clients-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

postgres-clients-reload:
  service.running:
    - name: {{ server.unit }}
    - reload: True
    - require:
      - service: postgres-service
    - watch:
      - service_config: postgres-clients-loaded
      - file: postgres-clients

# Salt hashes the passwords itself, so psql gets the SCRAM verifiers only.
{% for kind, secret in [('role', 'postgres-airflow'), ('owner', 'postgres-owner')] %}
postgres-{{ kind }}:
  postgres_user.present:
    - name: {{ postgres[kind] | json }}
    - password: {{ secrets[secret]['password'] | json }}
    - encrypted: scram-sha-256
    - login: True
    - superuser: False
    - createdb: False
    - createroles: False
    - replication: False
    - inherit: False
    - user: postgres
    - require:
      - service: postgres-clients-reload
{% endfor %}

# Its owner is set below, together with all other privileges: the application would notice a moment
# between the two.
postgres-database:
  postgres_database.present:
    - name: {{ postgres.database | json }}
    - encoding: UTF8
    - template: template0
    - user: postgres
    - require:
      - postgres_user: postgres-role
      - postgres_user: postgres-owner

# No client of the stack may connect to this database.
postgres-statistics:
  postgres_extension.present:
    - name: pg_stat_statements
    - maintenance_db: postgres
    - user: postgres
    - require:
      - service: postgres-clients-reload

postgres-access:
  postgres_access.present:
    - name: {{ postgres.database | json }}
    - owner: {{ postgres.owner | json }}
    - role: {{ postgres.role | json }}
    - connections: {{ postgres.role_connections | json }}
    - settings: {{ postgres.role_settings | json }}
    - require:
      - postgres_database: postgres-database

# Earlier releases set the privileges with this script.
postgres-old-access-script:
  file.absent:
    - name: {{ etc }}/access.sql
    - require:
      - postgres_access: postgres-access
