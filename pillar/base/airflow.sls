# What the site decides about Airflow. Sizes that follow from the machine are in
# salt/airflow/defaults.yaml.
airflow:
  admin:
    username: admin
    firstname: Stack
    lastname: Admin
  # Per client address, over all web machines.
  login_rate_limit: 5 per 40 seconds
  session_lifetime_minutes: 720
