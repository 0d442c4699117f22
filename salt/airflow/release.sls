# Airflow's locked release is installed in a virtual environment of its own. The running release
# stays current.

airflow-user:
  user.present:
    - name: airflow
    - system: True
    - home: /var/lib/airflow
    - createhome: False
    - shell: /usr/sbin/nologin

airflow-releases:
  file.directory:
    - name: /opt/airflow/releases
    - makedirs: True
    - mode: '0755'

airflow-lockfile:
  file.managed:
    - name: /opt/airflow/requirements.txt
    - source: salt://airflow/files/requirements.txt
    - mode: '0644'
    - show_changes: False
    - require:
      - file: airflow-releases

airflow-installed:
  airflow.installed:
    - name: /opt/airflow
    - lockfile: /opt/airflow/requirements.txt
    - require:
      - file: airflow-lockfile
