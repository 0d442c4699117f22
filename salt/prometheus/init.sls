# Prometheus asks every machine of the map for its metrics and keeps them for a month. It is reached
# from this machine alone. Watch: prometheus-reload.
{% import_yaml 'prometheus/defaults.yaml' as defaults %}
{% import_yaml 'node_exporter/defaults.yaml' as exporter %}
{% set prometheus = salt['pillar.get']('prometheus', defaults.prometheus, merge=True) %}
{% set endpoints, server = pillar['endpoints'], pillar['roles']['monitor'] %}
{% set ca = server.trusts[0] %}
{% set scrape = pillar['secrets']['metrics-scrape']['password'] %}

include:
  - prometheus.alerts
  - prometheus.stores

prometheus-unit:
  file.managed:
    - name: /etc/systemd/system/prometheus.service.d/stack.conf
    - source: salt://prometheus/files/service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        sizes: {{ prometheus | json }}
        config: /etc/prometheus/stack.yml
        environment: ''
        folder: /var/lib/prometheus/metrics2
        command:
          - /usr/bin/prometheus
          - --config.file=/etc/prometheus/stack.yml
          - --storage.tsdb.path=/var/lib/prometheus/metrics2
          - --storage.tsdb.retention.time={{ prometheus.retention_days }}d
          - --storage.tsdb.retention.size={{ prometheus.retention_gigabytes }}GB
          - --storage.tsdb.wal-compression
          - --web.listen-address=127.0.0.1:{{ prometheus.port }}
          - --log.level=warn

prometheus-package:
  pkg.installed:
    - name: prometheus
    - install_recommends: False
    - require:
      - file: prometheus-unit

prometheus-ca:
  file.managed:
    - name: {{ ca }}
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - pkg: prometheus-package

prometheus-password:
  file.managed:
    - name: /etc/prometheus/scrape.password
    - contents: {{ scrape | json }}
    - contents_newline: False
    - group: prometheus
    - mode: '0640'
    - show_changes: False
    - require:
      - pkg: prometheus-package

{% set rules = ['machines', 'site', 'stores'] %}
{% for area in rules %}
prometheus-rules-{{ area }}:
  file.managed:
    - name: /etc/prometheus/rules/{{ area }}.yml
    - source: salt://prometheus/files/rules/{{ area }}.yml
    - makedirs: True
    - mode: '0644'
    - check_cmd: promtool check rules
    - tmp_dir: /etc/prometheus
    - require:
      - pkg: prometheus-package
{% endfor %}

prometheus-config:
  file.managed:
    - name: /etc/prometheus/stack.yml
    - source: salt://prometheus/files/prometheus.yml.j2
    - template: jinja
    - mode: '0644'
    - check_cmd: promtool check config
    - tmp_dir: /etc/prometheus
    - context:
        prometheus: {{ prometheus | json }}
        own: {{ {'id': grains['id'], 'role': salt['role.own']()} | json }}
        targets: {{ salt['metrics.targets']() | json }}
        ca: {{ ca }}
        name: {{ salt['role.service_name']('monitor') | json }}
        user: {{ exporter.node_exporter.user | json }}
        password_file: /etc/prometheus/scrape.password
        ports:
          node: {{ endpoints['metrics-node']['port'] }}
          haproxy: {{ endpoints['metrics-haproxy']['port'] }}
          patroni: {{ endpoints['patroni']['port'] }}
          postgres: {{ endpoints['postgres']['port'] }}
          redis: {{ endpoints['redis']['port'] }}
    - require:
      - file: prometheus-ca
      - file: prometheus-password
{%- for area in rules %}
      - file: prometheus-rules-{{ area }}
{%- endfor %}

prometheus-unit-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

prometheus-service:
  service.running:
    - name: {{ server.unit }}
    - enable: True
    - require:
      - file: prometheus-config
    - watch:
      - service_config: prometheus-unit-loaded
      - file: prometheus-unit

prometheus-config-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

prometheus-reload:
  service.running:
    - name: {{ server.unit }}
    - reload: True
    - require:
      - service: prometheus-service
    - watch:
      - service_config: prometheus-config-loaded
      - file: prometheus-config
      - file: prometheus-ca
      - file: prometheus-password
{%- for area in rules %}
      - file: prometheus-rules-{{ area }}
{%- endfor %}
