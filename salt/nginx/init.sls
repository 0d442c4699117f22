# nginx answers on the web machine's port, over TLS and to load balancers only: static files from
# the releases' own folders, everything else from the web app behind its socket. It is reloaded,
# never restarted, when its configuration or its certificate changes. Watch: nginx-serves.
#
# With pillar `edges_without_tls`, it takes their plain HTTP too, until the orchestration has
# changed the load balancers of an earlier release (salt/orch/deploy.sls).
{% import_yaml 'nginx/defaults.yaml' as defaults %}
{% import_yaml 'nginx/constant.yaml' as answers %}
{% import_yaml 'airflow/defaults.yaml' as app %}
{% set nginx = salt['pillar.get']('nginx', defaults.nginx, merge=True) %}
{% set airflow = salt['pillar.get']('airflow', app.airflow, merge=True) %}
{% set port = pillar['endpoints']['airflow']['port'] %}
{% set server = pillar['roles']['web'] %}
{% set tls = salt['file.dirname'](server.certificate.path) %}
{% set leaf = pillar['secrets'][server.certificate.secret] %}
{% set edges_without_tls = salt['pillar.get']('edges_without_tls', False) %}
{% set edges = salt['machines.addresses']('lb').values() | list %}
{% set trusted = edges + (['127.0.0.1'] if edges_without_tls else []) %}

nginx-package:
  pkg.installed:
    - aggregate: True
    - install_recommends: False
    - pkgs:
      - nginx
      - libnginx-mod-http-brotli-static

nginx-unavailable-page:
  file.managed:
    - name: /etc/nginx/pages/unavailable.html
    - source: salt://nginx/files/unavailable.html
    - makedirs: True
    - mode: '0644'
    - require:
      - pkg: nginx-package

nginx-tls:
  file.directory:
    - name: {{ tls }}
    - mode: '0755'
    - require:
      - pkg: nginx-package

nginx-ca:
  file.managed:
    - name: {{ tls }}/ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'
    - require:
      - file: nginx-tls

nginx-key:
  file.managed:
    - name: {{ tls }}/key.pem
    - contents: {{ leaf['private_key'] | json }}
    - group: www-data
    - mode: '0640'
    - show_changes: False
    - require:
      - file: nginx-tls

nginx-certificate:
  file.managed:
    - name: {{ server.certificate.path }}
    - contents: {{ leaf['certificate'] | json }}
    - mode: '0644'
    - require:
      - file: nginx-key

nginx-config:
  file.managed:
    - name: /etc/nginx/nginx.conf
    - source: salt://nginx/files/nginx.conf.j2
    - template: jinja
    - mode: '0644'
    - check_cmd: >-
        /usr/sbin/nginx -t -q -e stderr -g 'user www-data; pid /run/nginx-check.pid;' -c
    - tmp_dir: /etc/nginx
    - context:
        nginx: {{ nginx | json }}
        port: {{ port | json }}
        socket: {{ airflow.socket | json }}
        leaving: {{ airflow.leaving | json }}
        check: {{ server.check.path | json }}
        releases: /opt/airflow
        constant: {{ answers.constant | json }}
        base_url: {{ pillar['settings']['base_url'] | json }}
        trusted: {{ trusted | json }}
        edges_without_tls: {{ edges_without_tls | json }}
        tls:
          certificate: {{ server.certificate.path }}
          key: {{ tls }}/key.pem
          ca: {{ tls }}/ca.pem
          client: {{ pillar['roles']['lb']['client']['name'] | json }}
    - require:
      - pkg: nginx-package
      - file: nginx-ca
      - file: nginx-certificate

nginx-unit:
  file.managed:
    - name: /etc/systemd/system/nginx.service
    - source: salt://nginx/files/nginx.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        connections: {{ nginx.connections | json }}
        memory_max_megabytes: {{ nginx.memory_max_megabytes | json }}

nginx-unit-loaded:
  service_config.loaded:
    - name: nginx

# The web app of an earlier release listened on the port itself, until it restarted.
nginx-service:
  service.running:
    - name: nginx
    - enable: True
    - require:
      - file: nginx-config
      - file: nginx-unavailable-page
      - service: airflow-service
    - watch:
      - service_config: nginx-unit-loaded
      - file: nginx-unit

nginx-config-loaded:
  service_config.loaded:
    - name: nginx

nginx-reload:
  service.running:
    - name: nginx
    - reload: True
    - require:
      - service: nginx-service
    - watch:
      - service_config: nginx-config-loaded
      - file: nginx-ca
      - file: nginx-certificate
      - file: nginx-key
      - file: nginx-config

nginx-serves:
  airflow.healthy:
    - name: http://127.0.0.1:{{ port }}{{ server.check.path }}
    - require:
      - airflow: airflow-healthy
      - service: nginx-reload
