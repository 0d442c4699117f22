# The whole stack serves. Order: PostgreSQL and Redis, in each of them one machine after the other,
# and what nothing waits for, beside the build of Airflow's release and the base of machines that
# are new; the release on every web machine, one migration of the database, the web machines, the
# load balancers, a smoke test.
# Run on the master: salt-run state.orchestrate orch.deploy
# Every step names its machines, so a machine that does not answer fails its step by name.
#
# With pillar `new`, the web machines that have just been launched for a tree that everything else
# has: they serve first, and the others learn of them afterwards. `stackctl scale` and the master's
# own growth say so: salt-run state.orchestrate orch.deploy pillar='{"new": ["web-3"]}'
{% set new = salt['pillar.get']('new', []) %}
{% set everything = salt['role.accepted']() %}
{% set unsettled = [] if new else salt['role.unsettled'](everything) %}
{% set stores = [] %}
{% for role in ['postgres', 'redis'] %}
{% set members = salt['role.accepted'](role) %}
{# The others have the data that a new machine asks them for, and have to know its address. #}
{% set settled = members | reject('in', unsettled) | list %}
{% do stores.append(settled + members | select('in', unsettled) | list) %}
{% endfor %}
{% set web = salt['role.accepted']('web') %}
{% set balancers = salt['role.accepted']('lb') %}
{% set waiting = (web + balancers) | select('in', unsettled) | list %}
{% set master = salt['role.accepted']('salt') %}
{% set stored = stores | sum(start=[]) %}
{% set others = everything | difference(stored + web + balancers + master) %}
{% set edges_without_tls = salt['role.edges_without_tls'](balancers) %}
{% set synced = new or everything %}
{% set known = 'addresses' if new else 'pillar' %}

# The build takes longest, and needs no other machine.
deploy-artefact:
  salt.state:
    - tgt: {{ master | json }}
    - tgt_type: list
    - sls: airflow.artefact
    - parallel: True
{% if not new %}
    - require:
      - salt: deploy-pillar
{% endif %}

{% for kind in ['modules', 'states'] %}
deploy-{{ kind }}:
  salt.function:
    - name: saltutil.sync_{{ kind }}
    - tgt: {{ synced | json }}
    - tgt_type: list
    - expect_minions: True
    - parallel: True
{% endfor %}

# The firewall and the configuration of every machine need the addresses of all machines, which are
# a part of the pillar. The master knows them from EC2.
deploy-addresses:
  salt.function:
    - name: machine_addresses.record
    - tgt: {{ master | json }}
    - tgt_type: list
    - expect_minions: True
    # EC2 is asked again for as long when it does not answer.
    - timeout: 120
{% if not new %}
    - require:
      - salt: deploy-modules
      - salt: deploy-states
{% endif %}

# What runs outside a highstate reads the pillar that the minion holds in memory. A highstate asks
# for its own: new machines serve first.
deploy-pillar:
  salt.function:
    - name: saltutil.refresh_pillar
    - tgt: {{ synced | json }}
    - tgt_type: list
    - expect_minions: True
    - kwarg: {wait: True, timeout: 60}
{% if new %}
    # Here, it would have the new machines come before the stores begin.
    - order: last
{% endif %}
    - require:
      - salt: deploy-{{ 'new' if new else 'addresses' }}

{% if waiting %}
# What every machine has, on those whose turn comes late.
deploy-bases:
  salt.state:
    - tgt: {{ waiting | json }}
    - tgt_type: list
    - sls: base
    - parallel: True
    - require:
      - salt: deploy-pillar
{% endif %}

{% if others %}
deploy-others:
  salt.state:
    - tgt: {{ others | json }}
    - tgt_type: list
    - highstate: True
    - parallel: True
    - require:
      - salt: deploy-{{ known }}
{% endif %}

# A machine that restarts leaves the others to serve, and a new one finds them. For a new web
# machine none restarts.
{% for machines in stores %}
{% for id in machines %}
deploy-{{ id }}:
  salt.state:
    - tgt: [{{ id | json }}]
    - tgt_type: list
    - highstate: True
    - parallel: True
    - require:
      - salt: deploy-{{ known if loop.first or new else loop.previtem }}
{% endfor %}
{% endfor %}

{% if not new %}
# Every web machine has the files of the new release before the first one serves its pages.
deploy-release:
  salt.state:
    - tgt: {{ web | json }}
    - tgt_type: list
    - sls: airflow.release
    - parallel: True
    - require:
      - salt: deploy-artefact
{% if waiting %}
      - salt: deploy-bases
{% endif %}
{% endif %}

# What the rest waits for.
deploy-stores:
  test.nop:
{% if new %}
    # Here, the new machines would wait for it.
    - order: last
{% endif %}
    - require:
{% for id in (['others'] if others else []) + stored %}
      - salt: deploy-{{ id }}
{% endfor %}

{% if not new %}
# Any web machine can migrate. It serves the new release before the other web machines change.
deploy-database:
  salt.state:
    - tgt: [{{ web | first | json }}]
    - tgt_type: list
    - sls: airflow.migrate
    - require:
      - salt: deploy-release
      - test: deploy-stores
{% endif %}

# Machines that serve change one at a time, so that the others serve meanwhile; new ones need not
# wait for each other, nor for the stores, which let them in long before their web app starts. The
# first failure stops the rollout.
{% set one_by_one = [] %}
{% for id in web if id not in new %}
{% do one_by_one.append((id, [id])) %}
{% endfor %}
{# The first failure leaves the site's address at a load balancer that still serves. #}
{% set edges = [('edge', balancers[:1] + ([] if new else master))] %}
{% for id in balancers[1:] %}
{% do edges.append((id, [id])) %}
{% endfor %}
{% if new %}
{% set steps = [('new', new)] + edges + one_by_one + [('master', master)] %}
{% else %}
{% set steps = one_by_one + edges %}
{% endif %}
{% for step, machines in steps %}
{% set given = {'stores_follow': True} if step == 'new' else {} %}
{# A web machine takes the plain HTTP of earlier releases until no load balancer sends it. #}
{% if edges_without_tls %}
{% do given.update({'edges_without_tls': True}) %}
{% endif %}
deploy-{{ step }}:
  salt.state:
    - tgt: {{ machines | json }}
    - tgt_type: list
    - highstate: True
{% if given %}
    - pillar: {{ given | json }}
{% endif %}
    - require:
{% if step != 'new' %}
      - test: deploy-stores
{% endif %}
{% if loop.first and new %}
{% for before in ['artefact', 'modules', 'states', 'addresses'] %}
      - salt: deploy-{{ before }}
{% endfor %}
{% else %}
      - salt: deploy-{{ 'database' if loop.first else loop.previtem[0] }}
{% endif %}
{% endfor %}

{% if edges_without_tls %}
# What a process of HAProxy from before its reload still sends is plain.
deploy-edges-reloaded:
  salt.function:
    - name: edge.finish_reload
    - tgt: {{ balancers | json }}
    - tgt_type: list
    - expect_minions: True
    - require:
      - salt: deploy-{{ steps[-1][0] }}

deploy-web-tls:
  salt.state:
    - tgt: {{ web | json }}
    - tgt_type: list
    - sls: airflow
    - require:
      - salt: deploy-edges-reloaded
{% endif %}

deploy-smoke:
  salt.state:
    - tgt: {{ master | json }}
    - tgt_type: list
    - sls: smoke
    - require:
{% if new %}
      - salt: deploy-pillar
{% endif %}
      - salt: deploy-{{ 'web-tls' if edges_without_tls else steps[-1][0] }}
