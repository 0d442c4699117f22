# A timer backs up the Salt master's keys into the deployment's bucket, encrypted, once a day and
# within minutes after one has changed.
master-backup-program:
  file.managed:
    - name: /usr/local/lib/master_backup.py
    - source: salt://master/files/master_backup.py
    - mode: '0644'

master-backup-unit:
  file.managed:
    - name: /etc/systemd/system/master-backup.service
    - source: salt://master/files/master-backup.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        deployment: {{ pillar['settings']['deployment'] | json }}
        region: {{ pillar['aws']['region'] | json }}
        bucket: {{ salt['aws.settings']()['bucket']['name'] | json }}

master-backup-timer:
  file.managed:
    - name: /etc/systemd/system/master-backup.timer
    - source: salt://master/files/master-backup.timer
    - mode: '0644'

master-backup:
  service.running:
    - name: master-backup.timer
    - enable: True
    - require:
      - file: master-backup-program
    - watch:
      - file: master-backup-unit
      - file: master-backup-timer
