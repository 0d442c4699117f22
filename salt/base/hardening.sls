# What nothing of the stack needs and an intruder could use is off: core dumps, kernel modules for
# rare protocols and devices, programs that run as root for everybody. docs/lynis.md answers what
# lynis still suggests.
{% set folder = 'salt://base/files/' %}

# A dump of a service's memory holds its secrets.
base-no-dumps:
  file.managed:
    - name: /etc/security/limits.d/60-stack.conf
    - source: {{ folder }}limits.conf
    - mode: '0644'

base-no-dumps-of-services:
  file.managed:
    - name: /etc/systemd/system.conf.d/stack.conf
    - source: {{ folder }}system.conf
    - makedirs: True
    - mode: '0644'

base-no-dumps-of-services-loaded:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: base-no-dumps-of-services

base-no-dumps-kept:
  file.managed:
    - name: /etc/systemd/coredump.conf.d/stack.conf
    - source: {{ folder }}coredump.conf
    - makedirs: True
    - mode: '0644'

base-shell:
  file.managed:
    - name: /etc/profile.d/stack.sh
    - source: {{ folder }}profile.sh
    - mode: '0644'

base-modules:
  file.managed:
    - name: /etc/modprobe.d/stack.conf
    - source: {{ folder }}modprobe.conf
    - makedirs: True
    - mode: '0644'

# For a user that somebody adds, with a password, nevertheless. The login user is older than this.
{% for name, value in {
  'PASS_MAX_DAYS': 365,
  'PASS_MIN_DAYS': 1,
  'SHA_CRYPT_MIN_ROUNDS': 65536,
  'YESCRYPT_COST_FACTOR': 7,
}.items() %}
base-login-{{ name | lower | replace('_', '-') }}:
  file.replace:
    - name: /etc/login.defs
    - pattern: '^#?{{ name }}[ \t].*$'
    - repl: "{{ name }}\t{{ value }}"
    - append_if_not_found: True
{% endfor %}

# On the console; nobody logs in there.
base-notice:
  file.managed:
    - names: [/etc/issue, /etc/issue.net]
    - source: {{ folder }}issue
    - mode: '0644'

# Debian gives these to everybody with root's rights, or with the group's that reads the hashes of
# passwords. Here the login user has sudo, and nobody has a password.
base-setuid:
  setuid.absent:
    - paths:
{%- for name in [
  'chage', 'chfn', 'chsh', 'expiry', 'gpasswd', 'mount', 'newgrp', 'passwd', 'su', 'umount',
] %}
        - /usr/bin/{{ name }}
{%- endfor %}
        - /usr/lib/openssh/ssh-keysign

# As lynis wants them, but for kernel.modules_disabled, which would keep nftables and zram from
# being loaded. The first two also keep root's programs from other users' files in /tmp.
{% for name, value in {
  'fs.protected_fifos': 2,
  'fs.protected_regular': 2,
  'fs.protected_hardlinks': 1,
  'fs.protected_symlinks': 1,
  'fs.suid_dumpable': 0,
  'dev.tty.ldisc_autoload': 0,
  'kernel.core_uses_pid': 1,
  'kernel.ctrl-alt-del': 0,
  'kernel.dmesg_restrict': 1,
  'kernel.kptr_restrict': 2,
  'kernel.perf_event_paranoid': 3,
  'kernel.randomize_va_space': 2,
  'kernel.sysrq': 0,
  'kernel.unprivileged_bpf_disabled': 1,
  'kernel.yama.ptrace_scope': 1,
  'net.core.bpf_jit_harden': 2,
  'net.ipv4.conf.all.accept_redirects': 0,
  'net.ipv4.conf.all.accept_source_route': 0,
  'net.ipv4.conf.all.forwarding': 0,
  'net.ipv4.conf.all.log_martians': 1,
  'net.ipv4.conf.all.proxy_arp': 0,
  'net.ipv4.conf.all.rp_filter': 1,
  'net.ipv4.conf.all.send_redirects': 0,
  'net.ipv4.conf.default.accept_redirects': 0,
  'net.ipv4.conf.default.accept_source_route': 0,
  'net.ipv4.conf.default.log_martians': 1,
  'net.ipv4.icmp_echo_ignore_broadcasts': 1,
  'net.ipv4.icmp_ignore_bogus_error_responses': 1,
  'net.ipv4.tcp_syncookies': 1,
  'net.ipv6.conf.all.accept_redirects': 0,
  'net.ipv6.conf.all.accept_source_route': 0,
  'net.ipv6.conf.default.accept_redirects': 0,
  'net.ipv6.conf.default.accept_source_route': 0,
}.items() %}
base-kernel-{{ name | replace('.', '-') }}:
  kernel.setting:
    - name: {{ name }}
    - value: {{ value }}
{% endfor %}
