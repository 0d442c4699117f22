# Every load balancer answers at the address that users type, with a certificate that a public CA or
# the deployment's CA has signed, and with a healthy database. This changes nothing.
{% set settings = pillar['settings'] %}
{% set port = pillar['endpoints']['https']['port'] %}
{% set path = pillar['roles']['lb']['check']['path'] %}
{% for id, address in salt['machines.addresses']('lb').items() %}
smoke-{{ id }}:
  airflow.healthy:
    - name: {{ (settings['base_url'] ~ path) | json }}
    - via: {{ '%s:%d' | format(address, port) | json }}
    - ca: {{ (settings['ca_certificate'] ~ '\n' ~ settings.get('acme', {}).get('ca_certificate', '')) | json }}
{% endfor %}
