# Every load balancer answers a stranger over HTTPS, with a certificate of the deployment's CA and a healthy database behind it.
# Changes nothing but the CA's certificate on the machine that asks.
smoke-ca:
  file.managed:
    - name: /etc/ssl/stack-ca.pem
    - contents_pillar: settings:ca_certificate
    - mode: '0644'

{% for id in salt['stack.addresses']('lb') %}
smoke-{{ id }}:
  http.wait_for_successful_query:
    - name: https://{{ id }}.stack.internal/api/v2/monitor/health
    - status: 200
    - match: '"metadatabase": ?{[^}]*"status": ?"healthy"'
    - match_type: pcre
    - backend: requests
    - verify_ssl: /etc/ssl/stack-ca.pem   # this backend takes the trusted CA here
    - wait_for: 60
    - request_interval: 2
    - require:
      - file: smoke-ca
{% endfor %}
