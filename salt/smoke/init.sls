# Every load balancer answers at the address that users type, with a certificate that a public CA or
# the deployment's CA has signed, and with a healthy database. This changes nothing.
{% set settings = pillar['settings'] %}
{% set acme = settings.get('acme', {}) %}
{% set trusted = [settings['ca_certificate'], acme.get('ca_certificate', '')] %}
{% set port = pillar['endpoints']['https']['port'] %}
{% set path = pillar['roles']['lb']['check']['path'] %}
{% for id, address in salt['machines.addresses']('lb').items() %}
smoke-{{ id }}:
  airflow.healthy:
    - name: {{ (settings['base_url'] ~ path) | json }}
    - via: {{ '%s:%d' | format(address, port) | json }}
    - ca: {{ '\n'.join(trusted) | json }}
{% endfor %}
