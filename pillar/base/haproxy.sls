# What the site decides about its edge; sizes that follow from the machine are in salt/haproxy/defaults.yaml.
haproxy:
  hsts_seconds: 31536000
  # Passwords tried through the API's token endpoint, per client address: Airflow itself does not limit that one.
  token_rate: {requests: 5, seconds: 40}
