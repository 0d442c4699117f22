# The Salt master can build Airflow's locked release, once for all web machines. When its archive is
# missing, it takes it from the deployment's bucket, or builds it in the background.
# `airflow.artefact` waits for that.
{% import_yaml 'airflow/defaults.yaml' as defaults %}
{% set airflow = salt['pillar.get']('airflow', defaults.airflow, merge=True) %}

airflow-build-packages:
  pkg.installed:
    - install_recommends: False
    - pkgs:
      - brotli
      - zstd

airflow-archives:
  file.directory:
    - name: {{ airflow.archives }}/airflow-releases
    - makedirs: True
    - mode: '0755'

airflow-build-folder:
  file.directory:
    - name: /opt/airflow
    - mode: '0755'

airflow-build-lockfile:
  file.managed:
    - name: /opt/airflow/requirements.txt
    - source: salt://airflow/files/requirements.txt
    - mode: '0644'
    - show_changes: False
    - require:
      - file: airflow-build-folder

airflow-build-program:
  file.managed:
    - name: /usr/local/lib/build_release.py
    - source: salt://airflow/files/build_release.py
    - mode: '0644'

airflow-build-unit:
  file.managed:
    - name: /etc/systemd/system/airflow-release@.service
    - source: salt://airflow/files/airflow-release@.service.j2
    - template: jinja
    - mode: '0644'
    - context:
        lockfile: /opt/airflow/requirements.txt
        archives: {{ airflow.archives }}/airflow-releases
        memory_high_megabytes: {{ airflow.build_memory_high_megabytes | json }}

airflow-build:
  airflow_artefact.built:
    - name: {{ airflow.archives }}/airflow-releases
    - lockfile: /opt/airflow/requirements.txt
    - wait: False
    - require:
      - pkg: airflow-build-packages
      - file: airflow-archives
      - file: airflow-build-lockfile
      - file: airflow-build-program
      - file: airflow-build-unit
