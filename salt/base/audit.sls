# The kernel records who changes what decides over a machine: users, sudo, SSH, Salt, the clock and
# modules. Of the 10 GB, the records take 32 MB at most. Watch: base-audit.

# A container has no records of its own: there, the package must not start what would fail.
{% for unit in ['auditd', 'audit-rules'] %}
base-audit-unit-{{ unit }}:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}.service.d/stack.conf
    - source: salt://base/files/audit.service.conf
    - makedirs: True
    - mode: '0644'
    - require_in:
      - pkg: base-packages
{% endfor %}

base-audit-config:
  file.managed:
    - name: /etc/audit/auditd.conf
    - source: salt://base/files/auditd.conf
    - mode: '0640'
    - require:
      - pkg: base-packages

base-audit-rules:
  file.managed:
    - name: /etc/audit/rules.d/60-stack.rules
    - source: salt://base/files/audit.rules.j2
    - template: jinja
    - mode: '0640'
    - context:
        login_user: {{ pillar['aws']['login_user'] | json }}
        master: {{ (salt['role.own']() == 'salt') | json }}
    - require:
      - pkg: base-packages

# Debian's file of rules, which has none of its own.
base-audit-rules-debian:
  file.absent:
    - name: /etc/audit/rules.d/audit.rules
    - require:
      - pkg: base-packages

base-audit:
  kernel.audited:
    - name: auditd
    - require:
      - file: base-audit-config
      - file: base-audit-rules
      - file: base-audit-rules-debian
