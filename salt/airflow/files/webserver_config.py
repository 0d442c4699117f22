"""Settings of the login page (Flask-AppBuilder). Managed by Salt (salt/airflow)."""

import os
from hashlib import sha256

from airflow.configuration import conf
from flask import Response, request
from flask_appbuilder.const import AUTH_DB


def brings_no_password() -> bool:
    """Return whether the request is not a login."""
    return request.method != "POST" or request.endpoint != "AuthDBView.login"


def is_wrong(response: Response) -> bool:
    """Return whether a login was refused: the answer leads elsewhere, and has no token."""
    return response.status_code == 302 and "_token=" not in str(
        response.headers.getlist("Set-Cookie")
    )


def user_at_address() -> str:
    """Return for whom wrong passwords are counted. A client may send a name of any length."""
    user = request.form.get("username", "").lower()
    return sha256(f"{request.remote_addr} {user}".encode()).hexdigest()


AUTH_TYPE = AUTH_DB
WTF_CSRF_ENABLED = True
# A session ends so long after the login. Otherwise each page of the login writes the session's row
# to move its end, and waits for its lock, which a web machine that stands still keeps.
SESSION_REFRESH_EACH_REQUEST = False

# Redis counts wrong passwords at the login page, so that the limit holds over all edges, web
# machines and workers. The edge counts those of the API too, and refuses before Airflow has work
# (salt/haproxy/files/haproxy.cfg.j2).
RATELIMIT_ENABLED = True
RATELIMIT_DEFAULT = conf.get("fab", "auth_rate_limit")
RATELIMIT_DEFAULTS_EXEMPT_WHEN = brings_no_password
RATELIMIT_DEFAULTS_DEDUCT_WHEN = is_wrong
RATELIMIT_KEY_FUNC = user_at_address
RATELIMIT_HEADERS_ENABLED = True
RATELIMIT_STORAGE_URI = os.environ["RATELIMIT_STORAGE_URI"]
RATELIMIT_STRATEGY = "fixed-window"
# Without Redis, users can still log in, and each worker counts by itself.
RATELIMIT_IN_MEMORY_FALLBACK_ENABLED = True
