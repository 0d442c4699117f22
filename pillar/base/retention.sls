# How long rows of Airflow's database are kept that only grow. salt/postgres
# removes what is older, a few times an hour (salt/postgres/cleaning.sls).
{% import_yaml 'airflow.sls' as web %}
retention:
  # A session lives so long after its login. One that has ended is removed.
  session_minutes: {{ web.airflow.session_lifetime_minutes | json }}
  # Every visit of the login page without a cookie adds a session of nobody.
  # Its form is void after an hour (WTF_CSRF_TIME_LIMIT of Flask-WTF).
  anonymous_session_minutes: 60
  # Who did what: Airflow's audit log.
  log_days: 90
