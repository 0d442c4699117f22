# A machine that leads both PostgreSQL and etcd gives etcd up. Watch: postgres-etcd-leader.
{% set endpoints = pillar['endpoints'] %}

postgres-etcd-leader-program:
  file.managed:
    - name: /usr/local/lib/stack/etcd_leader.py
    - source: salt://postgres/files/etcd_leader.py
    - makedirs: True
    - mode: '0644'

postgres-etcd-leader-unit:
  file.managed:
    - name: /etc/systemd/system/etcd-leader.service
    - source: salt://postgres/files/etcd-leader.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        own: {{ grains['id'] | json }}
        domain: {{ pillar['domain'] | json }}
        tls: {{ salt['file.dirname'](pillar['roles']['postgres']['certificate']['path']) }}
        ports:
          etcd: {{ endpoints['etcd-client']['port'] }}
          patroni: {{ endpoints.patroni.port }}

postgres-etcd-leader-timer:
  file.managed:
    - name: /etc/systemd/system/etcd-leader.timer
    - source: salt://postgres/files/etcd-leader.timer
    - mode: '0644'

postgres-etcd-leader:
  service.running:
    - name: etcd-leader.timer
    - enable: True
    - require:
      - file: postgres-etcd-leader-program
      - patroni: postgres-shared-settings
    - watch:
      - file: postgres-etcd-leader-unit
      - file: postgres-etcd-leader-timer
