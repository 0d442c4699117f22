# What the site decides about HAProxy. Sizes that follow from the machine are in
# salt/haproxy/defaults.yaml.
haproxy:
  hsts_seconds: 31536000
  # Passwords at the API's token endpoint, per client address. Airflow does not
  # limit that endpoint.
  token_rate: {requests: 5, seconds: 40}
