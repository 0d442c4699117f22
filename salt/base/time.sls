# The clock follows Amazon's time, which no security group filters and no route is needed for. A
# machine has no way out to any other server. What checks certificates and tokens needs the right
# time, and so does etcd. salt/_modules/drift.py tells of a clock that is wrong. Watch: base-time.

# In place of Debian's, which asks servers of the internet and those that DHCP names.
base-time-config:
  file.managed:
    - name: /etc/chrony/chrony.conf
    - source: salt://base/files/chrony.conf
    - mode: '0644'
    - require:
      - pkg: base-packages

# A container shares its host's clock and may not set it. There, chronyd measures alone.
base-time-unit:
  file.managed:
    - name: /etc/systemd/system/chrony.service.d/stack.conf
    - source: salt://base/files/chrony.service.conf.j2
    - template: jinja
    - makedirs: True
    - mode: '0644'
    - context:
        sets_clock: {{ (grains.get('virtual') != 'container') | json }}

base-time:
  service.running:
    - name: chrony
    - enable: True
    - require:
      - pkg: base-packages
    - watch:
      - file: base-time-config
      - file: base-time-unit

# Of earlier releases.
{% for name, path in {
  'sources': '/etc/chrony/sources.d/stack.sources',
  'timesyncd': '/etc/systemd/timesyncd.conf.d/stack.conf',
}.items() %}
base-time-old-{{ name }}:
  file.absent:
    - name: {{ path }}
{% endfor %}
