"""The site's certificate of an ACME CA, as the program on a load balancer has noted it.

``salt/haproxy/files/site_certificate.py`` gets and renews it.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__salt__: dict[str, Any]

UNIT = "site-certificate.service"
CONFIG = "/etc/site-certificate/config.json"
FOLDER = "/var/lib/site-certificate"
# Of its life: it is renewed with a third left.
SOON = 1 / 6


def thumbprint(private_key: str) -> str:
    """Return the thumbprint of an account's key, with which each answer to a challenge ends.

    https://www.rfc-editor.org/rfc/rfc7638

    Args:
        private_key: of the curve P-256, PEM.

    Raises:
        CommandExecutionError: it is no such key.
    """
    try:
        key = serialization.load_pem_private_key(private_key.encode(), None)
    except (ValueError, TypeError) as error:
        raise CommandExecutionError(f"the account's key cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise CommandExecutionError("the account's key is not of the curve P-256")
    numbers = key.public_key().public_numbers()
    parts = {"crv": "P-256", "kty": "EC"}
    parts |= {name: _base64(getattr(numbers, name).to_bytes(32)) for name in ("x", "y")}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return _base64(hashlib.sha256(text.encode()).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def told(config: str = CONFIG, folder: str = FOLDER) -> dict[str, str]:
    """Return what ``role.status`` says about the certificate.

    Args:
        config: the program's configuration.
        folder: what the program keeps.

    Returns:
        ``renewal``: until when there is a certificate, and why it is not renewed. ``problem``: that
        there is none, or that it ends soon, and why; or "". Both are empty on a machine that asks
        no CA.
    """
    try:
        ca = urlsplit(json.loads(Path(config).read_text())["directory"]).netloc
    except FileNotFoundError:
        return {"renewal": "", "problem": ""}
    known = _state(Path(folder, "state.json"))
    why, waits = str(known.get("why", "")), str(known.get("waits", ""))
    failing = f"{why}; the next try is after {known.get('next')}" if why else ""
    try:
        found = x509.load_pem_x509_certificate(Path(folder, "live/site.pem").read_bytes())
    except (OSError, ValueError):
        text = f"the site has no certificate of {ca} yet"
        problem = f"{text}: {failing}" if failing else ""
        return {"renewal": "" if problem else text, "problem": problem}
    end = found.not_valid_after_utc
    left, life = end - dt.datetime.now(dt.UTC), end - found.not_valid_before_utc
    text = f"certificate of {ca} until {end:%Y-%m-%d %H:%M} UTC"
    if left < life * SOON:
        ends = "ends soon" if left > dt.timedelta() else "has ended"
        reason = failing or waits or "nothing renews it: see journalctl -u site-certificate"
        return {"renewal": "", "problem": f"{text} {ends}: {reason}"}
    if failing:
        text += f"; since {known.get('since')} it is not renewed: {failing}"
    return {"renewal": f"{text}; {waits}" if waits else text, "problem": ""}


def obtain(config: str = CONFIG, folder: str = FOLDER) -> str:
    """Have a certificate that is needed asked for at once, also after a failure.

    A CA that has had too many requests is asked no sooner than it says.

    Args:
        config: the program's configuration.
        folder: what the program keeps.

    Returns:
        Until when there is a certificate.

    Raises:
        CommandExecutionError: there is none, or it could not be renewed.
    """
    path = Path(folder, "state.json")
    if (known := _state(path)) and not known.get("limited"):
        path.write_text(json.dumps(known | {"next": ""}))
    done = __salt__["cmd.run_all"](
        ["systemctl", "start", UNIT], python_shell=False, ignore_retcode=True
    )
    if done["retcode"] != 0:
        raise CommandExecutionError(f"{UNIT}: {done['stderr'] or done['stdout']}")
    found = told(config, folder)
    if _state(path).get("why") or found["problem"]:
        raise CommandExecutionError(found["problem"] or found["renewal"])
    return found["renewal"]


def _state(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
