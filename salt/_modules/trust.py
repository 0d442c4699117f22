"""Which CAs this machine trusts, which certificate it has, and who has not loaded them.

``stackctl secrets rotate deployment-ca`` asks, before it begins the next phase of a rotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

# Set by Salt's loader.
__salt__: dict[str, Any]


def told() -> dict[str, Any]:
    """Return what the files of this machine's role hold, as its last highstate names them.

    Returns:
        ``authorities``: file -> the fingerprints of the CAs in it. ``certificates``: file -> the
        fingerprint of the certificate in it. ``not_loaded``: unit -> which of these files it has
        not loaded as they are. A file that cannot be read holds nothing.

    Raises:
        CommandExecutionError: no highstate has run yet.
    """
    role = __salt__["role.recorded"]()
    trusts = [*role.get("trusts", []), *role.get("sender", {}).get("trusts", [])]
    leaves = __salt__["role.leaves"](role)
    paths = [path for each in leaves for path in (each["path"], *each.get("copies", []))]
    not_loaded: Mapping[str, list[str]] = __salt__["service_config.outdated"]()
    known = {*trusts, *paths}
    mine = {unit: [path for path in found if path in known] for unit, found in not_loaded.items()}
    return {
        "authorities": {path: _fingerprints(path) for path in trusts},
        "certificates": {path: "".join(_fingerprints(path)[:1]) for path in paths},
        "not_loaded": {unit: found for unit, found in mine.items() if found},
    }


def _fingerprints(path: str) -> list[str]:
    """Return those of the certificates in a file."""
    try:
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError):
        return []
    return [certificate.fingerprint(hashes.SHA256()).hex() for certificate in found]
