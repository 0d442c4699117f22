"""Settings of the login page (Flask-AppBuilder). Managed by Salt (salt/airflow)."""

import os

from flask_appbuilder.const import AUTH_DB

AUTH_TYPE = AUTH_DB
WTF_CSRF_ENABLED = True

# Wrong passwords are counted in Redis, so that the limit holds over all web machines and their workers.
RATELIMIT_STORAGE_URI = os.environ["RATELIMIT_STORAGE_URI"]
RATELIMIT_STRATEGY = "fixed-window"
# Without Redis people can still log in: each worker then counts for itself.
RATELIMIT_IN_MEMORY_FALLBACK_ENABLED = True
