# What the site decides about Airflow. Sizes that follow from the machine are in
# salt/airflow/defaults.yaml.
airflow:
  admin:
    username: admin
    firstname: Stack
    lastname: Admin
  # Wrong passwords of a user from one address, over all web machines. The edge
  # has the same limit for the API too (pillar/base/haproxy.sls).
  login_rate_limit: 5 per 40 seconds
  # After the login, whether it is used or not. No token lives longer either.
  session_lifetime_minutes: 720
  # Of a list in the UI, until a user chooses another number, and of an answer
  # of the API to a request without `limit`; who wants more asks for it, up to
  # 100. Airflow's own default is 50: the list of DAGs then costs twice the CPU,
  # and the browser asks twice more for each row with an asset.
  rows_per_page: 25
