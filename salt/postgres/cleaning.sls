# Rows of Airflow's database that only grow are removed when they are older than pillar `retention`.
# This machine does it: when it is away there is no database either, and no web machine spends the
# memory and the seconds of Airflow's own command. Watch: postgres-cleaning.
{% set server, postgres = pillar['roles']['postgres'], pillar['postgres'] %}

postgres-cleaning-script:
  file.managed:
    - name: /etc/postgresql/clean.sql
    - source: salt://postgres/files/clean.sql.j2
    - template: jinja
    - mode: '0644'
    - context:
        role: {{ postgres.role | json }}
        retention: {{ pillar['retention'] | json }}
    - require:
      - pkg: postgres-package

postgres-cleaning-unit:
  file.managed:
    - name: /etc/systemd/system/postgres-clean.service
    - source: salt://postgres/files/postgres-clean.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        server: {{ server.unit | json }}
        database: {{ postgres.database | json }}

postgres-cleaning-timer:
  file.managed:
    - name: /etc/systemd/system/postgres-clean.timer
    - source: salt://postgres/files/postgres-clean.timer
    - mode: '0644'

postgres-cleaning:
  service.running:
    - name: postgres-clean.timer
    - enable: True
    - require:
      - file: postgres-cleaning-script
      - postgres_access: postgres-access
    - watch:
      - file: postgres-cleaning-unit
      - file: postgres-cleaning-timer
