# HAProxy answers HTTPS for all web machines, asks them over TLS under a certificate that only load
# balancers have, and redirects HTTP to HTTPS. It is reloaded, never restarted, when they change.
# The web machines come from pillar `addresses`. A certificate of an ACME CA comes first, when there
# is one (haproxy.certificate). Watch: haproxy-reload.
{% import_yaml 'haproxy/defaults.yaml' as defaults %}
{% import_yaml 'haproxy/pages.yaml' as answers %}
{% import_yaml 'airflow/defaults.yaml' as app %}
{% import_yaml 'nginx/constant.yaml' as nginx %}
{% import_yaml 'node_exporter/defaults.yaml' as exporter %}
{% set haproxy = salt['pillar.get']('haproxy', defaults.haproxy, merge=True) %}
{% set server = pillar['roles']['lb'] %}
{% set airflow = salt['pillar.get']('airflow', app.airflow, merge=True) %}
{% set site = pillar['settings']['base_url'].partition('://')[2] %}
{% set hsts = {'Strict-Transport-Security': 'max-age=%d' % haproxy.hsts_seconds} %}
{% set headers = dict(haproxy.headers, **hsts) %}
{% set tls = pillar['secrets']['edge-tls'] %}
{% set client = pillar['secrets'][server.client.secret] %}
{% set acme = pillar['settings'].get('acme') %}
{% set live = ['/var/lib/site-certificate/live'] if acme else [] %}
{% set monitors = salt['machines.addresses']('monitor') %}
{% set scrape = pillar['secrets']['metrics-scrape']['password'] %}
{% set account = pillar['secrets']['acme-account']['private_key'] %}

include:
  - haproxy.address
  - haproxy.certificate
  - haproxy.conntrack

# The program of the site's address runs in the group of HAProxy's user.
haproxy-package:
  pkg.installed:
    - name: haproxy
    - require_in:
      - service: site-address-service

# check_cmd refuses a key that does not belong to the certificate, as it refuses a configuration
# that HAProxy does not accept.
haproxy-certificate:
  file.managed:
    - name: {{ server.certificate.path }}
    - contents: {{ (tls['certificate'] | trim ~ '\n' ~ tls['private_key']) | json }}
    - group: haproxy
    - mode: '0640'
    - show_changes: False
    - check_cmd: &matching >-
        /opt/salt/bin/python -c 'import ssl, sys;
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(sys.argv[1])'
    - require:
      - pkg: haproxy-package

# With it, HAProxy proves itself to the web machines.
haproxy-client:
  file.managed:
    - name: {{ server.client.path }}
    - contents: {{ (client['certificate'] | trim ~ '\n' ~ client['private_key']) | json }}
    - group: haproxy
    - mode: '0640'
    - show_changes: False
    - check_cmd: *matching
    - require:
      - pkg: haproxy-package

# The web machines' certificates are signed by one of these.
haproxy-ca:
  file.managed:
    - name: /etc/haproxy/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - pkg: haproxy-package

{% if monitors %}
{% set metrics = pillar['secrets']['metrics-tls'] %}
haproxy-metrics:
  file.managed:
    - name: {{ pillar['roles']['monitor']['certificate']['everywhere']['lb'][0] }}
    - contents: {{ (metrics['certificate'] | trim ~ '\n' ~ metrics['private_key']) | json }}
    - group: haproxy
    - mode: '0640'
    - show_changes: False
    - check_cmd: *matching
    - require:
      - pkg: haproxy-package
    - require_in:
      - file: haproxy-config
    - watch_in:
      - service: haproxy-reload
{% endif %}

# Each as a page for people, and as JSON for programs.
{% for status, page in answers.pages.items() %}
{% for id, suffix, source in [
  ('', '', 'salt://haproxy/files/page.http.j2'),
  ('-json', '.json', 'salt://haproxy/files/page.json.http.j2'),
] %}
haproxy-page-{{ status }}{{ id }}:
  file.managed:
    - name: /etc/haproxy/errors/{{ status }}{{ suffix }}.http
    - source: {{ source }}
    - template: jinja
    - mode: '0644'
    - context:
        status: {{ page.get('status', status) }}
        page: {{ page | json }}
        headers: {{ headers | json }}
    - require:
      - pkg: haproxy-package
    - require_in:
      - file: haproxy-config
    - watch_in:
      - service: haproxy-reload
{% endfor %}
{% endfor %}

haproxy-pace:
  file.managed:
    - name: /etc/haproxy/pace.lua
    - source: salt://haproxy/files/pace.lua
    - mode: '0644'
    - require:
      - pkg: haproxy-package
    - require_in:
      - file: haproxy-config
    - watch_in:
      - service: haproxy-reload

haproxy-config:
  file.managed:
    - name: /etc/haproxy/haproxy.cfg
    - source: salt://haproxy/files/haproxy.cfg.j2
    - template: jinja
    - mode: '0644'
    - check_cmd: /usr/sbin/haproxy -c -q -f
    - tmp_dir: /etc/haproxy
    - context:
        haproxy: {{ haproxy | json }}
        base_url: {{ pillar['settings']['base_url'] | json }}
        netloc: {{ site | json }}
        host: {{ (site.rpartition(':')[0] or site) | json }}
        pages: {{ answers.pages.keys() | list | json }}
        headers: {{ headers | json }}
        constant: {{ nginx.constant | json }}
        slots: {{ airflow.workers * airflow.requests_per_worker * airflow.slots_per_request }}
        certificates: {{ (live + [server.certificate.path]) | json }}
        thumbprint: {{ (salt['site_certificate.thumbprint'](account) if acme else '') | json }}
        client: {{ server.client.path }}
        ca: /etc/haproxy/ca.pem
        name: {{ salt['role.certificate_name']('web') | json }}
        web: {{ salt['machines.addresses']('web') | json }}
        check: {{ pillar['roles']['web']['check'] | json }}
        metrics: {{ ({
          'address': salt['machines.own_address'](),
          'port': pillar['endpoints']['metrics-haproxy']['port'],
          'certificate': pillar['roles']['monitor']['certificate']['everywhere']['lb'][0],
          'user': exporter.node_exporter.user,
          'verifier': salt['metrics.verifier'](scrape),
        } if monitors else {}) | json }}
        ports:
          http: {{ pillar['endpoints']['http']['port'] | json }}
          https: {{ pillar['endpoints']['https']['port'] | json }}
          airflow: {{ pillar['endpoints']['airflow']['port'] | json }}
    - require:
      - file: haproxy-ca
      - file: haproxy-certificate
      - file: haproxy-client

# Of earlier releases.
haproxy-old-page:
  file.absent:
    - name: /etc/haproxy/errors/unavailable.http
    - require:
      - file: haproxy-config

haproxy-unit:
  file.managed:
    - name: /etc/systemd/system/haproxy.service.d/stack.conf
    - source: salt://haproxy/files/haproxy.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        memory_megabytes: {{ haproxy.memory_megabytes | json }}

haproxy-unit-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

haproxy-service:
  service.running:
    - name: {{ server.unit }}
    - enable: True
    - require:
      - file: haproxy-config
    - watch:
      - service_config: haproxy-unit-loaded
      - file: haproxy-unit

haproxy-config-loaded:
  service_config.loaded:
    - name: {{ server.unit }}

haproxy-reload:
  service.running:
    - name: {{ server.unit }}
    - reload: True
    - require:
      - service: haproxy-service
    - watch:
      - service_config: haproxy-config-loaded
      - file: haproxy-config
      - file: haproxy-ca
      - file: haproxy-certificate
      - file: haproxy-client
