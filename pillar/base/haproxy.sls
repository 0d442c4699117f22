# What the site decides about HAProxy. Sizes that follow from the machine are in
# salt/haproxy/defaults.yaml.
haproxy:
  hsts_seconds: 31536000
  # At the login page and the token endpoints: wrong passwords within so many
  # seconds, and passwords in work at the same time. Those of a user count for
  # each address apart, right ones not at all. salt/haproxy/pages.yaml tells the
  # seconds to who is refused.
  passwords:
    seconds: 40
    wrong_of_user: 5
    wrong_of_address: 30
    at_once_of_user: 10
    at_once_of_address: 60
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
    # No `script-src`: pages of the login have scripts in them, and the UI's
    # editor may load its parts from elsewhere.
    Content-Security-Policy: >-
      base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src
      'none'
    Permissions-Policy: >-
      camera=(), geolocation=(), microphone=(), payment=(), usb=()
