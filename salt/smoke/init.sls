# Every load balancer answers a stranger at the address that users type, with a certificate that is trusted for it (by a
# public CA or by the deployment's own) and a healthy database behind it. Changes nothing.
{% set port = pillar['endpoints']['https']['port'] %}
{% set path = pillar['roles']['lb']['check']['path'] %}
{% for id, address in salt['machines.addresses']('lb').items() %}
smoke-{{ id }}:
  airflow.healthy:
    - name: {{ (pillar['settings']['base_url'] ~ path) | json }}
    - via: {{ '%s:%d' | format(address, port) | json }}
    - ca: {{ pillar['settings']['ca_certificate'] | json }}
{% endfor %}
