"""How salt-cloud is called, and how its output is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stackctl.deployment import Deployment
from stackctl.errors import LaunchError, StackError
from stackctl.machines import Machine
from stackctl.salt import Master


class SaltCloudHost(Protocol):
    """Where salt-cloud runs: `salt.Master`, or for the master itself `salt.Operator`."""

    @property
    def deployment(self) -> Deployment:
        """The deployment whose machines it launches."""

    def salt_cloud(self, args: Sequence[str], machines: int) -> str:
        """Run salt-cloud for so many machines, and return its JSON; raise StackError."""

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:
        """Return the machines whose minion answers before `time.monotonic()` is `deadline`."""

    def reach(self, machine: Machine) -> None:
        """Log in to a machine as salt-cloud does; raise StackError."""


@dataclass(frozen=True)
class Request:
    """Machines that are to exist.

    Attributes:
        host: where salt-cloud runs.
        names: the machines.
        args: the arguments with which salt-cloud launches or repairs them.
    """

    host: SaltCloudHost
    names: Sequence[str]
    args: Sequence[str]


def map_args(deployment: Deployment, *, serial: bool = False) -> list[str]:
    """Return the arguments that apply the deployment's map on the master."""
    return ["--map", _path_on_master(deployment), *([] if serial else ["--parallel"])]


def profile_args(deployment: Deployment, name: str) -> list[str]:
    """Return the arguments that launch one machine of the map by its profile."""
    return ["--profile", deployment.machines()[name], name]


def require_same_map(deployment: Deployment, master: Master) -> Deployment:
    """Return the deployment with the numbers of machines that the master has chosen.

    Raises:
        StackError: map or numbers on the master are not the ones of this checkout.
    """
    text = master.command(["cat", _path_on_master(deployment)], what="reading the map")
    if text != deployment.map_path.read_text():
        raise StackError(
            f"{deployment.map_path.name} on {master.machine.name} differs from the one here.",
            "Bring it there: stackctl up",
        )
    wanted = deployment.bounds()
    recorded = master.recorded_counts() if wanted else {}
    for role, bounds in wanted.items():
        if recorded.get(role) != bounds.clamp(recorded.get(role, 0)):
            raise StackError(
                f"The settings ask for {bounds} machines of the role '{role}', and"
                f" {master.machine.name} has {recorded.get(role, 'no number')}.",
                "Bring the settings there: stackctl up",
            )
    return deployment.with_present(recorded)


def _path_on_master(deployment: Deployment) -> str:
    return f"/etc/salt/cloud.maps.d/{deployment.map_name}.map"


def read_output(output: str) -> dict[str, Any]:
    """Return salt-cloud's answer for each machine.

    Args:
        output: the output of `--out=json`; output of the deploy script may precede the object.

    Raises:
        LaunchError: the output ends with no such object.
    """
    lines = output.splitlines()
    # The outputter indents: only the outermost object begins with a line like these.
    start = next(
        (number for number in reversed(range(len(lines))) if lines[number] in ("{", "{}")),
        len(lines),
    )
    try:
        answer = json.loads("\n".join(lines[start:]))
    except json.JSONDecodeError:
        text = " ".join(output.split())
        quoted = f"'{text if len(text) <= 200 else f'… {text[-200:]}'}'" if text else "nothing"
        raise LaunchError(f"salt-cloud printed {quoted} in place of JSON.") from None
    return dict(answer)


def error_in(answer: Any) -> str:
    """Return the error in salt-cloud's answer for one machine, in one line; empty: none."""
    reason = answer.get("Error", "") if isinstance(answer, Mapping) else ""
    return " ".join(str(reason).split())
