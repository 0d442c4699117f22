# The site's certificate comes from the ACME CA of the settings, and is renewed; without such a CA,
# nothing of that is here. Until the CA has signed one, HAProxy has the certificate of the secret.
# Watch: site-certificate-timer.
{% set acme = pillar['settings'].get('acme') %}
{% set site = pillar['settings']['base_url'].partition('://')[2] %}
{% set config, kept = '/etc/site-certificate', '/var/lib/site-certificate' %}
{% set program = '/usr/local/lib/site_certificate.py' %}
{% set units = ['site-certificate.service', 'site-certificate.timer'] %}
{% if acme %}
include:
  - base

# openssl compares the chain with the CAs of ca-certificates, which haproxy.address installs.
site-certificate-package:
  pkg.installed:
    - name: lego
    - install_recommends: False
    - require:
      - file: base-package-proxy

site-certificate-program:
  file.managed:
    - name: {{ program }}
    - source: salt://haproxy/files/site_certificate.py
    - mode: '0644'

site-certificate-config-folder:
  file.directory:
    - name: {{ config }}
    - mode: '0700'

site-certificate-account:
  file.managed:
    - name: {{ config }}/account.key
    - contents_pillar: secrets:acme-account:private_key
    - mode: '0600'
    - show_changes: False
    - require:
      - file: site-certificate-config-folder

site-certificate-config:
  file.serialize:
    - name: {{ config }}/config.json
    - serializer: json
    - mode: '0644'
    - dataset:
        directory: {{ acme.directory | json }}
        email: {{ acme.email | json }}
        name: {{ (site.rpartition(':')[0] or site) | json }}
        port: {{ pillar['endpoints']['https']['port'] | json }}
        ca_certificate: {{ acme.get('ca_certificate', '') | json }}
    - require:
      - file: site-certificate-config-folder

# What is in it is the program's.
site-certificate-folder:
  file.directory:
    - name: {{ kept }}/live
    - makedirs: True
    - group: haproxy
    - dir_mode: '0750'
    - require:
      - pkg: haproxy-package
    - require_in:
      - file: haproxy-config
{% for unit in units %}

site-certificate-unit-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://haproxy/files/{{ unit }}
    - mode: '0644'
{% endfor %}

# It asks the CA at once when it starts, and HAProxy answers the challenge.
site-certificate-timer:
  service.running:
    - name: site-certificate.timer
    - enable: True
    - require:
      - pkg: site-certificate-package
      - file: site-certificate-program
      - file: site-certificate-folder
      - service: haproxy-reload
    - watch:
      - file: site-certificate-account
      - file: site-certificate-config
{% for unit in units %}
      - file: site-certificate-unit-{{ unit }}
{% endfor %}
{% else %}
{% if salt['file.file_exists']('/etc/systemd/system/site-certificate.timer') %}
site-certificate-timer:
  service.dead:
    - name: site-certificate.timer
    - enable: False
    - require_in:
      - pkg: site-certificate-package
{% for path in [config, program, kept] %}
      - file: site-certificate-absent-{{ loop.index }}
{% endfor %}
{% for unit in units %}
      - file: site-certificate-unit-{{ unit }}
{% endfor %}
{% endif %}
{% for path in [config, program, kept] %}

site-certificate-absent-{{ loop.index }}:
  file.absent:
    - name: {{ path }}
    - require:
      - service: haproxy-reload
{% endfor %}
{% for unit in units %}

site-certificate-unit-{{ unit }}:
  file.absent:
    - name: /etc/systemd/system/{{ unit }}
{% endfor %}

site-certificate-package:
  pkg.purged:
    - name: lego
{% endif %}
