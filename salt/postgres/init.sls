# Patroni runs PostgreSQL on each machine of the role: one is the primary, the others follow it, and
# one of them takes over when it is lost. One role owns the database and migrates it; the
# application's role reads and writes its rows. Both connect over TLS, from the clients' machines
# only.
# Watch: postgres-running, postgres-access.
{% import_yaml 'postgres/defaults.yaml' as defaults %}
{% set postgres = salt['pillar.get']('postgres', defaults.postgres, merge=True) %}
{% set secrets, server = pillar['secrets'], pillar['roles']['postgres'] %}
{% set certificate = secrets[server.certificate.secret] %}
{% set endpoints, machines = pillar['endpoints'], salt['machines.addresses']('postgres') %}
{% set tls = salt['file.dirname'](server.certificate.path) %}
{% set digest = salt['hashutil.digest'](pillar['settings']['ca_certificate'], checksum='sha256') %}
{% set listener_ca = tls ~ '/ca-' ~ digest[:12] ~ '.pem' %}
{% set ttl = postgres.cluster.ttl if machines | length > 1 else postgres.cluster.ttl_alone %}
{% set settings = dict(postgres.cluster.settings, ttl=ttl) %}
{# Who logs in: of each pair of roles one, and while its password is rotated both. #}
{% set logins = salt['postgres_access.logins']() %}

include:
  - etcd
  - postgres.backups
  - postgres.cleaning
  - postgres.etcd_leader

# The package would make and start a cluster of its own.
postgres-no-cluster:
  file.managed:
    - name: /etc/postgresql-common/createcluster.d/stack.conf
    - source: salt://postgres/files/createcluster.conf
    - makedirs: True
    - mode: '0644'

postgres-package:
  pkg.installed:
    - name: postgresql-{{ postgres.version }}
    - install_recommends: False
    - require:
      - file: postgres-no-cluster

# It does not start before it has a configuration: a restart while it makes the cluster would leave
# half of one.
postgres-patroni:
  pkg.installed:
    - install_recommends: False
    - pkgs:
      - patroni
      # Of the stores that Patroni can use, its package asks for any one.
      - python3-etcd
    - require:
      - pkg: postgres-package

# Earlier releases had Debian's scripts run the cluster. Patroni takes its data over, and asks it by
# the role for replication before it lets it write.
postgres-old-replication:
  postgres_user.present:
    - name: {{ postgres.replication | json }}
    - password: {{ secrets['postgres-replication']['password'] | json }}
    - encrypted: scram-sha-256
    - login: True
    - replication: True
    - inherit: False
    - user: postgres
    - onlyif: systemctl --quiet is-active postgresql@{{ postgres.version }}-main
    - require:
      - pkg: postgres-package

postgres-old-start:
  file.managed:
    - name: /etc/postgresql/{{ postgres.version }}/main/start.conf
    - contents: disabled
    - onlyif: test -e /etc/postgresql/{{ postgres.version }}/main/start.conf
    - require:
      - postgres_user: postgres-old-replication

postgres-old-service:
  service.dead:
    - name: postgresql@{{ postgres.version }}-main
    - require:
      - file: postgres-old-start

postgres-tls:
  file.directory:
    - name: {{ tls }}
    - group: postgres
    - mode: '0750'
    - require:
      - pkg: postgres-package

postgres-ca:
  file.managed:
    - name: {{ tls }}/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - file: postgres-tls

# Patroni reads the CA of its clients again only when the file has another name.
postgres-listener-ca:
  file.managed:
    - name: {{ listener_ca }}
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - file: postgres-tls

postgres-certificate:
  file.managed:
    - name: {{ server.certificate.path }}
    - contents: {{ certificate['certificate'] | json }}
    - mode: '0644'
    - require:
      - file: postgres-tls

postgres-key:
  file.managed:
    - name: {{ tls }}/key.pem
    - contents: {{ certificate['private_key'] | json }}
    - group: postgres
    - mode: '0640'
    - show_changes: False
    - require:
      - file: postgres-tls

postgres-unit:
  file.managed:
    - name: /etc/systemd/system/patroni.service.d/stack.conf
    - source: salt://postgres/files/patroni.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        environment: {{ postgres.environment | json }}

# Without it, Patroni would include the file that initdb or Debian's scripts have left.
postgres-base-config:
  file.managed:
    - name: /etc/patroni/postgresql.conf
    - contents: '# Managed by salt/postgres. The settings are in config.yml.'
    - mode: '0644'
    - require:
      - pkg: postgres-patroni

postgres-config:
  file.managed:
    - name: /etc/patroni/config.yml
    - source: salt://postgres/files/patroni.yml.j2
    - template: jinja
    - group: postgres
    - mode: '0640'
    - show_changes: False
    - context:
        name: {{ grains['id'] | json }}
        name_host: {{ salt['etcd_member.host'](grains['id']) | json }}
        postgres: {{ postgres | json }}
        settings: {{ settings | json }}
        address: {{ salt['machines.own_address']() | json }}
        hosts: {{ salt['etcd_member.hosts']() | json }}
        members: {{ machines.values() | list | json }}
        clients: {{ salt['machines.addresses'](postgres.clients).values() | list | json }}
        monitors: {{ salt['machines.addresses']('monitor').values() | list | json }}
        users: {{ logins | json }}
        wal_seconds: {{ pillar['backups']['wal_seconds'] | json }}
        certificate: {{ server.certificate.path }}
        tls: {{ tls }}
        listener_ca: {{ listener_ca }}
        ports:
          etcd: {{ endpoints['etcd-client']['port'] }}
          patroni: {{ endpoints.patroni.port }}
          postgres: {{ endpoints.postgres.port }}
    - require:
      - file: postgres-base-config

postgres-unit-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

postgres-service:
  service.running:
    - name: {{ server.unit }}
    - enable: True
    - require:
      - etcd_member: etcd-voting
      - service: postgres-old-service
      - file: postgres-config
      - file: postgres-ca
      - file: postgres-listener-ca
      - file: postgres-certificate
      - file: postgres-key
      # A cluster begins from the newest backup.
      - cmd: postgres-backup-run-made
      - file: postgres-backup-config
      - file: postgres-backup-settings
      - file: postgres-backup-program
    - watch:
      - service_config: postgres-unit-loaded
      - file: postgres-unit

postgres-config-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

postgres-reload:
  service.running:
    - name: {{ server.unit }}
    - reload: True
    - require:
      - service: postgres-service
    - watch:
      - service_config: postgres-config-loaded
      - file: postgres-config
      - file: postgres-ca
      - file: postgres-certificate
      - file: postgres-key

postgres-old-listener-ca:
  file.tidied:
    - name: {{ tls }}
    - matches: ['ca-(?!{{ digest[:12] }})\w+\.pem$']
    - require:
      - service: postgres-reload

postgres-running:
  patroni.running:
    - name: {{ grains['id'] | json }}
    - require:
      - service: postgres-reload

postgres-shared-settings:
  patroni.configured:
    - name: {{ postgres.cluster.scope | json }}
    - settings: {{ settings | json }}
    - require:
      - patroni: postgres-running

# Salt hashes the passwords itself, so psql gets the SCRAM verifiers only.
{% for kind, users in logins.items() %}
{% for user in users %}
postgres-{{ kind }}{{ '' if loop.first else '-' ~ user.name }}:
  postgres_user.present:
    - name: {{ user.name | json }}
    - password: {{ user.password | json }}
    - encrypted: scram-sha-256
    - login: True
    - superuser: False
    - createdb: False
    - createroles: False
    - replication: {{ kind == 'replication' }}
    - inherit: False
    - user: postgres
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - patroni: postgres-shared-settings
{% endfor %}
{% endfor %}

# Whose turn it is not.
{% for name in salt['postgres_access.resting']() %}
postgres-resting-{{ name }}:
  postgres_access.resting:
    - name: {{ name | json }}
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - patroni: postgres-shared-settings
{% endfor %}

# Its owner is set below, together with all other privileges: the application would notice a moment
# between the two.
postgres-database:
  postgres_database.present:
    - name: {{ postgres.database | json }}
    - encoding: UTF8
    - template: template0
    - user: postgres
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - postgres_user: postgres-role
      - postgres_user: postgres-owner

# No client of the stack may connect to this database.
postgres-statistics:
  postgres_extension.present:
    - name: pg_stat_statements
    - maintenance_db: postgres
    - user: postgres
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - patroni: postgres-shared-settings

{% for user in logins.role %}
postgres-access{{ '' if loop.first else '-' ~ user.name }}:
  postgres_access.present:
    - name: {{ postgres.database | json }}
    - owner: {{ postgres.owner | json }}
    - role: {{ user.name | json }}
    - connections: {{ postgres.role_connections | json }}
    - settings: {{ postgres.role_settings | json }}
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - postgres_database: postgres-database
{% endfor %}

{% for user in logins.replication %}
postgres-rewind{{ '' if loop.first else '-' ~ user.name }}:
  postgres_access.rewinding:
    - name: {{ user.name | json }}
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - postgres_user: postgres-replication{{ '' if loop.first else '-' ~ user.name }}
{% endfor %}

{% for user in logins.metrics %}
postgres-monitoring:
  postgres_access.monitoring:
    - name: {{ user.name | json }}
    - connections: {{ postgres.metrics_connections | json }}
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - postgres_user: postgres-metrics
{% endfor %}

# Earlier releases set the privileges with this script.
postgres-old-access-script:
  file.absent:
    - name: /etc/postgresql/{{ postgres.version }}/main/access.sql
    - require:
      - postgres_access: postgres-access
