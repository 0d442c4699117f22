#!/opt/salt/bin/python
"""Bring machines that differ from their states back, on this Salt master.

A timer calls this where the deployment's settings say `correct_drift`. Each machine has compared
itself (salt/_modules/highstate.py). The orchestration, which `stackctl up` runs too, puts it right:
one machine of a role after the other. Nothing happens while another run changes the deployment, or
while a tree waits for its roll-out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import scale_machines
from scale_machines import CONFIG, Config, ScaleError


def correct(config: Config) -> str:
    """Put right what differs; return what was done, in words.

    Args:
        config: of `scale_machines`.

    Raises:
        ScaleError: a state failed; or a tree waits for its roll-out.
    """
    everybody = sorted(path.name for path in Path(config.pki, "minions").iterdir())
    answers = scale_machines.ask(everybody, "highstate.differ")
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


def main(config: str = CONFIG) -> int:
    """Return the exit code."""
    try:
        print(correct(Config(**json.loads(Path(config).read_text()))))
    except ScaleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
