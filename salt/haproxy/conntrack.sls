# The edge tracks a bounded number of connections, and forgets soon those that are over.
{% set conntrack = 'net.netfilter.nf_conntrack_' %}

# systemd-sysctl finds the settings at boot only when the module is loaded before.
haproxy-conntrack-module:
  file.managed:
    - name: /etc/modules-load.d/stack.conf
    - contents: |
        # Managed by salt/haproxy.
        nf_conntrack
    - mode: '0644'

# An entry takes some 320 bytes, so a full table takes 20 MB. The kernel's default for 1 GiB is
# about this, but depends on the memory. An established connection without a packet is kept for an
# hour: longer than any of HAProxy's timeouts, and not the kernel's five days.
{% for name, value in {
  'max': 65536,
  'tcp_timeout_established': 3600,
  'tcp_timeout_syn_recv': 20,
  'tcp_timeout_fin_wait': 30,
  'tcp_timeout_close_wait': 30,
  'tcp_timeout_last_ack': 20,
  'tcp_timeout_time_wait': 30,
}.items() %}
haproxy-conntrack-{{ name | replace('_', '-') }}:
  kernel.setting:
    - name: {{ conntrack ~ name }}
    - value: {{ value }}
    - require:
      - file: haproxy-conntrack-module
{% endfor %}
