# The site's elastic address is at a load balancer that serves, and moves when that one does not.
# One load balancer has the same states: it takes the address when nobody has it.
# Watch: site-address-service.
{% import_yaml 'haproxy/defaults.yaml' as defaults %}
{% set haproxy = salt['pillar.get']('haproxy', defaults.haproxy, merge=True) %}
{% set aws = pillar['aws'] %}
{% set tags = {'project': aws.project, 'deployment': pillar['settings']['deployment']} %}
{% set amazon = 'https://ec2.%s.amazonaws.com' % aws.region %}

include:
  - base

# EC2's certificate is one of a public CA.
site-address-packages:
  pkg.installed:
    - name: ca-certificates
    - require:
      - file: base-package-proxy

site-address-program:
  file.managed:
    - name: /usr/local/lib/site_address.py
    - source: salt://haproxy/files/site_address.py
    - mode: '0644'

site-address-config:
  file.serialize:
    - name: /etc/site-address.json
    - serializer: json
    - mode: '0644'
    - dataset:
        name: {{ aws.edge_address.name.format(**tags) | json }}
        tags: {{ tags | json }}
        region: {{ aws.region | json }}
        endpoint: {{ pillar['settings'].get('ec2_endpoint', amazon) | json }}
        port: {{ pillar['endpoints']['https']['port'] | json }}
        path: {{ haproxy.address_path | json }}
        alone: {{ (salt['machines.addresses']('lb') | length == 1) | json }}

site-address-unit:
  file.managed:
    - name: /etc/systemd/system/site-address.service
    - source: salt://haproxy/files/site-address.service
    - mode: '0644'

# A restart moves no address.
site-address-loaded:
  service_config.loaded:
    - name: site-address

site-address-service:
  service.running:
    - name: site-address
    - enable: True
    - require:
      - pkg: site-address-packages
    - watch:
      - service_config: site-address-loaded
      - file: site-address-unit
      - file: site-address-program
      - file: site-address-config
