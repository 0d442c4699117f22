# The database has the state of an earlier moment, on every server. The web app is stopped
# meanwhile. Where the restore fails, every server has its present data again.
# Run on the master, and orch.deploy afterwards:
# salt-run state.orchestrate orch.restore pillar='{"restore": {"to": "2026-11-27T14:30:00Z"}}'
# `to` is a time with its zone, or `latest`; `timeline` is the number of a history that an earlier
# restore has left.
{% set wanted = salt['pillar.get']('restore', {}) %}
{% set timeline = wanted.get('timeline', '') | string %}
{% set target = {'to': wanted.get('to', 'latest'), 'timeline': timeline} %}
{% set servers = salt['role.accepted']('postgres') %}
{% set first = servers[0] %}
{% set web = salt['role.accepted']('web') %}

# The tree may be newer than what they have.
restore-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: {{ servers | json }}
    - tgt_type: list
    - expect_minions: True

restore-possible:
  salt.function:
    - name: pgbackrest.require_target
    - tgt: [{{ first | json }}]
    - tgt_type: list
    - expect_minions: True
    - kwarg: {{ target | json }}
    - timeout: 120
    - require:
      - salt: restore-modules

restore-web:
  salt.function:
    - name: service.stop
    - tgt: {{ web | json }}
    - tgt_type: list
    - expect_minions: True
    - arg: [airflow]
    - timeout: 120
    - require:
      - salt: restore-possible

# The present state can be restored, too.
restore-flush:
  salt.function:
    - name: pgbackrest.flush
    - tgt: {{ servers | json }}
    - tgt_type: list
    - timeout: 120
    - require:
      - salt: restore-web

# The leader last, so that nobody takes over.
restore-followers:
  salt.function:
    - name: pgbackrest.set_aside
    - tgt: {{ servers | json }}
    - tgt_type: list
    - expect_minions: True
    - kwarg: {only_followers: True}
    - timeout: 180
    - require:
      - salt: restore-flush

restore-leader:
  salt.function:
    - name: pgbackrest.set_aside
    - tgt: {{ servers | json }}
    - tgt_type: list
    - expect_minions: True
    - timeout: 180
    - require:
      - salt: restore-followers

restore-forget:
  salt.function:
    - name: pgbackrest.forget_cluster
    - tgt: [{{ first | json }}]
    - tgt_type: list
    - expect_minions: True
    - timeout: 60
    - require:
      - salt: restore-leader

restore-begin:
  salt.function:
    - name: pgbackrest.begin
    - tgt: [{{ first | json }}]
    - tgt_type: list
    - expect_minions: True
    - kwarg: {{ target | json }}
    - timeout: 1300
    - require:
      - salt: restore-forget
{% if servers | length > 1 %}

# They copy the first.
restore-others:
  salt.function:
    - name: service.start
    - tgt: {{ servers[1:] | json }}
    - tgt_type: list
    - expect_minions: True
    - arg: [patroni]
    - timeout: 120
    - require:
      - salt: restore-begin
{% endif %}

restore-discard:
  salt.function:
    - name: pgbackrest.discard
    - tgt: {{ servers | json }}
    - tgt_type: list
    - expect_minions: True
    - timeout: 120
    - require:
      - salt: restore-{{ 'others' if servers | length > 1 else 'begin' }}

# The one that led comes first, or Patroni would let another lead that is behind.
restore-back-leader:
  salt.function:
    - name: pgbackrest.put_back
    - tgt: {{ servers | json }}
    - tgt_type: list
    - kwarg: {only_leader: True}
    - timeout: 120
    - onfail:
      - salt: restore-begin

restore-back:
  salt.function:
    - name: pgbackrest.put_back
    - tgt: {{ servers | json }}
    - tgt_type: list
    - timeout: 120
    - onfail:
      - salt: restore-begin
    - require:
      - salt: restore-back-leader

restore-back-web:
  salt.function:
    - name: service.start
    - tgt: {{ web | json }}
    - tgt_type: list
    - arg: [airflow]
    - timeout: 120
    - onfail:
      - salt: restore-begin
    - require:
      - salt: restore-back
