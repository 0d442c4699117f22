# pgBackRest archives the write-ahead log, makes backups and restores them. Patroni begins a cluster
# from the newest backup, where there is one. Watch: postgres-stanza, postgres-backup.
{% import_yaml 'postgres/defaults.yaml' as defaults %}
{% set postgres = salt['pillar.get']('postgres', defaults.postgres, merge=True) %}
{% set backups, settings = pillar['backups'], pillar['settings'] %}
{% set server, endpoints = pillar['roles']['postgres'], pillar['endpoints'] %}
{% set tls = salt['file.dirname'](server.certificate.path) %}
{% set in_bucket = backups.repository == 's3' %}
{% set data_dir = '/var/lib/postgresql/' ~ postgres.version ~ '/main' %}
{% set s3_certificate = '/etc/pgbackrest/s3.pem' %}

postgres-backup-package:
  pkg.installed:
    - name: pgbackrest
    - install_recommends: False
    - require:
      - pkg: postgres-package

postgres-backup-run:
  file.managed:
    - name: /etc/tmpfiles.d/pgbackrest.conf
    - contents: |
        # Managed by salt/postgres.
        d /run/pgbackrest 0750 postgres postgres
    - mode: '0644'
    - require:
      - pkg: postgres-backup-package

postgres-backup-run-made:
  cmd.run:
    - name: systemd-tmpfiles --create /etc/tmpfiles.d/pgbackrest.conf
    - unless: test -d /run/pgbackrest
    - require:
      - file: postgres-backup-run

postgres-backup-folder:
  file.directory:
    - name: /etc/pgbackrest
    - group: postgres
    - mode: '0750'
    - require:
      - pkg: postgres-backup-package
{% if settings.s3 is defined %}

postgres-backup-s3-certificate:
  file.managed:
    - name: {{ s3_certificate }}
    - contents_pillar: settings:s3:certificate
    - mode: '0644'
    - require:
      - file: postgres-backup-folder
    - require_in:
      - file: postgres-backup-config
{% endif %}

postgres-backup-config:
  file.managed:
    - name: /etc/pgbackrest/pgbackrest.conf
    - source: salt://postgres/files/pgbackrest.conf.j2
    - template: jinja
    - group: postgres
    - mode: '0640'
    - show_changes: False
    - context:
        backups: {{ backups | json }}
        path: {{ '/postgres' if in_bucket else '/var/lib/pgbackrest' }}
        bucket: {{ (salt['pgbackrest.bucket']() if in_bucket else '') | json }}
        region: {{ pillar['aws']['region'] | json }}
        s3: {{ settings.get('s3', {}) | json }}
        s3_certificate: {{ s3_certificate }}
        password: {{ pillar['secrets']['postgres-backup']['password'] | json }}
        address: {{ salt['machines.own_address']() | json }}
        port: {{ endpoints.pgbackrest.port | json }}
        tls: {{ tls }}
        common_name: postgres
        stanza: stack
        data_dir: {{ data_dir }}
    - require:
      - file: postgres-backup-folder

# pgBackRest has no setting for the least version of TLS.
postgres-backup-tls:
  file.managed:
    - name: /etc/pgbackrest/openssl.cnf
    - source: salt://postgres/files/pgbackrest-openssl.cnf
    - mode: '0644'
    - require:
      - file: postgres-backup-folder

postgres-backup-settings:
  file.serialize:
    - name: /etc/pgbackrest/stack.json
    - serializer: json
    - group: postgres
    - mode: '0640'
    - dataset:
        own: {{ grains['id'] | json }}
        domain: {{ pillar['domain'] | json }}
        patroni_port: {{ endpoints.patroni.port | json }}
        server_port: {{ endpoints.pgbackrest.port | json }}
        tls: {{ tls }}
        data_dir: {{ data_dir }}
        bin_dir: /usr/lib/postgresql/{{ postgres.version }}/bin
        hours: {{ backups.hours | json }}
        full_days: {{ backups.full_days | json }}
        database: {{ postgres.database | json }}
        tables: {{ backups.tables | json }}
        settings: {{ postgres.cluster.settings.postgresql.parameters | json }}
    - require:
      - file: postgres-backup-folder

postgres-backup-program:
  file.managed:
    - name: /usr/local/lib/stack/backups.py
    - source: salt://postgres/files/backups.py
    - makedirs: True
    - mode: '0644'
{% set units = ['postgres-backup.service', 'postgres-backup.timer', 'postgres-drill.service',
                'postgres-drill.timer', 'postgres-aside.service', 'pgbackrest.service'] %}
{% for unit in units %}

postgres-unit-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://postgres/files/{{ unit }}
    - mode: '0644'
    - require:
      - pkg: postgres-backup-package
{% endfor %}

# The replica that makes a backup asks the other servers by it.
postgres-backup-server-loaded:
  service_config.loaded:
    - name: pgbackrest

postgres-backup-server:
  service.running:
    - name: pgbackrest
    - enable: True
    - require:
      - file: postgres-certificate
      - file: postgres-key
    - watch:
      - service_config: postgres-backup-server-loaded
      - file: postgres-unit-pgbackrest.service
      - file: postgres-backup-config
      - file: postgres-backup-tls
      - file: postgres-ca
      - file: postgres-certificate
      - file: postgres-key

postgres-stanza:
  pgbackrest.stanza:
    - name: stack
    - onlyif:
      - fun: patroni.is_primary
    - require:
      - patroni: postgres-shared-settings
      - file: postgres-backup-config
{% for timer, after in [('postgres-backup', 'pgbackrest: postgres-stanza'),
                        ('postgres-drill', 'file: postgres-backup-program')] %}

{{ timer }}:
  service.running:
    - name: {{ timer }}.timer
    - enable: True
    - require:
      - {{ after }}
    - watch:
      - file: postgres-unit-{{ timer }}.service
      - file: postgres-unit-{{ timer }}.timer
{% endfor %}
