"""Whether the operator of this run may log in to the Salt master, as its security group has it."""

from __future__ import annotations

import http.client
import ipaddress
import os
import urllib.request
from pathlib import Path

from salt.exceptions import CommandExecutionError

from stackctl.deployment import Deployment
from stackctl.errors import PreflightError
from stackctl.tree_modules import load

ASK = "https://checkip.amazonaws.com"
"""Amazon's page that shows a caller the caller's own address."""
ASK_SECONDS = 3
VARIABLE = "STACK_OPERATOR_ADDRESS"
"""The environment variable with the address from which SSH leaves this host, where `ASK` would
show another; empty: do not ask."""


def check(deployment: Deployment) -> None:
    """Raise PreflightError unless the settings name networks, and this host is in one of them.

    An address that nobody tells is no failure: then SSH decides.

    Args:
        deployment: one that is not on this machine.
    """
    path = deployment.settings_path.relative_to(deployment.root)
    cidrs = deployment.settings().get("operator_cidrs")
    if not cidrs:
        raise PreflightError(
            f"{path} names no operator_cidrs: nobody could reach {deployment.master()}.",
            "Add the networks that you come from, such as [198.51.100.7/32].",
        )
    networks = _networks(deployment, path, cidrs)
    own = own_address()
    if own and not any(own in network for network in networks):
        raise PreflightError(
            f"You come from {own}, which is in none of the operator_cidrs of {path}"
            f" ({', '.join(map(str, networks))}): {deployment.master()} would not let you in.",
            f"Add {own}/32 there, and run the same command again: it opens the security group"
            f" first. If SSH leaves this host from another address, set {VARIABLE} to that.",
        )


def _networks(deployment: Deployment, path: Path, cidrs: object) -> list[ipaddress.IPv4Network]:
    """Return the networks as the states read them."""
    try:
        found = load(deployment, "operators").networks(cidrs)
    except CommandExecutionError as error:
        raise PreflightError(f"{path}: {error}.") from None
    return [ipaddress.IPv4Network(network) for network in found]


def own_address() -> ipaddress.IPv4Address | None:
    """Return the public address of this host; None: nobody tells it."""
    answer = os.environ.get(VARIABLE)
    if answer is None:
        answer = _ask()
    try:
        return ipaddress.IPv4Address(answer.strip())
    except ValueError:
        return None


def _ask() -> str:
    # Without the environment's proxy: SSH does not pass through it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(ASK, timeout=ASK_SECONDS) as page:
            text: bytes = page.read(64)
    except (OSError, http.client.HTTPException):  # a URLError is an OSError
        return ""
    return text.decode(errors="replace")
