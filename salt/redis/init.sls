# Redis answers over TLS only, has one user with the commands of a broker and a counter, and keeps
# its data over a restart.
# Watch: redis-service.
{% import_yaml 'redis/defaults.yaml' as defaults %}
{% set redis = salt['pillar.get']('redis', defaults.redis, merge=True) %}
{% set secrets, server = pillar['secrets'], pillar['roles']['redis'] %}
{% set password = secrets['redis-airflow']['password'] %}
{% set tls = salt['file.dirname'](server.certificate.path) %}

redis-package:
  pkg.installed:
    - name: redis-server
    - install_recommends: False

redis-tls:
  file.directory:
    - name: {{ tls }}
    - group: redis
    - mode: '0750'
    - require:
      - pkg: redis-package

redis-ca:
  file.managed:
    - name: {{ tls }}/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - file: redis-tls

redis-certificate:
  file.managed:
    - name: {{ server.certificate.path }}
    - contents: {{ secrets['redis-tls']['certificate'] | json }}
    - mode: '0644'
    - require:
      - file: redis-tls

redis-key:
  file.managed:
    - name: {{ tls }}/key.pem
    - contents: {{ secrets['redis-tls']['private_key'] | json }}
    - group: redis
    - mode: '0640'
    - show_changes: False
    - require:
      - file: redis-tls

# Redis accepts the hash of a password in place of the password.
redis-users:
  file.managed:
    - name: /etc/redis/users.acl
    - source: salt://redis/files/users.acl.j2
    - template: jinja
    - group: redis
    - mode: '0640'
    - show_changes: False
    - context:
        user: {{ redis.user | json }}
        password_hash: {{ salt['hashutil.digest'](password, checksum='sha256') | json }}
        keys: {{ redis['keys'] | json }}
        channels: {{ redis.channels | json }}
    - require:
      - pkg: redis-package

redis-config:
  file.managed:
    - name: /etc/redis/redis.conf
    - source: salt://redis/files/redis.conf.j2
    - template: jinja
    - group: redis
    - mode: '0640'
    - context:
        redis: {{ redis | json }}
        address: {{ salt['machines.own_address']() | json }}
        port: {{ pillar['endpoints']['redis']['port'] | json }}
        certificate: {{ server.certificate.path }}
        tls: {{ tls }}
    - require:
      - pkg: redis-package

redis-unit:
  file.managed:
    - name: /etc/systemd/system/redis-server.service.d/stack.conf
    - source: salt://redis/files/redis-server.service.conf
    - makedirs: True
    - mode: '0644'

# Without overcommit, the fork fails when data fills half of the memory.
redis-overcommit:
  kernel.setting:
    - name: vm.overcommit_memory
    - value: 1

# Earlier releases set the value here.
redis-old-kernel:
  file.absent:
    - name: /etc/sysctl.d/60-redis.conf

# Earlier releases made snapshots.
redis-old-snapshot:
  file.absent:
    - name: /var/lib/redis/dump.rdb
    - require:
      - service: redis-service

redis-config-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

redis-service:
  service.running:
    - name: {{ server.unit }}
    - enable: True
    - watch:
      - service_config: redis-config-loaded
      - file: redis-ca
      - file: redis-certificate
      - file: redis-key
      - file: redis-users
      - file: redis-config
      - file: redis-unit
