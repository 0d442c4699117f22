# The logs of all machines, in journals of bounded size, from who has a certificate for sending.
# Debian's receiver is built without a check of clients, so HAProxy is in front of it. Watch:
# journal-remote-service, journal-remote-reload.
{% import_yaml 'journal_remote/defaults.yaml' as defaults %}
{% set logs = salt['pillar.get']('journal_remote', defaults.journal_remote, merge=True) %}
{% set port = pillar['endpoints']['logs']['port'] %}
{% set table = pillar['roles']['monitor'] %}
{% set receiver = table.receiver %}
{% set tls = pillar['secrets'][receiver.secret] %}

include:
  - base

journal-remote-unit:
  file.managed:
    - name: /etc/systemd/system/systemd-journal-remote.service
    - source: salt://journal_remote/files/journal-remote.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        logs: {{ logs | json }}
        port: {{ port | json }}

journal-remote-package:
  pkg.installed:
    - name: systemd-journal-remote
    - install_recommends: False
    - require:
      - file: base-package-proxy
      - file: journal-remote-unit

journal-remote-config:
  file.managed:
    - name: /etc/systemd/journal-remote.conf.d/stack.conf
    - source: salt://journal_remote/files/journal-remote.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        logs: {{ logs | json }}

journal-remote-loaded:
  service_config.loaded:
    - name: systemd-journal-remote
    - require:
      - file: base-recorder

journal-remote-service:
  service.running:
    - name: systemd-journal-remote
    - enable: True
    - require:
      - pkg: journal-remote-package
    - watch:
      - service_config: journal-remote-loaded
      - file: journal-remote-unit
      - file: journal-remote-config

journal-remote-proxy:
  pkg.installed:
    - name: haproxy
    - install_recommends: False
    - require:
      - file: base-package-proxy

journal-remote-ca:
  file.managed:
    - name: /etc/haproxy/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - pkg: journal-remote-proxy

journal-remote-certificate:
  file.managed:
    - name: {{ receiver.path }}
    - contents: {{ (tls['certificate'] | trim ~ '\n' ~ tls['private_key']) | json }}
    - group: haproxy
    - mode: '0640'
    - show_changes: False
    - require:
      - pkg: journal-remote-proxy

journal-remote-proxy-config:
  file.managed:
    - name: /etc/haproxy/haproxy.cfg
    - source: salt://journal_remote/files/haproxy.cfg.j2
    - template: jinja
    - mode: '0644'
    - check_cmd: /usr/sbin/haproxy -c -q -f
    - tmp_dir: /etc/haproxy
    - context:
        logs: {{ logs | json }}
        address: {{ salt['machines.own_address']() | json }}
        port: {{ port | json }}
        certificate: {{ receiver.path }}
        ca: /etc/haproxy/ca.pem
        sender: {{ table.senders.name | json }}
        machines: {{ salt['machines.addresses']() | json }}
    - require:
      - file: journal-remote-ca
      - file: journal-remote-certificate

# What leads to the stores on a web machine is bounded and hardened in the same way.
journal-remote-proxy-unit:
  file.managed:
    - name: /etc/systemd/system/haproxy.service.d/stack.conf
    - source: salt://stores/files/haproxy.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        memory_megabytes: {{ logs.proxy_megabytes | json }}

journal-remote-proxy-loaded:
  service_config.loaded:
    - name: haproxy
    - require:
      - file: base-recorder

journal-remote-proxy-service:
  service.running:
    - name: haproxy
    - enable: True
    - require:
      - file: journal-remote-proxy-config
      - service: journal-remote-service
    - watch:
      - service_config: journal-remote-proxy-loaded
      - file: journal-remote-proxy-unit

journal-remote-proxy-config-loaded:
  service_config.loaded:
    - name: haproxy

journal-remote-reload:
  service.running:
    - name: haproxy
    - reload: True
    - require:
      - service: journal-remote-proxy-service
    - watch:
      - service_config: journal-remote-proxy-config-loaded
      - file: journal-remote-proxy-config
      - file: journal-remote-ca
      - file: journal-remote-certificate
