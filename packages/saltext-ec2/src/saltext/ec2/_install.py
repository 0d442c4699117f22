"""Installing the minion on a machine that has been launched."""

from __future__ import annotations

import logging
import sys
from typing import Any

import salt.utils.cloud

from saltext.ec2 import _login, _session
from saltext.ec2._context import Context
from saltext.ec2._machine import Machine
from saltext.ec2._wait import Wait
from saltext.ec2.host_keys import KnownHosts

log = logging.getLogger(__name__)


def install(context: Context, machine: Machine, vm_: dict[str, Any], archive: bytes) -> None:
    """Install the minion.

    Args:
        context: Salt's configuration.
        machine: where.
        vm_: the machine as Salt's core hands it to `create`; gets the address as `ssh_host`.
        archive: see `_archive.build`.

    Raises:
        LaunchError: the machine is terminated meanwhile.
        ApiError: EC2 did not answer.
        DeployError: the minion is not installed.
    """
    options, address = machine.options, machine.address
    wait = Wait.lasting(options["ssh_connect_timeout"], machine.watch())
    vm_["ssh_host"] = vm_["salt_host"] = address
    waiting = {"instance_id": machine.id, "ip_address": address}
    context.event(machine.name, "waiting_for_ssh", "waiting for ssh", waiting)
    shown = options["display_ssh_output"] and not context.opts.get("parallel")
    script = _session.Script(
        archive,
        options["deploy_timeout"],
        folder=options["tmp_dir"],
        keep=options["keep_tmp"],
        show=_print if shown else log.debug,
    )
    login = _login.prepare(machine, KnownHosts(context.opts["cachedir"]), wait)
    data = {"instance_id": machine.id, "host": address, "kwargs": _deployment(context, login, vm_)}
    context.event(machine.name, "deploying", "executing deploy script", data)
    _session.run(machine.name, login, script, wait)
    context.event(
        machine.name,
        "deploy_script",
        f"{machine.name} has been deployed at {address}",
        {"host": address},
    )


def _deployment(context: Context, login: _login.Login, vm_: dict[str, Any]) -> dict[str, Any]:
    """Return what the event says about a deployment; no key, password or script."""
    return {
        "name": vm_["name"],
        "host": login.address,
        "salt_host": login.address,
        "port": login.port,
        "username": login.users[0],
        "sudo": login.sudo,
        "start_action": context.opts.get("start_action"),
        "parallel": context.opts.get("parallel", False),
        "make_master": vm_.get("make_master", False),
        "minion_conf": salt.utils.cloud.minion_config(context.opts, vm_),
    }


def _print(line: str) -> None:
    """Show a line of the deploy script beside the answer, which programs read."""
    print(line, file=sys.stderr, flush=True)
