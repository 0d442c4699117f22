"""The site, asked over HTTPS as by a user's browser."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError

PAGE_BYTES = 1 << 20


def address(deployment: Deployment) -> str:
    """Return the address that users type."""
    return str(deployment.settings()["base_url"])


def problem(deployment: Deployment, timeout: float = 10) -> str:
    """Ask the site once and return why it is not healthy; empty: it is.

    Args:
        deployment: whose site.
        timeout: seconds to wait for an answer.
    """
    edge = deployment.role_table().edge
    trust = ssl.create_default_context()
    # Beside the public CAs, since the site may have a certificate from one.
    settings = deployment.settings()
    private = [settings["ca_certificate"], settings.get("acme", {}).get("ca_certificate", "")]
    trust.load_verify_locations(cadata="\n".join(map(str, private)))
    try:
        with urllib.request.urlopen(
            address(deployment) + edge.health_path, timeout=timeout, context=trust
        ) as answer:
            if answer.status != 200:
                return f"status {answer.status}"
            # The page answers 200 even when its database is not healthy.
            if edge.health_text not in answer.read(PAGE_BYTES).decode(errors="replace"):
                return f"{edge.health_path} answers without {edge.health_text}"
            return ""
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError
        return str(getattr(error, "reason", error)) or type(error).__name__


def require_healthy(deployment: Deployment, seconds: float = 60) -> None:
    """Ask the site until it is healthy.

    Raises:
        ConvergeError: it is not, after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while reason := problem(deployment):
        if time.monotonic() > deadline:
            raise ConvergeError(
                f"{address(deployment)} is not healthy: {reason}.", _hint(deployment)
            )
        time.sleep(1)


def _hint(deployment: Deployment) -> str:
    host = urlsplit(address(deployment)).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not deployment.is_local:
            name = deployment.in_account(deployment.base_pillar("aws")["edge_address"]["name"])
            return f"See: stackctl status. {host} must lead to the Elastic IP {name}."
    return "See: stackctl status"
