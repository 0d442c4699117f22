# Every load balancer answers a stranger at the address that users type, with a certificate that is trusted for it (by a
# public CA or by the deployment's own) and a healthy database behind it. Changes nothing.
{% for id, address in salt['machines.addresses']('lb').items() %}
smoke-{{ id }}:
  airflow.healthy:
    - name: {{ (pillar['settings']['base_url'] ~ '/api/v2/monitor/health') | json }}
    - via: {{ '%s:%d' | format(address, pillar['endpoints']['https']['port']) | json }}
    - ca: {{ pillar['settings']['ca_certificate'] | json }}
{% endfor %}
