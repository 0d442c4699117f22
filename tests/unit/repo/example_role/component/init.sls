# Memcached answers at this machine's own address, over TLS only.
# Watch: cache-service.
{% import_yaml 'cache/defaults.yaml' as defaults %}
{% set tls = pillar['secrets']['cache-tls'] %}

cache-package:
  pkg.installed:
    - name: memcached
    - install_recommends: False

cache-tls:
  file.directory:
    - name: /etc/memcached/tls
    - makedirs: True
    - group: memcache
    - mode: '0750'
    - require:
      - pkg: cache-package

cache-certificate:
  file.managed:
    - name: /etc/memcached/tls/certificate.pem
    - contents: {{ tls['certificate'] | json }}
    - mode: '0644'
    - require:
      - file: cache-tls

cache-key:
  file.managed:
    - name: /etc/memcached/tls/key.pem
    - contents: {{ tls['private_key'] | json }}
    - group: memcache
    - mode: '0640'
    - show_changes: False
    - require:
      - file: cache-tls

cache-config:
  file.managed:
    - name: /etc/memcached.conf
    - source: salt://cache/files/memcached.conf.j2
    - template: jinja
    - mode: '0644'
    - context:
        megabytes: {{ defaults.cache.megabytes | json }}
        address: {{ salt['machines.own_address']() | json }}
        port: {{ pillar['endpoints']['cache']['port'] | json }}
    - require:
      - pkg: cache-package

cache-service:
  service.running:
    - name: memcached
    - enable: True
    - watch:
      - file: cache-certificate
      - file: cache-key
      - file: cache-config
