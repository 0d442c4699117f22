"""The role that a minion id names, and whether this machine serves its role.

An id is ``<role>-<n>`` and is proved by the minion's key. Nothing here reads a grain, which a
machine sets for itself. The pillar ``roles`` describes the roles: pillar/base/roles.sls.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from salt.exceptions import CommandExecutionError

# Filled in by Salt's loader.
__opts__: dict[str, Any] = {}
__pillar__: dict[str, Any] = {}
__salt__: dict[str, Any] = {}

ID = re.compile(r"(?P<role>.+)-[1-9][0-9]*")
_TIMEOUT = 5  # seconds for each step of a check


def of(minion_id: str) -> str:
    """Return the role of a minion: its id without the number, or "" for an id of another form."""
    match = ID.fullmatch(minion_id)
    return match["role"] if match else ""


def own() -> str:
    """Return the role of this minion, or "" when it has none."""
    return of(str(__opts__["id"]))


def service_name(role: str) -> str:
    """Return the domain name by which machines reach a role.

    Raises:
        CommandExecutionError: pillar ``roles`` gives the role no service.
    """
    service = _description(role).get("service")
    if service is None:
        raise CommandExecutionError(f"roles:{role} has no service, so it has no name of its own")
    return f"{service}.{__pillar__['domain']}"


def status() -> dict[str, Any]:
    """Return how this machine serves its role.

    Returns:
        ``unit``: its systemd unit. ``state``: the unit's state in systemd's words. ``problem``: why
        the role's check fails, or "". ``memory_mib``: what its processes hold in MiB, where shared
        pages count once. ``certificate_end``: the last day of its certificate as YYYY-MM-DD,
        "unknown" when the file is not readable, "" for a role without a certificate.

    Raises:
        CommandExecutionError: the minion has no role, or pillar ``roles`` does not describe it.
    """
    role = _description(own())
    certificate = role.get("certificate")
    return {
        "unit": role["unit"],
        "state": _unit_state(role["unit"]),
        "problem": _problem(role),
        "memory_mib": _memory_mib(),
        "certificate_end": _certificate_end(certificate["path"]) if certificate else "",
    }


def _description(role: str) -> Mapping[str, Any]:
    try:
        description: Mapping[str, Any] = __pillar__["roles"][role]
    except KeyError:
        raise CommandExecutionError(f"pillar roles does not describe the role '{role}'") from None
    return description


def _unit_state(unit: str) -> str:
    shown = __salt__["cmd.run_stdout"](
        ["systemctl", "show", "--property=ActiveState", "--value", unit], python_shell=False
    )
    return str(shown).strip()


def _problem(role: Mapping[str, Any]) -> str:
    """Return why a role's check fails at this machine's own address, or an empty string."""
    check = role.get("check")
    if check is None:
        return ""
    port = __pillar__["endpoints"][check["endpoint"]]["port"]
    addresses = __salt__["network.ip_addrs"](cidr=__pillar__["aws"]["vpc"]["cidr"])
    if not addresses:
        return "this machine has no address in the VPC"
    connection = http.client.HTTPConnection(addresses[0], port, timeout=_TIMEOUT)
    try:
        connection.connect()
        if "certificate" in role:
            connection.sock = _tls(check).wrap_socket(connection.sock)
        if "path" in check:
            return _page_problem(connection, check)
        if isinstance(connection.sock, ssl.SSLSocket):
            # Otherwise the close resets the connection, which PostgreSQL logs.
            with contextlib.suppress(OSError):
                connection.sock.unwrap()
        return ""
    except (OSError, http.client.HTTPException) as error:
        return f"port {port}: {str(error) or type(error).__name__}"
    finally:
        connection.close()


def _tls(check: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that verifies nothing.

    The connection stays on this machine and carries no secret. Whether users can trust the
    certificate depends on its name and its CA, which the state ``smoke`` checks from outside.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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


def _certificate_end(path: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except (OSError, ValueError):
        return "unknown"
    return certificate.not_valid_after_utc.date().isoformat()
