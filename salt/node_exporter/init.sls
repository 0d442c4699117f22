# Where the map has a monitor machine, this machine tells it alone how it is: over TLS, to who knows
# the password. Elsewhere nothing of that is left. Watch: node-exporter-service.
{% import_yaml 'node_exporter/defaults.yaml' as defaults %}
{% set exporter = salt['pillar.get']('node_exporter', defaults.node_exporter, merge=True) %}
{% set unit = '/etc/systemd/system/prometheus-node-exporter.service.d' %}
{% set facts = '/var/lib/prometheus/node-exporter' %}
{% set config = '/etc/node-exporter/web.yml' %}
{% set certificate = pillar['roles']['monitor']['certificate'] %}

{% if salt['machines.addresses']('monitor') %}
{% set tls = pillar['secrets'][certificate.secret] %}
{% set scrape = pillar['secrets']['metrics-scrape']['password'] %}
node-exporter-unit:
  file.managed:
    - name: {{ unit }}/stack.conf
    - source: salt://node_exporter/files/node-exporter.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        exporter: {{ exporter | json }}
        address: {{ salt['machines.own_address']() | json }}
        port: {{ pillar['endpoints']['metrics-node']['port'] | json }}
        config: {{ config }}
        facts: {{ facts }}

node-exporter-package:
  pkg.installed:
    - name: prometheus-node-exporter
    - install_recommends: False
    - require:
      - file: base-package-proxy
      - file: node-exporter-unit

node-exporter-folder:
  file.directory:
    - name: /etc/node-exporter
    - group: prometheus
    - mode: '0750'
    - require:
      - pkg: node-exporter-package

node-exporter-certificate:
  file.managed:
    - name: {{ certificate.path }}
    - contents: {{ (tls['certificate'] | trim ~ '\n' ~ tls['private_key']) | json }}
    - group: prometheus
    - mode: '0640'
    - show_changes: False
    - require:
      - file: node-exporter-folder

node-exporter-config:
  file.managed:
    - name: {{ config }}
    - source: salt://node_exporter/files/web.yml.j2
    - template: jinja
    - group: prometheus
    - mode: '0640'
    - show_changes: False
    - context:
        certificate: {{ certificate.path }}
        user: {{ exporter.user | json }}
        verifier: {{ salt['metrics.verifier'](scrape) | json }}
    - require:
      - file: node-exporter-certificate

node-exporter-loaded:
  service_config.loaded:
    - name: prometheus-node-exporter
    - require:
      - file: base-recorder

node-exporter-service:
  service.running:
    - name: prometheus-node-exporter
    - enable: True
    - require:
      - file: node-exporter-config
    - watch:
      - service_config: node-exporter-loaded
      - file: node-exporter-unit
# So often that what they tell is an alert within 90 seconds. The minion takes 1.7 % of a core then,
# of the 10 % that a t2.micro has in the long run.
node-exporter-facts:
  schedule.present:
    - function: metrics.write
    - seconds: 40
    - maxrunning: 1
    - return_job: False
    - require:
      - pkg: node-exporter-package
{% else %}
node-exporter-facts:
  schedule.absent: []

node-exporter-package:
  pkg.purged:
    - name: prometheus-node-exporter

{% for kind, path in [('unit', unit), ('folder', '/etc/node-exporter'), ('metrics', facts)] %}
node-exporter-{{ kind }}:
  file.absent:
    - name: {{ path }}
    - require:
      - pkg: node-exporter-package
{% endfor %}
{% endif %}
