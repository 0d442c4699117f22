# A Debian with security updates, in UTC, that lets in only what pillar `endpoints` names and knows
# the other machines by name. Every machine applies this first. Watch: base-firewall-loaded.
include:
  - base.audit
  - base.hardening
  - base.highstate
  - base.recorder
  - base.time
  - journal_upload
  - minion
  - node_exporter

# The deploy script has written the same before there was a minion.
{% set package_proxy = salt['machines.package_proxy']() %}
base-package-proxy:
{%- if package_proxy %}
  file.managed:
    - name: /etc/apt/apt.conf.d/60-stack-proxy
    - source: salt://base/files/apt-proxy.conf.j2
    - template: jinja
    - mode: '0644'
    - context:
        url: {{ package_proxy | json }}
{%- else %}
  file.absent:
    - name: /etc/apt/apt.conf.d/60-stack-proxy
{%- endif %}

# In one call: each takes apt a second of CPU. chrony takes the place of systemd-timesyncd.
base-packages:
  pkg.installed:
    - install_recommends: False
    - pkgs:
      - auditd
      - chrony
      - nftables
      - systemd-zram-generator
      - tzdata
      - unattended-upgrades
      - zstd
    - require:
      - file: base-package-proxy

# In Debian's cloud image, cloud-init writes /etc/hosts again at every boot.
base-hosts-stay:
  file.managed:
    - name: /etc/cloud/cloud.cfg.d/90-stack.cfg
    - source: salt://base/files/cloud.cfg
    - makedirs: True
    - mode: '0644'

base-hosts:
  file.managed:
    - name: /etc/hosts
    - source: salt://base/files/hosts.j2
    - template: jinja
    - mode: '0644'
    - context:
        machines: {{ salt['machines.host_names']() | json }}
        hostname: {{ grains['host'] | json }}

# role.status reads this. The pillar that a minion keeps in memory may be older than this run's.
base-role:
  file.serialize:
    - name: /etc/salt/role.json
    - serializer: json
    - dataset: {{ salt['role.description']() | json }}
    - mode: '0644'

base-timezone:
  file.symlink:
    - name: /etc/localtime
    - target: /usr/share/zoneinfo/Etc/UTC
    - force: True
    - require:
      - pkg: base-packages

base-journal:
  file.managed:
    - name: /etc/systemd/journald.conf.d/stack.conf
    - source: salt://base/files/journald.conf
    - makedirs: True
    - mode: '0644'

base-journal-loaded:
  service_config.loaded:
    - name: systemd-journald
    - require:
      - file: base-recorder

base-journal-service:
  service.running:
    - name: systemd-journald
    - watch:
      - service_config: base-journal-loaded
      - file: base-journal

base-tmp:
  file.managed:
    - name: /etc/systemd/system/tmp.mount.d/stack.conf
    - source: salt://base/files/tmp.mount.conf
    - makedirs: True
    - mode: '0644'

# Asked here and not by `onlyif`: for the first of those, Salt loads all of its modules, which takes
# 1.2 s of CPU and 43 MiB.
{% if salt['service.status']('tmp.mount') %}
base-tmp-mounted:
  service.running:
    - name: tmp.mount
    - reload: True
    - watch:
      - file: base-tmp
{% endif %}

# Redis and PostgreSQL ask for this: with `always`, a fork copies 2 MiB for each byte that changes.
base-huge-pages:
  kernel.parameter:
    - name: /sys/kernel/mm/transparent_hugepage/enabled
    - value: madvise

# For what nobody has thought of: no size counts on it, and the units with MemoryMax= get none. A
# quarter of the memory; pages that nobody uses shrink to a third. docs/capacity.md weighs it.
base-swap:
  kernel.compressed_swap:
    - name: zram0
    - mebibytes: 256
    - require:
      - pkg: base-packages

# EC2 makes a volume larger while its machine runs: the size in its profile, then `stackctl up`.
base-disk:
  root_disk.grown:
    - name: /

base-upgrades:
  file.managed:
    - name: /etc/apt/apt.conf.d/60-stack
    - source: salt://base/files/apt.conf
    - mode: '0644'
    - require:
      - pkg: base-packages

# At an hour of its own each of the first six machines of a role: an update that breaks a service
# shows on one of them while the others serve.
base-upgrades-timer-file:
  file.managed:
    - name: /etc/systemd/system/apt-daily-upgrade.timer.d/stack.conf
    - source: salt://base/files/apt-daily-upgrade.timer.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        hour: {{ salt['role.turn']() }}

base-upgrades-timer:
  service.running:
    - name: apt-daily-upgrade.timer
    - enable: True
    - watch:
      - file: base-upgrades-timer-file

# The first value of an option wins, so this file precedes cloud-init's.
base-ssh:
  sshd.options:
    - name: /etc/ssh/sshd_config.d/00-stack.conf
    - options:
        AllowUsers: {{ pillar['aws']['login_user'] | json }}
        PermitRootLogin: 'no'
        PasswordAuthentication: 'no'
        KbdInteractiveAuthentication: 'no'
        AuthenticationMethods: publickey
        MaxAuthTries: '3'
        LoginGraceTime: '30'
        # A connection whose client is gone ends after three minutes. Packets of TCP, which anybody
        # on the way can answer, do not count.
        ClientAliveInterval: '90'
        ClientAliveCountMax: '2'
        TCPKeepAlive: 'no'
        # With the fingerprint of each login's key.
        LogLevel: VERBOSE
        # OpenSSH 7.4 and newer has one of each. Without NIST's curves, SHA-1, and what
        # authenticates a packet before it is encrypted.
        KexAlgorithms: {{ [
          'mlkem768x25519-sha256', 'sntrup761x25519-sha512', 'sntrup761x25519-sha512@openssh.com',
          'curve25519-sha256', 'curve25519-sha256@libssh.org',
        ] | join(',') }}
        Ciphers: chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com
        MACs: hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com
        X11Forwarding: 'no'
        AllowAgentForwarding: 'no'
        AllowStreamLocalForwarding: 'no'
        # By way of the master operators reach the other machines' SSH, and nothing else.
{% if salt['role.own']() == 'salt' %}
        AllowTcpForwarding: local
        PermitOpen: '*:22'
{% else %}
        AllowTcpForwarding: 'no'
{% endif %}
        PermitUserEnvironment: 'no'

# Earlier releases wrote the options here, behind a file of the image.
base-ssh-old:
  file.absent:
    - name: /etc/ssh/sshd_config.d/10-stack.conf
    - require:
      - sshd: base-ssh

base-ssh-loaded:
  service_config.loaded:
    - name: ssh
    - paths:
        base-ssh: /etc/ssh/sshd_config.d/00-stack.conf
    - require:
      - file: base-recorder

base-ssh-service:
  service.running:
    - name: ssh
    - enable: True
    - reload: True
    - watch:
      - service_config: base-ssh-loaded
      - sshd: base-ssh

base-host-keys-unit:
  file.managed:
    - name: /etc/systemd/system/console-host-keys.service
    - source: salt://base/files/console-host-keys.service
    - mode: '0644'

base-host-keys:
  service.enabled:
    - name: console-host-keys
    - require:
      - file: base-host-keys-unit

# Debian's unit flushes all tables when it stops, also those of other programs (Docker's DNS).
base-firewall-unit:
  file.managed:
    - name: /etc/systemd/system/nftables.service.d/stack.conf
    - source: salt://base/files/nftables.service.conf
    - makedirs: True
    - mode: '0644'

base-firewall-rules:
  file.managed:
    - name: /etc/nftables.conf
    - source: salt://base/files/nftables.conf.j2
    - template: jinja
    - mode: '0644'
    - check_cmd: nft --check --file
    - context:
        rules: {{ salt['firewall.rules']() | json }}
    - require:
      - pkg: base-packages

base-firewall:
  service.running:
    - name: nftables
    - enable: True
    - reload: True
    - require:
      - file: base-firewall-unit
    - watch:
      - file: base-firewall-rules

# The kernel holds these rules and no others. This repairs them without cutting a connection.
base-firewall-loaded:
  firewall.loaded:
    - name: /etc/nftables.conf
    - require:
      - service: base-firewall
