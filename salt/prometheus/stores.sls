# What Prometheus asks PostgreSQL and Redis for, by exporters on this machine: they log in to each
# server over TLS, with a role that reads counters alone. Watch: prometheus-postgres-service,
# prometheus-redis-service.
{% import_yaml 'prometheus/defaults.yaml' as defaults %}
{% set prometheus = salt['pillar.get']('prometheus', defaults.prometheus, merge=True) %}
{% set ca = pillar['roles']['monitor']['trusts'][0] %}
{% set scrape = pillar['secrets']['metrics-scrape']['password'] %}

{% for store, user, config, source, command in [
  ('postgres', pillar['postgres']['metrics'],
   '/etc/prometheus/postgres-exporter.yml', 'salt://prometheus/files/postgres-exporter.yml.j2', [
    '/usr/bin/prometheus-postgres-exporter',
    '--config.file=/etc/prometheus/postgres-exporter.yml',
    '--disable-settings-metrics',
    '--web.listen-address=127.0.0.1:%d' % prometheus.postgres_exporter.port,
    '--log.level=error',
  ]),
  ('redis', pillar['redis']['users']['metrics'],
   '/etc/prometheus/redis-exporter.env', 'salt://prometheus/files/redis-exporter.env.j2', [
    '/usr/bin/prometheus-redis-exporter',
    '-tls-ca-cert-file=' ~ ca,
    '-config-command=-',
    '-set-client-name=false',
    '-exclude-latency-histogram-metrics',
    '-web.listen-address=127.0.0.1:%d' % prometheus.redis_exporter.port,
  ]),
] %}
prometheus-{{ store }}-unit:
  file.managed:
    - name: /etc/systemd/system/prometheus-{{ store }}-exporter.service.d/stack.conf
    - source: salt://prometheus/files/service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        sizes: {{ prometheus[store ~ '_exporter'] | json }}
        config: {{ config }}
        environment: {{ config if config.endswith('.env') else '' }}
        folder: ''
        command: {{ command | json }}

prometheus-{{ store }}-package:
  pkg.installed:
    - name: prometheus-{{ store }}-exporter
    - install_recommends: False
    - require:
      - file: prometheus-{{ store }}-unit

prometheus-{{ store }}-config:
  file.managed:
    - name: {{ config }}
    - source: {{ source }}
    - template: jinja
    - makedirs: True
    - group: prometheus
    - mode: '0640'
    - show_changes: False
    - context:
        user: {{ user | json }}
        password: {{ scrape | json }}
        ca: {{ ca }}
    - require:
      - pkg: prometheus-{{ store }}-package

prometheus-{{ store }}-loaded:
  service_config.loaded:
    - name: prometheus-{{ store }}-exporter
    - require:
      - file: base-recorder

prometheus-{{ store }}-service:
  service.running:
    - name: prometheus-{{ store }}-exporter
    - enable: True
    - watch:
      - service_config: prometheus-{{ store }}-loaded
      - file: prometheus-{{ store }}-unit
      - file: prometheus-{{ store }}-config
      - file: prometheus-ca
{% endfor %}
