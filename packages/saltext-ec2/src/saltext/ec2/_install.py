"""Installing the minion on a machine that has been launched."""

from __future__ import annotations

import logging
import sys
from typing import Any

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
    context.event(
        machine.name,
        "deploying",
        "executing deploy script",
        {"instance_id": machine.id, "host": address},
    )
    shown = options["display_ssh_output"] and not context.opts.get("parallel")
    script = _session.Script(
        archive,
        options["deploy_timeout"],
        folder=options["tmp_dir"],
        keep=options["keep_tmp"],
        show=_print if shown else log.debug,
    )
    login = _login.prepare(machine, KnownHosts(context.opts["cachedir"]), wait)
    _session.run(machine.name, login, script, wait)
    context.event(
        machine.name,
        "deploy_script",
        f"{machine.name} has been deployed at {address}",
        {"host": address},
    )


def _print(line: str) -> None:
    """Show a line of the deploy script beside the answer, which programs read."""
    print(line, file=sys.stderr, flush=True)
