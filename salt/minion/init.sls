# The minion runs again whatever ended it, and finds its master again after either has restarted.
# The deploy script installs the same files before the minion's first start. The minion is not
# restarted here: it would miss the next step of the orchestration.
minion-unit:
  file.managed:
    - name: /etc/systemd/system/salt-minion.service
    - source: salt://minion/files/salt-minion.service
    - mode: '0644'

minion-unit-loaded:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: minion-unit

minion-config:
  file.managed:
    - name: /etc/salt/minion.d/stack.conf
    - source: salt://minion/files/stack.conf
    - makedirs: True
    - mode: '0644'

# Salt keeps what a highstate has rendered, secrets included, in a file that nothing here reads. The
# unit makes the link before each start; this is for a minion that runs since before it did.
minion-highstate-copy:
  file.symlink:
    - name: /var/cache/salt/minion/highstate.cache.p
    - target: /dev/null
    - force: True
    - makedirs: True
