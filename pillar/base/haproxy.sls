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
  connections_per_address: 520
  # Of the same office: five requests of everybody at the same moment.
  requests_per_address: 1000
  # In ten seconds, of the same office: some browsers that start together. Each
  # costs a TLS handshake.
  new_connections_per_address: 2000
  # Of every answer, also of those that HAProxy makes itself.
  headers:
    X-Content-Type-Options: nosniff
    X-Frame-Options: SAMEORIGIN
    Referrer-Policy: same-origin
