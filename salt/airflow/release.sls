# Airflow's locked release is unpacked from the archive that `airflow.artefact` has built on the
# Salt master, and its static files are shared with those of the other releases. The running release
# stays current.

airflow-packages:
  pkg.installed:
    - install_recommends: False
    - pkgs:
      - zstd

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

# Beside the other packages.
airflow-installed:
  airflow.installed:
    - parallel: True
    - name: /opt/airflow
    - lockfile: /opt/airflow/requirements.txt
    - archives: salt://airflow-releases
    - require:
      - pkg: airflow-packages
      - file: airflow-lockfile
