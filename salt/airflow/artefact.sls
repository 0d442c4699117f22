# The Salt master serves the archive of Airflow's locked release to the web machines.
{% import_yaml 'airflow/defaults.yaml' as defaults %}
{% set airflow = salt['pillar.get']('airflow', defaults.airflow, merge=True) %}

include:
  - airflow.build

airflow-artefact:
  airflow_artefact.built:
    - name: {{ airflow.archives }}/airflow-releases
    - lockfile: /opt/airflow/requirements.txt
    - require:
      - airflow_artefact: airflow-build
