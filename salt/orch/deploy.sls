# The whole stack serves. Order: PostgreSQL and Redis beside the build of Airflow's release, the
# release on every web machine, one migration of the database, the web machines, the load balancers,
# a smoke test.
# Run on the master: salt-run state.orchestrate orch.deploy
# Every step names its machines, so a machine that does not answer fails its step by name.
{% set everything = salt['role.accepted']() %}
{% set stores = salt['role.accepted']('postgres', 'redis') %}
{% set web = salt['role.accepted']('web') %}
{% set edge = salt['role.accepted']('lb', 'salt') %}
{% set master = salt['role.accepted']('salt') %}

deploy-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: {{ everything | json }}
    - tgt_type: list
    - expect_minions: True

deploy-states:
  salt.function:
    - name: saltutil.sync_states
    - tgt: {{ everything | json }}
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: deploy-modules

# mine.update takes its functions from the pillar that the minion holds in memory.
deploy-pillar:
  salt.function:
    - name: saltutil.refresh_pillar
    - tgt: {{ everything | json }}
    - tgt_type: list
    - expect_minions: True
    - kwarg: {wait: True, timeout: 60}
    - require:
      - salt: deploy-states

# The firewall and the configuration of every machine need the addresses of all machines.
deploy-addresses:
  salt.function:
    - name: mine.update
    - tgt: {{ everything | json }}
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: deploy-pillar

# The build takes longest, and needs no other machine.
deploy-artefact:
  salt.state:
    - tgt: {{ master | json }}
    - tgt_type: list
    - sls: airflow.artefact
    - parallel: True
    - require:
      - salt: deploy-addresses

deploy-stores:
  salt.state:
    - tgt: {{ stores | json }}
    - tgt_type: list
    - highstate: True
    - require:
      - salt: deploy-addresses

# Every web machine has the files of the new release before the first one serves its pages.
deploy-release:
  salt.state:
    - tgt: {{ web | json }}
    - tgt_type: list
    - sls: airflow.release
    - require:
      - salt: deploy-artefact
      - salt: deploy-stores

# Any web machine can migrate. It serves the new release before the other web machines change.
deploy-database:
  salt.state:
    - tgt: [{{ web | first | json }}]
    - tgt_type: list
    - sls: airflow.migrate
    - require:
      - salt: deploy-release

# One machine at a time, so that the others serve meanwhile. The first failure stops the rollout.
{% for id in web %}
deploy-{{ id }}:
  salt.state:
    - tgt: [{{ id | json }}]
    - tgt_type: list
    - highstate: True
    - require:
      - salt: deploy-{{ loop.previtem | default('database') }}
{% endfor %}

deploy-edge:
  salt.state:
    - tgt: {{ edge | json }}
    - tgt_type: list
    - highstate: True
    - require:
      - salt: deploy-{{ web | last }}

deploy-smoke:
  salt.state:
    - tgt: {{ master | json }}
    - tgt_type: list
    - sls: smoke
    - require:
      - salt: deploy-edge
