"""Print what the parts of a tree say about the role `cache`, as JSON.

It runs in a copy of the tree, with the copy's own packages and helpers. Its argument is an empty
folder to work in.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from cryptography import x509

from plainpillar import DEPLOYMENT, PlainPillar
from rendering import Compiled, Compiler, missing_requisites, unknown_options
from saltmodules import load
from stackctl import cli, site, status
from stackctl.machines import Machine
from stackctl.run import Log
from tlsserver import Page, serving

FOLDER = Path(sys.argv[1])
MACHINES = list(DEPLOYMENT.machines())


@cache
def pillar() -> PlainPillar:
    """Return the deployment's pillar with every secret."""
    (FOLDER / "pillar").mkdir()
    return PlainPillar(FOLDER / "pillar", ssh_public_key="ssh-ed25519 AAAA", operator_cidrs=[])


@cache
def compiler(minion_id: str) -> Compiler:
    """Return Salt as that minion."""
    return Compiler(minion_id, FOLDER / minion_id, pillar())


@cache
def highstate(minion_id: str) -> Compiled:
    """Return the states that the top file gives a minion."""
    return compiler(minion_id).highstate()


def content(minion_id: str, state: str) -> str:
    """Return the content of the file that a state makes from a template; empty if it fails."""
    for chunk in highstate(minion_id).chunks:
        if chunk["__id__"] == state:
            return str(compiler(minion_id).render(chunk)["data"])
    return ""


def errors(minion_id: str) -> list[str]:
    """Return what is wrong with a minion's states and templates."""
    states = highstate(minion_id)
    found = states.errors + list(missing_requisites(states.chunks))
    for chunk in states.chunks:
        found += unknown_options(chunk)
        if chunk.get("template"):
            rendered = compiler(minion_id).render(chunk)
            found += [] if rendered["result"] else [str(rendered["data"])]
    return found


def security_groups() -> dict[str, Any]:
    """Return security group -> rules by which it lets something in."""
    chunks = compiler("operator").states("aws").chunks
    return {
        chunk["name"]: chunk["rules"]
        for chunk in chunks
        if (chunk["state"], chunk["fun"]) == ("security_group", "ingress")
    }


def certificate_names() -> list[str]:
    """Return the DNS names of the role's certificate."""
    pem = pillar().secrets["cache-tls"]["certificate"]
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)


def deployed() -> list[str]:
    """Return the targets to which the orchestration applies all states."""
    chunks = compiler(DEPLOYMENT.master()).states("orch.deploy").chunks
    return [step["tgt"] for step in chunks if step.get("highstate")]


def log_command() -> str:
    """Return what `stackctl logs cache-1` runs on the machine."""
    with patch.object(cli, "_remote", return_value=0) as remote:
        cli.main(["logs", "cache-1"])
    return str(remote.call_args.args[3])


def status_answer(port: int) -> dict[str, Any]:
    """Return what `role.status` answers on cache-1 when its unit runs and it serves on a port."""
    certificate = FOLDER / "certificate.pem"
    certificate.write_text(pillar().secrets["cache-tls"]["certificate"])
    (written,) = (chunk for chunk in highstate("cache-1").chunks if chunk["__id__"] == "base-role")
    here = {"address": "127.0.0.1", "port": port, "certificate": {"path": str(certificate)}}
    description = FOLDER / "role.json"
    description.write_text(json.dumps(written["dataset"] | here))
    answers: dict[str, Any] = {
        "cmd.run_stdout": lambda command, **_: "active" if command[-1] == "memcached" else "",
        "firewall.differences": list,
        "drift.found": lambda _path: [],
        "drift.outdated": list,
        "drift.withheld": list,
        "cpu_credits.sample": dict,
        "cpu_credits.since": lambda _before: "",
        "machine_counts.told": str,
        "drift.reboot_required": bool,
    }
    module = load("_modules", "role", __salt__=answers)
    return cast(dict[str, Any], module.status(str(description)))


def status_row(answer: object) -> dict[str, Any]:
    """Return the row that `stackctl status --json` has for cache-1 when its minion answers this."""
    machines = {name: Machine(name, "i-0", "running", "10.20.1.9", "") for name in MACHINES}
    with (
        patch.object(status, "enter"),
        patch.object(status, "ec2_client"),
        patch.object(status, "find_ended", return_value={}),
        patch.object(status, "list_machines", return_value=machines),
        patch.object(status, "_remember"),
        patch.object(status, "Shell"),
        patch.object(status, "ask_minions", return_value={"cache-1": answer}),
        patch.object(site, "problem", return_value=""),
    ):
        rows = status.collect(DEPLOYMENT, Log(FOLDER / "log", "status")).rows
    (row,) = (row for row in rows if row.machine == "cache-1")
    return row.as_dict()


def status_rows() -> dict[str, dict[str, Any]]:
    """Return the row of a machine that serves, and of one that has stopped serving."""
    with serving(Page, pillar().secrets["cache-tls"], FOLDER) as port:
        serves = status_answer(port)
    return {"serves": status_row(serves), "refuses": status_row(status_answer(port))}


FACTS = {
    "machines": MACHINES,
    "top": compiler("cache-1").top(),
    "errors": errors("cache-1"),
    "sls": sorted(highstate("cache-1").sls),
    "configuration": content("cache-1", "cache-config"),
    "secrets": {name: sorted(compiler(name).pillar()["secrets"]) for name in MACHINES},
    "firewalls": {name: content(name, "base-firewall-rules") for name in MACHINES},
    "hosts": content("web-1", "base-hosts"),
    "security_groups": security_groups(),
    "deployed": deployed(),
    "certificate_names": certificate_names(),
    "log_command": log_command(),
    "status_rows": status_rows(),
}
print(json.dumps(FACTS))
