"""Settings of the login page (Flask-AppBuilder). Managed by Salt (salt/airflow)."""

import os

from flask_appbuilder.const import AUTH_DB

AUTH_TYPE = AUTH_DB
WTF_CSRF_ENABLED = True
# A session ends so long after the login. Otherwise each page of the login writes the session's row
# to move its end, and waits for its lock, which a web machine that stands still keeps.
SESSION_REFRESH_EACH_REQUEST = False

# Redis counts wrong passwords, so that the limit holds over all web machines and workers.
RATELIMIT_STORAGE_URI = os.environ["RATELIMIT_STORAGE_URI"]
RATELIMIT_STRATEGY = "fixed-window"
# Without Redis, users can still log in, and each worker counts by itself.
RATELIMIT_IN_MEMORY_FALLBACK_ENABLED = True
