"""The role that a minion id names, and whether this machine serves its role.

An id is ``<role>-<n>`` and is proved by the minion's key. Nothing here reads a grain, which a
machine sets for itself. The pillar ``roles`` describes the roles: pillar/base/roles.sls.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

ID = re.compile(r"(?P<role>.+)-[1-9][0-9]*")
DESCRIPTION = "/etc/salt/role.json"
# What a role's own module tells: unit -> its function, and what is unknown when that fails.
TOLD: Mapping[str, tuple[Mapping[str, str], str]] = {
    # Its role among the machines that hold the same data, or one of which has the site's address.
    "replication": (
        {
            "haproxy": "site_address.told",
            "patroni": "patroni.told",
            "redis-server": "redis_role.told",
        },
        "role is",
    ),
    "backups": ({"patroni": "pgbackrest.told", "salt-master": "master_backup.told"}, "backups are"),
    # The certificate of an ACME CA.
    "renewal": ({"haproxy": "site_certificate.told"}, "certificate is"),
}
# Unit -> the function that tells whom it refuses.
REFUSING = {"haproxy": "edge.refused"}
# The keys of a description that name a certificate on the machine.
_CERTIFICATES = ("certificate", "client", "receiver", "sender", "shared")
SPARE_UNIT = "salt-minion"  # of a machine that has the base alone
_SETTLED_SECONDS = 20
EDGE_CONFIG = "/etc/haproxy/haproxy.cfg"
# A server of an earlier release: nothing follows its port.
_PLAIN_SERVER = r"^ +server web-[0-9]+ [0-9.]+:[0-9]+$"
_TIMEOUT = 5  # seconds for each step of a check


def of(minion_id: str) -> str:
    """Return the role of a minion: its id without the number, or "" for an id of another form."""
    match = ID.fullmatch(minion_id)
    return match["role"] if match else ""


def own() -> str:
    """Return the role of this minion, or "" when it has none."""
    return of(str(__opts__["id"]))


def turn() -> int:
    """Return which of six turns this machine has, from 0: those of one role take different ones."""
    return int(str(__opts__["id"]).rpartition("-")[2]) % 6


def serves(minion_id: str) -> bool:
    """Return whether a minion serves its role: the role's table may have a number up to which.

    The others have the base alone, and nothing depends on them.
    """
    role = of(minion_id)
    serving = __pillar__["roles"].get(role, {}).get("serving")
    return bool(role) and (serving is None or int(minion_id.rpartition("-")[2]) <= serving)


def serving() -> str:
    """Return the role that this minion serves, or "" when it serves none."""
    own_id = str(__opts__["id"])
    return of(own_id) if serves(own_id) else ""


def accepted(*roles: str) -> list[str]:
    """Return the minions whose keys the master has accepted, by role and then by number.

    For the orchestration (salt/orch), which names its machines: the master, where this runs, waits
    for a machine that is named, and skips a silent one that is only matched by a pattern.

    Args:
        roles: the roles of the minions; every role of pillar ``roles`` when there are none.

    Raises:
        CommandExecutionError: one of `roles` has no minion.
    """
    answer = __salt__["saltutil.wheel"]("key.list", "accepted")
    ids = [str(minion_id) for minion_id in answer["return"].get("minions", [])]
    found = {
        role: sorted(
            (minion_id for minion_id in ids if of(minion_id) == role),
            key=lambda minion_id: int(minion_id.rpartition("-")[2]),
        )
        for role in roles or __pillar__["roles"]
    }
    if missing := [role for role in roles if not found[role]]:
        raise CommandExecutionError(
            f"the master has accepted no minion of the role '{missing[0]}': launch its machines"
        )
    return [minion_id for members in found.values() for minion_id in members]


def unsettled(ids: list[str]) -> list[str]:
    """Return those of some minions that have never had a highstate, or do not answer.

    They are asked all at once. On the master, as `accepted`.

    Args:
        ids: the minions.
    """
    answers = __salt__["saltutil.cmd"](
        ids, "file.file_exists", arg=[DESCRIPTION], tgt_type="list", timeout=_SETTLED_SECONDS
    )
    return [
        minion_id for minion_id in ids if dict(answers.get(minion_id, {})).get("ret") is not True
    ]


def edges_without_tls(ids: list[str]) -> bool:
    """Return whether a load balancer asks web machines in plain HTTP, as earlier releases did.

    One that has a newer configuration and has not loaded it may do so still. On the master, as
    `accepted`; a load balancer's own modules may be those of its release.

    Args:
        ids: the load balancers.
    """
    if not ids:
        return False
    questions = ["file.search", "service_config.outdated"]
    arguments = [[EDGE_CONFIG, _PLAIN_SERVER], []]
    answers = __salt__["saltutil.cmd"](
        ids, questions, arg=arguments, tgt_type="list", timeout=_SETTLED_SECONDS
    )
    for answer in answers.values():
        found = dict(answer).get("ret") or {}
        # What fails, as on a machine without HAProxy, answers with a text.
        is_plain, outdated = (found.get(question) for question in questions)
        not_loaded = outdated if isinstance(outdated, dict) else {}
        if is_plain is True or EDGE_CONFIG in not_loaded.get("haproxy", []):
            return True
    return False


def certificate_name(role: str) -> str:
    """Return the name in the certificate of a role's machines; stackctl makes it.

    Raises:
        CommandExecutionError: pillar ``roles`` does not describe the role.
    """
    return f"{_entry(role).get('service', role)}.{__pillar__['domain']}"


def service_name(role: str) -> str:
    """Return the domain name by which machines reach a role.

    Raises:
        CommandExecutionError: pillar ``roles`` gives the role no service.
    """
    service = _entry(role).get("service")
    if service is None:
        raise CommandExecutionError(f"roles:{role} has no service, so it has no name of its own")
    return f"{service}.{__pillar__['domain']}"


def description() -> dict[str, Any]:
    """Return what ``status`` has to know about this machine, from this run's pillar.

    Returns:
        The keys of the role's entry in pillar ``roles``, or of a machine that does not serve its
        role the ``unit`` that every machine runs; the machine's ``address``, the ``port`` of the
        check's endpoint, the ``name`` for which the check verifies a certificate, the ``ports`` of
        its endpoints that have a client, the certificate that all machines ``share`` and the one of
        a ``sender``, where there are, and the ``login_user``. The state ``base`` writes them to
        ``DESCRIPTION``.

    Raises:
        CommandExecutionError: the minion has no role, or pillar ``roles`` does not describe it.
    """
    entry = _entry(own())
    role: dict[str, Any] = {
        **(entry if serving() else {"unit": SPARE_UNIT}),
        "address": __salt__["machines.own_address"](),
        "ports": sorted({rule["port"] for rule in __salt__["firewall.rules"]()}),
        "login_user": __pillar__["aws"]["login_user"],
    }
    for name, other in __pillar__["roles"].items():
        shared = other.get("certificate", {})
        if "everywhere" in shared and __salt__["machines.addresses"](name):
            role["shared"] = {
                "path": shared["path"],
                "copies": shared["everywhere"].get(own(), []),
            }
        if "senders" in other and __salt__["machines.addresses"](name):
            role["sender"] = other["senders"]
    if "check" in role:
        role["port"] = __pillar__["endpoints"][role["check"]["endpoint"]]["port"]
        if "ca" in role["check"]:
            role["name"] = certificate_name(own())
    return role


def recorded(path: str = DESCRIPTION) -> dict[str, Any]:
    """Return this machine's ``description`` as its last highstate has written it.

    Args:
        path: the file with it.

    Raises:
        CommandExecutionError: the file is missing, because no highstate has run yet.
    """
    try:
        role: dict[str, Any] = json.loads(Path(path).read_text())
    except OSError as error:
        raise CommandExecutionError(
            f"{path}: {error.strerror}: apply the highstate first"
        ) from error
    return role


def status(path: str = DESCRIPTION) -> dict[str, Any]:
    """Return how this machine serves its role.

    Args:
        path: the file with the machine's ``description``.

    Returns:
        ``unit``: its systemd unit. ``state``: the unit's state in systemd's words. ``problem``: why
        the role's check fails or how the firewall differs, or "". ``memory_mib``: what its
        processes hold in MiB, where shared pages count once. ``certificate_end``: the last day of
        its certificate as YYYY-MM-DD, the earlier one of two, "unknown" when a file is not
        readable, "" for a role without a certificate. ``drift``: sentences on what else differs
        from what is declared (docs/drift.md). ``reboot_required``: whether Debian asks for a
        reboot. ``outdated``: the units that run code which an update has replaced. ``withheld``:
        the packages whose update waits for the operator. ``replication``: of a store, its role
        among the machines that hold the same. ``backups``: how old they are, or "". ``growth``:
        what the master does by itself about the number of machines, or "". ``renewal``: until when
        the site has a certificate of an ACME CA, or "". ``cpu``: why everything here takes long, or
        "".

    Raises:
        CommandExecutionError: the file is missing, because no highstate has run yet.
    """
    begun = __salt__["cpu_credits.sample"]()
    role = recorded(path)
    told = {field: _told(field, role) for field in TOLD}
    found = {
        "unit": role["unit"],
        "state": _unit_state(role["unit"]),
        "problem": "; ".join(filter(None, _problems(role, told).values())),
        "memory_mib": _memory_mib(),
        "certificate_end": _certificate_end(role),
        "drift": __salt__["drift.found"](path),
        "reboot_required": __salt__["drift.reboot_required"](),
        "outdated": __salt__["drift.outdated"](),
        "withheld": __salt__["drift.withheld"](),
        "growth": __salt__["machine_counts.told"](),
        **{field: told[field][field] for field in TOLD},
    }
    # All of this has taken CPU: what this machine asked for and did not get shows now.
    return {**found, "cpu": __salt__["cpu_credits.since"](begun)}


def problems(path: str = DESCRIPTION) -> dict[str, str]:
    """Return what `status` calls problems, each by what it is about; empty: there is none.

    Args:
        path: the file with the machine's ``description``.

    Raises:
        CommandExecutionError: the file is missing, because no highstate has run yet.
    """
    role = recorded(path)
    state = _unit_state(role["unit"])
    unit = "" if state == "active" else f"{role['unit']} is {state}"
    return {"unit": unit, **_problems(role, {field: _told(field, role) for field in TOLD})}


def certificate_ends(path: str = DESCRIPTION) -> dict[str, float]:
    """Return file -> the end of the certificate in it, in seconds since 1970; 0: unreadable.

    Args:
        path: the file with the machine's ``description``.

    Raises:
        CommandExecutionError: the file is missing, because no highstate has run yet.
    """
    ends = _certificates(recorded(path))
    return {file: end.timestamp() if end else 0.0 for file, end in ends.items()}


def _problems(role: Mapping[str, Any], told: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return what is wrong, by what it is about, of a role and what its modules have told."""
    return {
        "check": _problem(role),
        "refused": "; ".join(_refused(role)),
        **{field: told[field]["problem"] for field in TOLD},
        "firewall": "; ".join(_firewall_problems()),
    }


def _entry(role: str) -> Mapping[str, Any]:
    try:
        entry: Mapping[str, Any] = __pillar__["roles"][role]
    except KeyError:
        raise CommandExecutionError(f"pillar roles does not describe the role '{role}'") from None
    return entry


def _unit_state(unit: str) -> str:
    shown = __salt__["cmd.run_stdout"](
        ["systemctl", "show", "--property=ActiveState", "--value", unit], python_shell=False
    )
    return str(shown).strip()


def _problem(role: Mapping[str, Any]) -> str:
    """Return why a role's check fails at this machine's own address, or an empty string."""
    if "check" not in role:
        return ""
    check, port = role["check"], role["port"]
    connection = http.client.HTTPConnection(role["address"], port, timeout=_TIMEOUT)
    try:
        connection.connect()
        if "certificate" in role:
            name = role.get("name")
            connection.sock = _tls(check).wrap_socket(connection.sock, server_hostname=name)
        if "path" in check and "local" not in check:
            return _page_problem(connection, check)
        if isinstance(connection.sock, ssl.SSLSocket):
            # Otherwise the close resets the connection, which PostgreSQL logs.
            with contextlib.suppress(OSError):
                connection.sock.unwrap()
        if "path" in check:
            connection.close()
            connection = http.client.HTTPConnection(check["local"], port, timeout=_TIMEOUT)
            return _page_problem(connection, check)
        return ""
    except (OSError, http.client.HTTPException) as error:
        return f"port {port}: {str(error) or type(error).__name__}"
    finally:
        connection.close()


def _refused(role: Mapping[str, Any]) -> list[str]:
    """Return which machines a load balancer does not send requests to, because of their TLS."""
    if role["unit"] not in REFUSING:
        return []
    try:
        found: list[str] = __salt__[REFUSING[role["unit"]]]()
    except CommandExecutionError as error:
        return [f"what it sends requests to is unknown: {error}"]
    return found


def _told(field: str, role: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what a role's own module tells as `field`, and what is wrong with it as `problem`.

    Args:
        field: of `TOLD`, and of the answer; empty on a machine without such a unit.
        role: what the highstate has recorded.
    """
    functions, subject = TOLD[field]
    if role["unit"] not in functions:
        return {field: "", "problem": ""}
    try:
        found: Mapping[str, str] = __salt__[functions[role["unit"]]]()
    except CommandExecutionError as error:
        return {field: "", "problem": f"its {subject} unknown: {error}"}
    return found


def _firewall_problems() -> list[str]:
    try:
        found: list[str] = __salt__["firewall.differences"]()
    except CommandExecutionError as error:
        return [f"the firewall cannot be compared: {error}"]
    return found


def _tls(check: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that verifies the certificate, or nothing where the check names no CA.

    The connection stays on this machine and carries no secret. Whether users can trust the edge's
    certificate depends on its name and its CA, which the state ``smoke`` checks from outside.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ca" in check:
        context.load_verify_locations(check["ca"])
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "alpn" in check:
        context.set_alpn_protocols([check["alpn"]])
    return context


def _page_problem(connection: http.client.HTTPConnection, check: Mapping[str, str]) -> str:
    connection.request("GET", check["path"])
    response = connection.getresponse()
    body = response.read(1 << 20).decode(errors="replace")
    if response.status != http.client.OK:
        return f"{check['path']} answers {response.status}"
    if check.get("expect", "") not in body:
        return f"{check['path']} answers without {check['expect']}"
    return ""


def _memory_mib() -> int:
    kib = 0
    for rollup in Path("/proc").glob("[0-9]*/smaps_rollup"):
        with contextlib.suppress(OSError):  # the process has ended, or is one of the kernel's
            kib += sum(map(int, re.findall(r"^Pss: +(\d+) kB$", rollup.read_text(), re.MULTILINE)))
    return kib // 1024


def leaves(role: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the certificates that a description names, each with its ``path`` on the machine.

    Args:
        role: what ``recorded`` has returned.
    """
    return [role[key] for key in _CERTIFICATES if key in role]


def _certificates(role: Mapping[str, Any]) -> dict[str, dt.datetime | None]:
    """Return file -> the end of the machine's certificate in it; None: it cannot be read."""
    ends: dict[str, dt.datetime | None] = {}
    for path in (leaf["path"] for leaf in leaves(role)):
        try:
            ends[path] = x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
        except (OSError, ValueError):
            ends[path] = None
    return ends


def _certificate_end(role: Mapping[str, Any]) -> str:
    ends = _certificates(role).values()
    days = [end.date().isoformat() for end in ends if end]
    return "unknown" if len(days) < len(ends) else min(days, default="")
