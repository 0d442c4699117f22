# HAProxy leads this machine's programs, under the names of the stores, to whichever machine of a
# store takes writes. Watch: stores-reload.
{% import_yaml 'stores/defaults.yaml' as defaults %}
{% set stores = salt['pillar.get']('stores', defaults.stores, merge=True) %}
{% set endpoints = pillar['endpoints'] %}
{% set check = pillar['secrets']['redis-check']['password'] %}

include:
  - base

stores-package:
  pkg.installed:
    - aggregate: True
    - install_recommends: False
    - pkgs:
      - haproxy
    - require:
      - file: base-package-proxy

stores-ca:
  file.managed:
    - name: /etc/haproxy/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - pkg: stores-package

stores-config:
  file.managed:
    - name: /etc/haproxy/haproxy.cfg
    - source: salt://stores/files/haproxy.cfg.j2
    - template: jinja
    - group: haproxy
    - mode: '0640'
    - show_changes: False
    - check_cmd: /usr/sbin/haproxy -c -q -f
    - tmp_dir: /etc/haproxy
    - context:
        stores: {{ stores | json }}
        ca: /etc/haproxy/ca.pem
        postgres:
          port: {{ endpoints.postgres.port | json }}
          patroni: {{ endpoints.patroni.port | json }}
          host: {{ salt['role.service_name']('postgres') | json }}
          machines: {{ salt['machines.serving']('postgres') | json }}
        redis:
          port: {{ endpoints.redis.port | json }}
          machines: {{ salt['machines.serving']('redis') | json }}
          host: {{ salt['role.service_name']('redis') | json }}
          user: {{ pillar['redis']['users']['check'] | json }}
          password: {{ check | json }}
    - require:
      - file: stores-ca

stores-unit:
  file.managed:
    - name: /etc/systemd/system/haproxy.service.d/stack.conf
    - source: salt://stores/files/haproxy.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        memory_megabytes: {{ stores.memory_megabytes | json }}

stores-unit-loaded:
  service_config.loaded:
    - name: haproxy

stores-service:
  service.running:
    - name: haproxy
    - enable: True
    - require:
      - file: stores-config
    - watch:
      - service_config: stores-unit-loaded
      - file: stores-unit

stores-config-loaded:
  service_config.loaded:
    - name: haproxy

stores-reload:
  service.running:
    - name: haproxy
    - reload: True
    - require:
      - service: stores-service
    - watch:
      - service_config: stores-config-loaded
      - file: stores-config
      - file: stores-ca

# From then on the stores' names lead here; before, they led to their machines, and went on so until
# HAProxy runs.
extend:
  base-hosts:
    file:
      - require:
        - service: stores-reload
