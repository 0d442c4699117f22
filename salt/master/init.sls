# salt-1 is the Salt master of the deployed tree, has accepted its own minion's key, can launch
# machines with salt-cloud, starts those that ended by themselves, and backs its keys up.
# `salt-call --local` applies this first, so nothing here may read machines' addresses or ask one.
{% import_yaml 'master/defaults.yaml' as defaults %}
{% set master = salt['pillar.get']('master', defaults.master, merge=True) %}
{% import_yaml 'airflow/defaults.yaml' as app %}
{% set airflow = salt['pillar.get']('airflow', app.airflow, merge=True) %}
{% set tree = '/srv/stack/current' %}
{% set address = salt['network.ip_addrs'](cidr=pillar['aws']['vpc']['cidr']) | first %}

include:
  - base.recorder
  - master.backup
  # The other machines are deployed through it.
  - proxy
  # The build needs minutes: it goes on while the other machines are launched.
  - airflow.build

master-config:
  file.managed:
    - name: /etc/salt/master.d/stack.conf
    - source: salt://master/files/master.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        id: {{ grains['id'] | json }}
        tree: {{ tree | json }}
        archives: {{ airflow.archives | json }}
        addresses: {{ salt['machine_addresses.path']() | json }}
        deployment: {{ pillar['settings']['deployment'] | json }}
        master: {{ master | json }}

master-unit:
  file.managed:
    - name: /etc/systemd/system/salt-master.service
    - source: salt://master/files/salt-master.service
    - mode: '0644'

# A master that started before it had an id keeps its key.
{% for kind in ['pem', 'pub'] %}
master-key-{{ kind }}:
  file.copy:
    - name: /etc/salt/pki/master/{{ grains['id'] }}.{{ kind }}
    - source: /etc/salt/pki/master/master.{{ kind }}
    - mode: '0400'
    - onlyif: test -e /etc/salt/pki/master/master.{{ kind }}
    - unless: test -e /etc/salt/pki/master/{{ grains['id'] }}.{{ kind }}
{% endfor %}

master-own-minion-key:
  file.managed:
    - name: /etc/salt/pki/master/minions/{{ grains['id'] }}
    - source: /etc/salt/pki/minion/minion.pub
    - makedirs: True
    - mode: '0644'

# The driver is a package of the tree. It is installed again when the tree's revision changes.
# In earlier trees it was a part of the package airflow-stack.
master-cloud-driver:
  cmd.run:
    - name: >-
        /opt/salt/bin/uv pip uninstall --quiet --python /opt/salt/bin/python airflow-stack
        && /opt/salt/bin/uv pip install --quiet --offline --no-deps --reinstall-package saltext.ec2
        --python /opt/salt/bin/python {{ tree }}/packages/saltext-ec2
        && cp {{ tree }}/REVISION /opt/salt/driver-revision
    - unless: cmp -s {{ tree }}/REVISION /opt/salt/driver-revision

# Salt's whole command line but salt-pip, which works in Salt's own packages only. The deployment of
# a minion links salt-call and salt-minion.
{% for command in [
  'salt', 'salt-api', 'salt-cloud', 'salt-cp', 'salt-key', 'salt-master', 'salt-proxy', 'salt-run',
  'salt-ssh', 'salt-syndic', 'spm',
] %}
master-command-{{ command }}:
  file.symlink:
    - name: /usr/local/bin/{{ command }}
    - target: /opt/salt/bin/{{ command }}
{% endfor %}

{% for folder in ['cloud.providers.d', 'cloud.profiles.d', 'cloud.maps.d', 'cloud.deploy.d'] %}
master-{{ folder }}:
  file.symlink:
    - name: /etc/salt/{{ folder }}
    - target: {{ tree }}/{{ folder }}
{% endfor %}

master-cloud-key:
  file.managed:
    - name: /etc/salt/cloud-ssh.pem
    - contents_pillar: secrets:cloud-ssh:private_key
    - mode: '0600'
    - show_changes: False

master-config-loaded:
  service_config.loaded:
    - name: salt-master
    - require:
      - file: base-recorder

master-service:
  service.running:
    - name: salt-master
    - enable: True
    - require:
      - file: master-key-pem
      - file: master-key-pub
      - file: master-own-minion-key
    - watch:
      - service_config: master-config-loaded
      - file: master-config
      - file: master-unit

# An earlier master kept secrets there; the one that runs now does not (salt/_cache).
master-pillar-copies:
  cmd.run:
    - name: >-
        rm -f /var/cache/salt/master/pillar/*
        && touch /var/cache/salt/master/pillar-without-secrets
    - creates: /var/cache/salt/master/pillar-without-secrets
    - require:
      - service: master-service

# The machines pin this master by the fingerprint of its key, which it makes at its first start.
master-cloud-config:
  file.managed:
    - name: /etc/salt/cloud
    - source: salt://master/files/cloud.j2
    - template: jinja
    - mode: '0640'
    - context:
        id: {{ grains['id'] | json }}
        tree: {{ tree | json }}
        address: {{ address | json }}
        pool_size: {{ master.pool_size | json }}
        proxied: {{ pillar['proxy']['used'] | json }}
        owned_by:
          project: {{ pillar['aws']['project'] | json }}
          deployment: {{ pillar['settings']['deployment'] | json }}
    - retry: {attempts: 20, interval: 1}
    - require:
      - service: master-service

# The map asks for these numbers. salt-cloud reads the file with its main one.
master-machine-counts:
  file.managed:
    - name: /etc/salt/cloud.conf.d/machines.conf
    - contents: {{ {'machine_counts': salt['machine_counts.wanted']()} | json | yaml_dquote }}
    - makedirs: True
    - mode: '0644'

{% set growing = salt['machine_counts.growing']() %}
master-scale-program:
  file.managed:
    - name: /usr/local/lib/scale_machines.py
    - source: salt://master/files/scale_machines.py
    - mode: '0644'

master-scale-config:
  file.serialize:
    - name: /etc/salt/scale_machines.json
    - serializer: json
    - mode: '0644'
    - dataset:
        role: {{ growing.role | json }}
        minimum: {{ growing.minimum }}
        maximum: {{ growing.maximum }}
        edge: lb
        counts: /etc/salt/cloud.conf.d/machines.conf
        state: /var/lib/scale-machines/state.json
        pki: /etc/salt/pki/master
        region: {{ pillar['aws']['region'] | json }}
        project: {{ pillar['aws']['project'] | json }}
        deployment: {{ pillar['settings']['deployment'] | json }}
        tree: /srv/stack
        locks: [/run/stackctl-session.lock, /run/stackctl-job.lock]
        rules: {{ pillar['growth'] | json }}

master-scale-unit:
  file.managed:
    - name: /etc/systemd/system/scale-machines.service
    - source: salt://master/files/scale-machines.service
    - mode: '0644'

master-scale-timer:
  file.managed:
    - name: /etc/systemd/system/scale-machines.timer
    - source: salt://master/files/scale-machines.timer
    - mode: '0644'

master-scale:
  service.{{ 'running' if growing.role else 'dead' }}:
    - name: scale-machines.timer
    - enable: {{ growing.role != '' }}
    - require:
      - file: master-scale-program
      - file: master-scale-config
    - watch:
      - file: master-scale-unit
      - file: master-scale-timer

# Off, unless the settings say so.
{% set corrects = pillar['settings'].get('correct_drift', False) %}
{% set window = pillar['settings'].get('upgrade_window', '') %}
master-keep-program:
  file.managed:
    - name: /usr/local/lib/keep_machines.py
    - source: salt://master/files/keep_machines.py
    - mode: '0644'

master-correct-unit:
  file.managed:
    - name: /etc/systemd/system/correct-machines.service
    - source: salt://master/files/correct-machines.service
    - mode: '0644'

master-correct-timer:
  file.managed:
    - name: /etc/systemd/system/correct-machines.timer
    - source: salt://master/files/correct-machines.timer
    - mode: '0644'

master-upgrade-unit:
  file.managed:
    - name: /etc/systemd/system/upgrade-machines.service
    - source: salt://master/files/upgrade-machines.service
    - mode: '0644'

master-upgrade-timer:
  file.managed:
    - name: /etc/systemd/system/upgrade-machines.timer
    - source: salt://master/files/upgrade-machines.timer.j2
    - template: jinja
    - mode: '0644'
    - context:
        window: {{ (window or 'Sun 03:00') | json }}
{% for verb, wanted in [('correct', corrects), ('upgrade', window != '')] %}

master-{{ verb }}:
  service.{{ 'running' if wanted else 'dead' }}:
    - name: {{ verb }}-machines.timer
    - enable: {{ wanted }}
    - require:
      - file: master-scale-program
      - file: master-scale-config
      - file: master-keep-program
    - watch:
      - file: master-{{ verb }}-unit
      - file: master-{{ verb }}-timer
{% endfor %}

master-ended-machines-program:
  file.managed:
    - name: /usr/local/lib/start_ended_machines.py
    - source: salt://master/files/start_ended_machines.py
    - mode: '0644'

master-ended-machines-unit:
  file.managed:
    - name: /etc/systemd/system/start-ended-machines.service
    - source: salt://master/files/start-ended-machines.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        region: {{ pillar['aws']['region'] | json }}
        project: {{ pillar['aws']['project'] | json }}
        deployment: {{ pillar['settings']['deployment'] | json }}

master-ended-machines-timer:
  file.managed:
    - name: /etc/systemd/system/start-ended-machines.timer
    - source: salt://master/files/start-ended-machines.timer
    - mode: '0644'

master-ended-machines:
  service.running:
    - name: start-ended-machines.timer
    - enable: True
    - require:
      - file: master-ended-machines-program
    - watch:
      - file: master-ended-machines-unit
      - file: master-ended-machines-timer
