"""This machine's firewall: its rules from the pillar ``endpoints``, and what the kernel holds."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__grains__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

FILE = "/etc/nftables.conf"
TABLE = "inet stack"
# Docker's engine makes this table in a container whose network has names: its DNS server's.
_ENGINE_TABLE = "ip nat"
_ENGINE_ADDRESS = "127.0.0.11"
_STRUCTURE = re.compile(r"table .*|chain .*|type .*|}|#.*|")


def rules() -> list[dict[str, Any]]:
    """Return what this machine lets in: ``name``, ``port`` and the sources of each rule.

    ``sources`` is a sorted list of addresses and networks, or None where anybody may connect. A
    rule with ``outside`` in its place lets in everybody but the machines of that network. An
    endpoint without any client has no rule.

    An endpoint for operators lets in everybody from outside the VPC: who that is, the security
    group decides. The group can be changed through EC2's API, from anywhere. A list here could be
    changed over SSH alone, so an operator whose address has changed would be locked out.

    Raises:
        CommandExecutionError: a role that may connect has no machine, or an endpoint is wrong.
    """
    found: list[dict[str, Any]] = []
    for endpoint in __salt__["endpoints.served_by"](__salt__["role.serving"]()):
        rule = {"name": endpoint["name"], "port": endpoint["port"]}
        sources = _sources(endpoint)
        if sources != []:
            found.append(rule | {"sources": sources})
        if endpoint["operators"]:
            found.append(rule | {"outside": _vpc()})
    return found


def differences(path: str = FILE) -> list[str]:
    """Return how the rules that the kernel holds differ from those of a file.

    The file is loaded into an empty network namespace, so that both are in nft's own words.

    Args:
        path: the file, which declares the table `TABLE` and no other.

    Raises:
        CommandExecutionError: nft does not accept the file.
    """
    wanted = _nft_in_new_namespace(path)
    tables = _tables()
    found = [
        f"the firewall has a table that nobody declared: {table}" for table in _undeclared(tables)
    ]
    if TABLE not in tables:
        return [*found, f"the firewall is not loaded: the table {TABLE} does not exist"]
    loaded = _nft("--stateless", "list", "table", *TABLE.split())
    return found + _differing_lines(wanted.splitlines(), loaded.splitlines())


def load(path: str = FILE) -> None:
    """Load the rules of a file, and delete the tables that nobody declared.

    The file replaces its table in one transaction, and the kernel keeps the connections that it
    tracks.

    Raises:
        CommandExecutionError: nft refuses.
    """
    _nft("--file", path)
    for table in _undeclared(_tables()):
        _nft("delete", "table", *table.split())


def lets_in(port: int) -> bool:
    """Return whether the rules that the kernel holds let in a port, or no rules are loaded."""
    if TABLE not in _tables():
        return True
    loaded = _nft("--stateless", "list", "chain", *TABLE.split(), "input")
    return re.search(rf"\btcp dport {port} accept\b", loaded) is not None


def let_in(name: str, port: int, source: str) -> None:
    """Have the kernel let in a port at once; the next highstate loads all rules in their order.

    Args:
        name: of the endpoint.
        port: its port.
        source: the network that may connect.

    Raises:
        CommandExecutionError: nft refuses.
    """
    rule = f'ip saddr {{ {source} }} tcp dport {port} accept comment "{name}"'
    _nft("add", "rule", *TABLE.split(), "input", rule)


def _tables() -> list[str]:
    lines = _nft("list", "tables").splitlines()
    return [line.removeprefix("table ").strip() for line in lines if line.startswith("table ")]


def _undeclared(tables: Sequence[str]) -> list[str]:
    return [table for table in tables if table != TABLE and not _is_of_the_engine(table)]


def _is_of_the_engine(table: str) -> bool:
    """Return whether a table has rules of a container engine's DNS server and no others."""
    if __grains__.get("virtual") != "container" or table != _ENGINE_TABLE:
        return False
    lines = map(str.strip, _nft("--stateless", "list", "table", *table.split()).splitlines())
    return all(_STRUCTURE.fullmatch(line) or _ENGINE_ADDRESS in line for line in lines)


def _differing_lines(wanted: Sequence[str], loaded: Sequence[str]) -> list[str]:
    here, there = Counter(map(str.strip, loaded)), Counter(map(str.strip, wanted))
    found = [f"the firewall has a rule that nobody declared: {line}" for line in here - there]
    found += [f"the firewall lacks the rule: {line}" for line in there - here]
    if not found and list(wanted) != list(loaded):
        found = ["the firewall's rules are in another order or another chain"]
    return found


def _nft(*arguments: str) -> str:
    return _run(["nft", *arguments])


def _nft_in_new_namespace(path: str) -> str:
    script = f'nft --file "$0" && nft --stateless list table {TABLE}'
    return _run(["unshare", "--net", "sh", "-c", script, path])


def _run(command: list[str]) -> str:
    done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
    if done["retcode"] != 0:
        raise CommandExecutionError(f"{command[0]}: {done['stderr'] or done['stdout']}")
    return str(done["stdout"])


def _sources(endpoint: Mapping[str, Any]) -> list[str] | None:
    if endpoint["internet"]:
        return None
    # The other networks of operators are outside the VPC; see `rules`.
    vpc = ipaddress.ip_network(_vpc())
    sources = {name for name in endpoint["networks"] if vpc.overlaps(ipaddress.ip_network(name))}
    # All of the VPC, not today's addresses: a new machine has to reach the master before the
    # master can know its address.
    if endpoint["any_role"]:
        sources.add(_vpc())
    for role in endpoint["roles"]:
        sources |= set(__salt__["machines.addresses"](role).values())
    return sorted(sources)


def _vpc() -> str:
    return str(__pillar__["aws"]["vpc"]["cidr"])
