#!/opt/salt/bin/python
"""Keep machines right and up to date, on this Salt master, as the deployment's settings say.

`correct`: machines that have found that they differ from their states (salt/_modules/highstate.py)
are put right by the orchestration, which `stackctl up` runs too. `upgrade`: machines for which an
update or a reboot waits get it, in the place of `stackctl upgrade`. Both take one machine of a role
after the other. Timers call this. Nothing happens while another run changes the deployment, or
while a tree waits for its roll-out.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import scale_machines
from scale_machines import CONFIG, Config, ScaleError


def correct(config: Config) -> str:
    """Put right what differs; return what was done, in words.

    Args:
        config: of `scale_machines`.

    Raises:
        ScaleError: a state failed; or a tree waits for its roll-out.
    """
    answers = scale_machines.ask(scale_machines.accepted(config), "highstate.differ")
    differ = sorted(name for name, ids in answers.items() if ids)
    if not differ:
        return "no machine differs"
    what = f"correct {', '.join(differ)}"
    with scale_machines.hold(config, "correct", what) as held:
        if not held:
            return "another run changes the deployment"
        scale_machines.require_rolled_out(config)
        masters = scale_machines.machines_of(config, "salt")
        if not {*masters}.isdisjoint(differ):
            scale_machines.run("salt-call", "--retcode-passthrough", "state.highstate")
        if {*differ} - {*masters}:
            scale_machines.run("salt-run", "state.orchestrate", "orch.deploy")
    return what


def upgrade(config: Config) -> str:
    """Upgrade the machines that others can do without; return which, in words.

    A machine that is the only one of its role, and the master, wait for an operator.

    Args:
        config: of `scale_machines`.

    Raises:
        ScaleError: one has failed, so those after it were left alone; or a tree waits.
    """
    others = {*scale_machines.accepted(config)} - {*scale_machines.machines_of(config, "salt")}
    names = _call("maintenance.order", sorted(others))
    refused = _call("maintenance.refusals", names)
    spare = [name for name in names if not refused[name]]
    what = f"upgrade {', '.join(spare) or 'nothing'}"
    with scale_machines.hold(config, "upgrade", what) as held:
        if not held:
            raise ScaleError("another run changes the deployment")
        scale_machines.require_rolled_out(config)
        pillar = json.dumps({"reboot": spare, "upgrade": True})
        scale_machines.run("salt-run", "state.orchestrate", "orch.reboot", f"pillar={pillar}")
    return what


def _call(function: str, names: list[str]) -> Any:
    """Return what a function of the master's own minion says of machines."""
    words = ("salt-call", "--out=json", "--retcode-passthrough", function, json.dumps(names))
    return json.loads(scale_machines.run(*words))["local"]


def main(arguments: list[str], config: str = CONFIG) -> int:
    """Return the exit code."""
    (verb,) = arguments
    done = {"correct": correct, "upgrade": upgrade}[verb]
    return scale_machines.exit_code(lambda known: print(done(known)), config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
