# The whole stack serves: stores first, the database migrated once, then the web machines, the load balancer, a smoke test.
# Run on the master: salt-run state.orchestrate orch.deploy
deploy-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: '*'

deploy-states:
  salt.function:
    - name: saltutil.sync_states
    - tgt: '*'

# Minions keep their pillar in memory; role.status and the mine read it there.
deploy-pillar:
  salt.function:
    - name: saltutil.refresh_pillar
    - tgt: '*'
    - require:
      - salt: deploy-modules

# Every machine's firewall and configuration is made from the addresses of all.
deploy-addresses:
  salt.function:
    - name: mine.update
    - tgt: '*'
    - require:
      - salt: deploy-modules
      - salt: deploy-states

# The longest download needs no database: it goes on while the stores are made.
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

# Any one web machine could do it; ids start at 1. It serves the new release before any other is touched.
deploy-database:
  salt.state:
    - tgt: web-1
    - sls: airflow.migrate
    - require:
      - salt: deploy-release
      - salt: deploy-stores

# One at a time, so that the others serve meanwhile; the first that fails is the last that is touched.
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
