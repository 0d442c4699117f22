"""The local cloud below the deployment `local`: what it is called, where it listens, how it starts and ends."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

Report = Callable[[str], None]
EDGE = "lb-1"
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
    """Return what the local cloud's machines are labelled with: another checkout's are never taken for ours."""
    return f"{deployment.name}-{hashlib.sha256(str(deployment.root).encode()).hexdigest()[:8]}"


def cloud_folder(deployment: Deployment) -> Path:
    """Return where the local cloud keeps its state."""
    return deployment.state_dir / "cloud"


def credentials_files(deployment: Deployment, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the same for root on the master, where AWS has an instance role: file name below ~/.aws -> content."""
    return {
        "config": f"[default]\nregion = {deployment.region()}\nendpoint_url = {variables['AWS_ENDPOINT_URL']}\n",
        "credentials": (
            f"[default]\naws_access_key_id = {variables['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {variables['AWS_SECRET_ACCESS_KEY']}\n"
        ),
    }
