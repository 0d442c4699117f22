# Alertmanager tells people what Prometheus' rules find: once for each cause, at the address in the
# deployment's settings. Watch: prometheus-alerts-reload.
{% import_yaml 'prometheus/defaults.yaml' as defaults %}
{% set prometheus = salt['pillar.get']('prometheus', defaults.prometheus, merge=True) %}
{% set sizes = prometheus.alertmanager %}
{% set url = 'http://127.0.0.1:%d' % sizes.port %}

prometheus-alerts-unit:
  file.managed:
    - name: /etc/systemd/system/prometheus-alertmanager.service.d/stack.conf
    - source: salt://prometheus/files/service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        sizes: {{ sizes | json }}
        config: /etc/prometheus/alerts.yml
        environment: ''
        folder: /var/lib/prometheus/alertmanager
        command:
          - /usr/bin/prometheus-alertmanager
          - --config.file=/etc/prometheus/alerts.yml
          - --storage.path=/var/lib/prometheus/alertmanager
          # A cluster of one needs no port.
          - --cluster.listen-address=
          - --web.listen-address=127.0.0.1:{{ sizes.port }}
          - --log.level=warn

prometheus-alerts-package:
  pkg.installed:
    - name: prometheus-alertmanager
    - install_recommends: False
    - require:
      - file: prometheus-alerts-unit

prometheus-alerts-config:
  file.managed:
    - name: /etc/prometheus/alerts.yml
    - source: salt://prometheus/files/alertmanager.yml.j2
    - template: jinja
    - group: prometheus
    - mode: '0640'
    - check_cmd: amtool check-config
    - tmp_dir: /etc/prometheus
    - context:
        sizes: {{ sizes | json }}
        alerts: {{ (pillar['settings'].get('alerts') or {}) | json }}
        proxy: {{ salt['machines.package_proxy']() | json }}
    - require:
      - pkg: prometheus-alerts-package

# For `amtool alert` and `amtool silence`: docs/runbooks.md.
prometheus-alerts-command:
  file.serialize:
    - name: /etc/amtool/config.yml
    - serializer: yaml
    - makedirs: True
    - mode: '0644'
    - dataset:
        alertmanager.url: {{ url }}
        comment_required: true

prometheus-alerts-unit-loaded:
  service_config.loaded:
    - name: prometheus-alertmanager
    - require:
      - file: base-recorder

prometheus-alerts-service:
  service.running:
    - name: prometheus-alertmanager
    - enable: True
    - require:
      - file: prometheus-alerts-config
    - watch:
      - service_config: prometheus-alerts-unit-loaded
      - file: prometheus-alerts-unit

prometheus-alerts-config-loaded:
  service_config.loaded:
    - name: prometheus-alertmanager
    - require:
      - file: base-recorder

prometheus-alerts-reload:
  service.running:
    - name: prometheus-alertmanager
    - reload: True
    - require:
      - service: prometheus-alerts-service
    - watch:
      - service_config: prometheus-alerts-config-loaded
      - file: prometheus-alerts-config
