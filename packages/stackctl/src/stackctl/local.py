"""Names, ports and folders of the deployment `local`, which need no local cloud to be known."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

ADDRESS = "127.0.0.1"


def https_port() -> int:
    """Return the port of this host that leads to the load balancer: `STACK_HTTPS_PORT`, or 8443."""
    return _port("STACK_HTTPS_PORT", 8443)


def base_url() -> str:
    """Return the address that users of the local stack type."""
    return f"https://{ADDRESS}:{https_port()}"


def api_port() -> int:
    """Return the port of the EC2 API: `STACK_API_PORT`, or 5566."""
    return _port("STACK_API_PORT", 5566)


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise PreflightError(
            f"{variable} is '{text}', which is no port.", "Use a number from 1 to 65535."
        )
    return int(text)


def cloud_name(deployment: Deployment) -> str:
    """Return the label of the local cloud's machines, which differs from other checkouts' label."""
    return f"{deployment.name}-{hashlib.sha256(str(deployment.root).encode()).hexdigest()[:8]}"


def cloud_folder(deployment: Deployment) -> Path:
    """Return the folder of the local cloud's state."""
    return deployment.state_dir / "cloud"


def checkout_of(folder: Path) -> Path:
    """Return the root of the tree to which the folder of a local cloud's state belongs."""
    return folder.parents[2]
