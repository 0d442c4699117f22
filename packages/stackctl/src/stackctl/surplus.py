"""The machines of a deployment that its map does not name, and which of them a run removes.

A machine goes only when somebody asks for it: a checkout that is behind the one of another operator
names fewer machines too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from stackctl.deployment import Deployment
from stackctl.roles import MASTER, role_of

Removal = Literal["nothing", "surplus", "with-data"]
"""What a run may remove: all but what may hold data, or that too."""


@dataclass(frozen=True)
class Surplus:
    """Machines that the map does not name, of each role the highest first.

    Attributes:
        going: those that the run removes.
        staying: those that it does not.
        data: machine among those that stay -> what its disk may hold; empty: nothing.
    """

    going: tuple[str, ...]
    staying: tuple[str, ...]
    data: dict[str, str]

    @classmethod
    def of(cls, deployment: Deployment, names: Iterable[str], removal: Removal) -> Surplus:
        """Return the surplus among machines that exist.

        What is of no known role is left alone, and so is a Salt master.
        """
        table, named = deployment.role_table(), deployment.machines()
        found = {name for name in names if table.of(name) and name not in named}
        data = {name: role.data for name in found if (role := table.of(name))}
        machines = sorted(
            (name for name in found if role_of(name) != MASTER),
            key=lambda name: (role_of(name), -int(name.rpartition("-")[2])),
        )
        going = tuple(
            name
            for name in machines
            if removal == "with-data" or (removal == "surplus" and not data[name])
        )
        staying = tuple(name for name in machines if name not in going)
        return cls(going, staying, {name: data[name] for name in staying})

    def told(self, deployment: Deployment) -> str:
        """Return a sentence about the machines that stay; empty: there are none."""
        parts = []
        if holding := [name for name in self.staying if self.data[name]]:
            contents = " and ".join(dict.fromkeys(self.data[name] for name in holding))
            parts.append(
                f"{', '.join(holding)}, which may hold data ({contents}): only"
                f" {deployment.command('up')} --with-data removes them"
            )
        if others := [name for name in self.staying if not self.data[name]]:
            parts.append(
                f"{', '.join(others)}, which stay until {deployment.command('up')} --map"
                f" {deployment.map_name} removes them"
            )
        return f"{deployment.map_path.name} does not name {'; '.join(parts)}" if parts else ""

    def steps(self, deployment: Deployment) -> list[str]:
        """Return what a run does about the surplus, a line each."""
        sentence = self.told(deployment)
        return [
            *(f"drain and destroy {name}" for name in self.going),
            *([f"warning: {sentence}"] if sentence else []),
        ]
