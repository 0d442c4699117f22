# The whole stack serves. Order: PostgreSQL and Redis, one migration of the database, the web
# machines, the load balancers, a smoke test.
# Run on the master: salt-run state.orchestrate orch.deploy
deploy-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: '*'

deploy-states:
  salt.function:
    - name: saltutil.sync_states
    - tgt: '*'

# The firewall and the configuration of every machine need the addresses of all machines.
deploy-addresses:
  salt.function:
    - name: mine.update
    - tgt: '*'
    - require:
      - salt: deploy-modules
      - salt: deploy-states

# The longest download needs no database, so it runs while PostgreSQL and Redis are set up.
deploy-release:
  salt.state:
    - tgt: 'web-*'
    - sls: airflow.release
    - parallel: True
    - require:
      - salt: deploy-addresses

deploy-stores:
  salt.state:
    - tgt: 'postgres-* or redis-*'
    - tgt_type: compound
    - highstate: True
    - require:
      - salt: deploy-addresses

# Any web machine can migrate; ids start at 1. It serves the new release before the other web
# machines change.
deploy-database:
  salt.state:
    - tgt: web-1
    - sls: airflow.migrate
    - require:
      - salt: deploy-release
      - salt: deploy-stores

# One machine at a time, so that the others serve meanwhile. The first failure stops the rollout.
deploy-web:
  salt.state:
    - tgt: 'web-*'
    - highstate: True
    - batch: 1
    - failhard: True
    - require:
      - salt: deploy-database

deploy-edge:
  salt.state:
    - tgt: 'lb-* or salt-*'
    - tgt_type: compound
    - highstate: True
    - require:
      - salt: deploy-web

deploy-smoke:
  salt.state:
    - tgt: 'salt-*'
    - sls: smoke
    - require:
      - salt: deploy-edge
