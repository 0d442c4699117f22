# No load balancer sends requests to the machines of pillar `drain`. Those among them that are load
# balancers do not have the site's address, and accept no connection. The requests that all of them
# had are answered, or have lasted longer than the longest answer may. A database server among them
# leads no more, and the others do not count on it.
# Run on the master: salt-run state.orchestrate orch.drain pillar='{"drain": ["web-3"]}'
{% set drain = salt['pillar.get']('drain', []) %}
{% set edge = salt['role.accepted']('lb') | difference(drain) %}
{% set servers = salt['role.accepted']('postgres') | intersect(drain) %}
{% set staying = salt['role.accepted']('postgres') | difference(drain) %}
{% set leaving = salt['role.accepted']('lb') | intersect(drain) %}

drain-edge:
  salt.function:
    - name: edge.drain
    - tgt: {{ edge | json }}
    - tgt_type: list
    - expect_minions: True
    - arg:
        - {{ drain | json }}
    - kwarg: {seconds: 75}
    # Of the master, which otherwise asks after its own `timeout` whether the function still runs.
    - timeout: 120
{% if leaving %}

# The tree may be newer than what they have.
drain-leaving-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: {{ leaving | json }}
    - tgt_type: list

# The one with the site's address serves until another one has it. One that does not answer has lost
# it already.
drain-address:
  salt.function:
    - name: site_address.leave
    - tgt: {{ leaving | json }}
    - tgt_type: list
    - timeout: 60
    - require:
      - salt: drain-leaving-modules

# One that does not answer has no clients either.
drain-clients:
  salt.function:
    - name: edge.leave
    - tgt: {{ leaving | json }}
    - tgt_type: list
    - kwarg: {seconds: 75}
    - timeout: 120
    - require:
      - salt: drain-address
{% endif %}
{% if servers and staying %}

# The tree may be newer than what they have.
drain-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: {{ ([staying | first] + servers) | json }}
    - tgt_type: list

# Those that are lost first, so that the others stay a majority.
drain-lost:
  salt.function:
    - name: etcd_member.forget
    - tgt: [{{ staying | first | json }}]
    - tgt_type: list
    - expect_minions: True
    - arg:
        - {{ servers | json }}
    - kwarg: {silent: True}
    - timeout: 60
    - require:
      - salt: drain-modules
{% for id in servers %}

# One that does not answer has lost its place already, or loses it below.
drain-{{ id }}:
  salt.function:
    - name: patroni.leave
    - tgt: [{{ id | json }}]
    - tgt_type: list
    - kwarg: {leaving: {{ servers | json }}}
    - timeout: 180
    - require:
      - salt: drain-{{ 'edge' if loop.first else loop.previtem }}
      - salt: drain-lost
{% endfor %}

drain-places:
  salt.function:
    - name: etcd_member.forget
    - tgt: [{{ staying | first | json }}]
    - tgt_type: list
    - expect_minions: True
    - arg:
        - {{ servers | json }}
    - timeout: 60
    - require:
      - salt: drain-{{ servers | last }}
{% endif %}
