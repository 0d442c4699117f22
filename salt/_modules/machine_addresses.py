"""The master's record of the machines' private addresses, as EC2 tells them.

The addresses end in other machines' firewalls, names and lists of clients, so no machine is asked
for its own: one that lies would be let in where another one is. The orchestration has the master
record them before the machines get their pillar (``salt/_pillar/machine_addresses.py``).
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__pillar__: dict[str, Any]
__salt__: dict[str, Callable[..., Any]]

RECORD = "/var/lib/machine-addresses/addresses.json"

log = logging.getLogger(__name__)


def path() -> str:
    """Return the file with the record on the master."""
    return RECORD


def record(path: str = RECORD) -> dict[str, str]:
    """Write and return minion id -> private address of all machines whose keys are accepted.

    A machine that EC2 does not have any more keeps its last address until its key goes: it will be
    launched again, and until then nothing else changes for the others. When EC2 does not answer,
    the record stays as it is, if every machine is in it.

    Args:
        path: the file.

    Raises:
        CommandExecutionError: EC2 has two machines of one name, an address is not in the VPC, or
            EC2 does not answer and a machine has no address yet.
    """
    accepted = __salt__["role.accepted"]()
    file = Path(path)
    before = _recorded(file)
    last = {name: before[name] for name in accepted if name in before}
    try:
        found = _of_ec2()
    except CommandExecutionError as error:
        if unknown := [name for name in accepted if name not in last]:
            raise CommandExecutionError(
                f"the address of {', '.join(unknown)} is unknown, and EC2 does not tell: {error}"
            ) from error
        log.warning("EC2 does not tell the machines' addresses; the last ones count: %s", error)
        found = {}
    taken = set(found.values())
    kept = {name: address for name, address in last.items() if address not in taken}
    known = {name: address for name, address in (kept | found).items() if name in accepted}
    if known != before:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".new")
        scratch.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        scratch.replace(file)
    return known


def _recorded(file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.warning("%s is damaged and written anew: %s", file, error)
        return {}


def _of_ec2() -> dict[str, str]:
    """Return name -> private address of the deployment's instances that are not terminated."""
    network = ipaddress.IPv4Network(__pillar__["aws"]["vpc"]["cidr"])
    __salt__["aws.forget"]("ec2")
    found: dict[str, str] = {}
    for instance in __salt__["aws.own"]("instance", __pillar__["aws"]["region"]):
        name = __salt__["aws.tags_of"](instance).get("Name", "")
        address = instance.get("PrivateIpAddress", "")
        if not address:
            continue  # it is being launched, or ends
        if name in found:
            raise CommandExecutionError(
                f"EC2 has two machines {name}: {found[name]} and {address}."
                " Terminate the one that is not the deployment's"
            )
        if ipaddress.IPv4Address(address) not in network:
            raise CommandExecutionError(f"EC2 says {name} has {address}, which is not in {network}")
        found[name] = address
    return found
