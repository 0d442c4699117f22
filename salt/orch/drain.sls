# No load balancer sends requests to the machines of pillar `drain`, and the requests that they had
# are answered, or have lasted longer than the longest answer may.
# Run on the master: salt-run state.orchestrate orch.drain pillar='{"drain": ["web-3"]}'
{% set edge = salt['role.accepted']('lb') %}

drain-edge:
  salt.function:
    - name: edge.drain
    - tgt: {{ edge | json }}
    - tgt_type: list
    - expect_minions: True
    - arg:
        - {{ salt['pillar.get']('drain', []) | json }}
    - kwarg: {seconds: 75}
    # Of the master, which otherwise asks after its own `timeout` whether the function still runs.
    - timeout: 120
