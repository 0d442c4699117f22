# What the site decides about HAProxy. Sizes that follow from the machine are in
# salt/haproxy/defaults.yaml.
haproxy:
  hsts_seconds: 31536000
  # Passwords at the API's token endpoint, per client address. Airflow does not
  # limit that endpoint.
  token_rate: {requests: 5, seconds: 40}
  # An office behind one address: a browser has one connection of HTTP/2 to the
  # site, and a second one for what it loads without cookies. Two hundred people
  # at the same moment; ten such addresses would use up all connections.
  connections_per_address: 400
  # Of the same office: five requests of everybody at the same moment.
  requests_per_address: 1000
