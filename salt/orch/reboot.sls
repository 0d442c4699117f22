# The machines of pillar `reboot` have rebooted, one after the other, each while the others of its
# role served. With pillar `upgrade`, all packages of Debian were upgraded before; a machine for
# which nothing waits is left alone. The first one that fails stops the rest.
# Run on the master: salt-run state.orchestrate orch.reboot pillar='{"reboot": ["web-1"]}'
# With `interrupt`, also those in whose place nobody serves meanwhile.
{% set machines = salt['pillar.get']('reboot', []) %}
{% set upgrade = salt['pillar.get']('upgrade', False) %}
{% set interrupt = salt['pillar.get']('interrupt', False) %}

# The tree may be newer than what they have.
reboot-modules:
  salt.function:
    - name: saltutil.sync_modules
    - tgt: {{ salt['role.accepted']() | json }}
    - tgt_type: list
{% for id in machines %}

reboot-{{ id }}:
  module.run:
    - maintenance.reboot:
      - name: {{ id | json }}
      - upgrade: {{ upgrade | json }}
      - interrupt: {{ interrupt | json }}
    - require:
      - {{ 'salt: reboot-modules' if loop.first else 'module: reboot-' ~ loop.previtem }}
{% endfor %}
