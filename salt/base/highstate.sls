# A timer compares this machine with its states, in ten minutes of the hour that its number says: no
# two of the first six machines of a role do so at once. Watch: base-highstate-timer.
base-highstate-unit:
  file.managed:
    - name: /etc/systemd/system/highstate-compare.service
    - source: salt://base/files/highstate-compare.service
    - mode: '0644'

base-highstate-timer-unit:
  file.managed:
    - name: /etc/systemd/system/highstate-compare.timer
    - source: salt://base/files/highstate-compare.timer.j2
    - template: jinja
    - mode: '0644'
    - context:
        minute: {{ salt['role.turn']() * 10 }}

base-highstate-timer:
  service.running:
    - name: highstate-compare.timer
    - enable: True
    - watch:
      - file: base-highstate-unit
      - file: base-highstate-timer-unit

# It counts the failed states before it, so it comes last.
base-highstate-recorded:
  highstate.recorded:
    - name: highstate
    - order: last
