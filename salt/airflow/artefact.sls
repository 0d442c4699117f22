# The Salt master serves the archive of Airflow's locked release to the web machines, and keeps it
# in the deployment's bucket for the next Salt master.
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

airflow-artefact-kept:
  airflow_artefact.kept:
    - name: {{ airflow.archives }}/airflow-releases
    - lockfile: /opt/airflow/requirements.txt
    - require:
      - airflow_artefact: airflow-artefact
