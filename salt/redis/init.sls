# Redis answers over TLS only, has one user with the commands of a broker and a counter, and keeps
# its data over a restart. It follows the master of all its machines, whom Sentinel watches.
# Watch: redis-service, redis-sentinel-service.
{% import_yaml 'redis/defaults.yaml' as defaults %}
{% set redis = salt['pillar.get']('redis', defaults.redis, merge=True) %}
{% set secrets, server = pillar['secrets'], pillar['roles']['redis'] %}
{% set users = redis.users %}
{% set passwords = {} %}
{% for use, secret in {
  'airflow': 'redis-airflow',
  'replication': 'redis-replication',
  'sentinel': 'redis-sentinel',
  'check': 'redis-check',
  'metrics': 'metrics-scrape',
}.items() %}
{% set fields, found = secrets[secret], [] %}
{% for field in ['password', 'previous_password', 'next_password'] if field in fields %}
{% do found.append('#' ~ salt['hashutil.digest'](fields[field], checksum='sha256')) %}
{% endfor %}
{% do passwords.update({use: found | join(' ')}) %}
{% endfor %}
{% set tls = salt['file.dirname'](server.certificate.path) %}
{% set address = salt['machines.own_address']() %}
{% set endpoints = pillar['endpoints'] %}

# Before the packages, which would start both with configurations of their own.
redis-unit:
  file.managed:
    - name: /etc/systemd/system/redis-server.service.d/stack.conf
    - source: salt://redis/files/redis-server.service.conf
    - makedirs: True
    - mode: '0644'

redis-sentinel-unit:
  file.managed:
    - name: /etc/systemd/system/redis-sentinel.service.d/stack.conf
    - source: salt://redis/files/redis-sentinel.service.conf
    - makedirs: True
    - mode: '0644'

redis-package:
  pkg.installed:
    - pkgs:
      - redis-server
      - redis-sentinel
    - install_recommends: False
    - require:
      - file: redis-unit
      - file: redis-sentinel-unit

# Redis and Sentinel read here. What they would write here is Salt's.
redis-folder:
  file.directory:
    - name: /etc/redis
    - user: root
    - group: redis
    - mode: '0750'
    - require:
      - pkg: redis-package

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

# Redis accepts the hash of a password in place of the password, and several of one user: while a
# password is rotated (packages/stackctl/src/stackctl/password_rotation.py).
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
        users: {{ users | json }}
        passwords: {{ passwords | json }}
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
    - show_changes: False
    - context:
        redis: {{ redis | json }}
        address: {{ address | json }}
        port: {{ endpoints.redis.port | json }}
        replication:
          user: {{ users.replication | json }}
          password: {{ secrets['redis-replication']['password'] | json }}
        certificate: {{ server.certificate.path }}
        tls: {{ tls }}
    - require:
      - pkg: redis-package

# A change here restarts Sentinel alone: Redis asks anew at its next start.
redis-role:
  file.serialize:
    - name: /etc/redis/role.json
    - serializer: json
    - group: redis
    - mode: '0640'
    - show_changes: False
    - dataset:
        own: {{ address | json }}
        machines: {{ salt['machines.addresses']('redis') | json }}
        port: {{ endpoints.redis.port | json }}
        sentinel_port: {{ endpoints['redis-sentinel'].port | json }}
        user: {{ users.sentinel | json }}
        password: {{ secrets['redis-sentinel']['password'] | json }}
        ca: {{ tls }}/ca.pem
        name: {{ salt['role.service_name']('redis') | json }}
    - require:
      - pkg: redis-package

redis-role-program:
  file.managed:
    - name: /usr/local/lib/stack/redis_role.py
    - source: salt://redis/files/redis_role.py
    - makedirs: True
    - mode: '0644'

redis-sentinel-users:
  file.managed:
    - name: /etc/redis/sentinel.acl
    - source: salt://redis/files/sentinel.acl.j2
    - template: jinja
    - group: redis
    - mode: '0640'
    - show_changes: False
    - context:
        user: {{ users.sentinel | json }}
        passwords: {{ passwords.sentinel | json }}
    - require:
      - pkg: redis-package

redis-sentinel-config:
  file.managed:
    - name: /etc/redis/sentinel.conf
    - source: salt://redis/files/sentinel.conf.j2
    - template: jinja
    - group: redis
    - mode: '0640'
    - show_changes: False
    - context:
        redis: {{ redis | json }}
        address: {{ address | json }}
        port: {{ endpoints['redis-sentinel'].port | json }}
        certificate: {{ server.certificate.path }}
        tls: {{ tls }}
        user: {{ users.sentinel | json }}
        password: {{ secrets['redis-sentinel']['password'] | json }}
        master: redis
    - require:
      - pkg: redis-package

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

# Says why, where Redis would not start.
redis-decided:
  redis_role.decided:
    - name: redis
    - seconds: {{ redis.wait_seconds }}
    - require:
      - file: redis-role
      - file: redis-role-program
      - file: redis-ca

redis-service:
  service.running:
    - name: {{ server.unit }}
    - enable: True
    - require:
      - redis_role: redis-decided
      - file: redis-folder
    - watch:
      - service_config: redis-config-loaded
      - file: redis-ca
      - file: redis-certificate
      - file: redis-key
      - file: redis-users
      - file: redis-config
      - file: redis-unit

redis-sentinel-config-loaded:
  service_config.loaded:
    - name: redis-sentinel

redis-sentinel-service:
  service.running:
    - name: redis-sentinel
    - enable: True
    - require:
      - service: redis-service
    - watch:
      - service_config: redis-sentinel-config-loaded
      - file: redis-ca
      - file: redis-certificate
      - file: redis-key
      - file: redis-role
      - file: redis-sentinel-users
      - file: redis-sentinel-config
      - file: redis-sentinel-unit
