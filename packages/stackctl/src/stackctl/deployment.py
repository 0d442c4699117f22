"""A deployment of the stack: its name, its files, its machines and its settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from stackctl import counts, maps, settings_file, tree_files
from stackctl.counts import Bounds
from stackctl.errors import MapError, StackError
from stackctl.roles import MASTER, RoleTable, role_of

LOCAL = "local"
SMALL = "small"  # the map of a deployment whose settings name none


def repository_root() -> Path:
    """Return the checkout of this package, or the working directory's if it is installed elsewhere.

    Raises:
        StackError: neither is a checkout of this repository.
    """
    for start in (Path(__file__).resolve(), Path.cwd() / "_"):
        for folder in start.parents:
            if (folder / "cloud.maps.d").is_dir() and (folder / "pyproject.toml").is_file():
                return folder
    raise StackError("stackctl finds no checkout of the repository.", "Run it from inside one.")


@dataclass(frozen=True)
class Deployment:
    """A deployment of the stack: `local` is on this machine, any other is in an AWS account.

    Attributes:
        name: also the folder below `pillar/` and below `.stack/`.
        root: the checkout.
        map_name: the file in `cloud.maps.d`, without its ending; empty: the one that the settings
            remember, or else the small one.
        present: role -> how many machines it has now, for roles whose number the master chooses.
    """

    name: str
    root: Path
    map_name: str = ""
    present: Mapping[str, int] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", self.name) or self.name == "base":
            raise StackError(
                f"'{self.name}' is no name for a deployment.",
                "Use lower-case letters, digits and dashes.",
            )
        if not self.map_name:
            object.__setattr__(self, "map_name", self.remembered_map())
        if not self.map_path.is_file():
            raise MapError(
                f"There is no map '{self.map_name}'.",
                f"See cloud.maps.d. There are: {', '.join(self._maps())}.",
            )

    @property
    def is_local(self) -> bool:
        """Whether the machines are containers on this host."""
        return self.name == LOCAL

    @property
    def state_dir(self) -> Path:
        """The folder of keys, known hosts and logs, which git ignores."""
        return self.root / ".stack" / self.name

    @property
    def pillar_dir(self) -> Path:
        """The deployment's own pillar root."""
        return self.root / "pillar" / self.name

    @property
    def map_path(self) -> Path:
        """The salt-cloud map."""
        return self.root / "cloud.maps.d" / f"{self.map_name}.map"

    def remembered_map(self) -> str:
        """Return the name of the map that the settings have, or else the small one's.

        Raises:
            StackError: the settings cannot be read, or have no name there.
        """
        name = self.settings().get("map", SMALL) if self.has_settings else SMALL
        if not isinstance(name, str) or not name:
            source = self.settings_path.relative_to(self.root)
            raise MapError(
                f"settings:map is {name!r} in {source}, which is no name of a map.",
                f"Write one of cloud.maps.d: {', '.join(self._maps())}.",
            )
        return name

    def remember_map(self) -> bool:
        """Write the name of the map into the settings; return whether that changed anything."""
        if self.remembered_map() == self.map_name:
            return False
        return settings_file.write(self.settings_path, "map", self.map_name)

    def _maps(self) -> list[str]:
        return sorted(path.stem for path in self.map_path.parent.glob("*.map"))

    def command(self, verb: str) -> str:
        """Return the command that runs a verb on this deployment, for messages."""
        return f"stackctl {verb}" if self.is_local else f"stackctl {verb} -d {self.name}"

    def base_pillar(self, component: str) -> dict[str, Any]:
        """Return what a file of `pillar/base` holds about the component that it is named for."""
        path = self.root / "pillar" / "base" / f"{component}.sls"
        return tree_files.section(self.root, path, component)

    def owner(self) -> dict[str, str]:
        """Return the tags that say that something in an account is this deployment's."""
        return {"project": str(self.base_pillar("aws")["project"]), "deployment": self.name}

    def in_account(self, name: str) -> str:
        """Return a name of `pillar/base/aws.sls` with project and deployment in it.

        salt/_modules/aws.py and the EC2 driver's option `owned_by` fill the same names. `{account}`
        stays: only AWS tells the account's number.
        """
        return name.format_map({**self.owner(), "account": "{account}"})

    def role_table(self) -> RoleTable:
        """Return the table of roles."""
        return RoleTable.read(self.root, self.root / "pillar" / "base" / "roles.sls")

    def region(self) -> str:
        """Return the AWS region that the machines are in."""
        return str(self.base_pillar("aws")["region"])

    def zones(self) -> tuple[str, ...]:
        """Return the availability zones that the machines are in, the master's first."""
        aws = self.base_pillar("aws")
        subnets = [aws["subnet"], *aws["other_subnets"].values()]
        return tuple(dict.fromkeys(str(subnet["zone"]) for subnet in subnets))

    @property
    def salt_lock(self) -> Path:
        """The list of packages, pinned by hash, from which a machine's Salt is installed."""
        return self.root / "requirements" / "salt.txt"

    def bounds(self) -> dict[str, Bounds]:
        """Return role -> how many machines the settings give it.

        Raises:
            StackError: the settings cannot be read.
        """
        if not self.has_settings:
            return {}
        return counts.read(self.settings(), str(self.settings_path.relative_to(self.root)))

    def counts(self) -> dict[str, int]:
        """Return role -> how many machines it has, for the roles that the settings name."""
        return {
            role: bounds.clamp(self.present.get(role, bounds.minimum))
            for role, bounds in self.bounds().items()
        }

    def with_present(self, present: Mapping[str, int]) -> Self:
        """Return the deployment when its roles have so many machines now."""
        return replace(self, present=present)

    def with_existing(self, names: Iterable[str], present: Mapping[str, int]) -> Self:
        """Return the deployment when these machines exist.

        Args:
            names: the machines that exist, in the account or as accepted keys.
            present: role -> the number that the master has chosen.
        """
        known = list(names)
        return self.with_present(
            {
                role: bounds.clamp(max(counts.highest(known, role), present.get(role, 0)))
                for role, bounds in self.bounds().items()
                if bounds.automatic
            }
        )

    def minimum(self, role: str) -> int:
        """Return how many machines of a role the map has at least."""
        return len(_of_role(self._map({role: 0}), role))

    def scales(self, role: str) -> bool:
        """Return whether the map follows the number of a role that the settings give."""
        more = self.minimum(role) + 1
        return len(_of_role(self._map({role: more}), role)) == more

    def machines(self) -> dict[str, str]:
        """Return minion id -> profile, as the map has them; the Salt master comes first.

        Raises:
            StackError: an id is not `<role>-<n>` of its profile's role. Its machine would get the
                states and secrets of another role, or of none. Or the map does not follow the
                settings, or gives an even number to a role whose machines vote.
        """
        wanted = self.counts()
        found = self._map(wanted)
        for name, profile in found.items():
            if role_of(name) != profile:
                raise MapError(
                    f"{self.map_path.name} names '{name}' below the profile '{profile}', but the"
                    " id of a machine is its role and a number: the id decides what it may know.",
                    f"Name it {profile}-<n>, with a number from 1 and no leading zero.",
                )
        for role, number in wanted.items():
            if (named := len(_of_role(found, role))) != number:
                raise MapError(
                    f"{self.map_path.name} names {named} machines of the role '{role}', and"
                    f" settings:machines in {self.settings_path.relative_to(self.root)} asks for"
                    f" {number}.",
                    "The map has the minimum, and says which roles can have more: write a number"
                    f" that it can have, or remove {role} there.",
                )
        for name, row in self.role_table().roles.items():
            number = len(_of_role(found, name))
            if row.votes and number and number % 2 == 0:
                raise MapError(
                    f"{number} machines of the role '{name}' bear no more losses than"
                    f" {number - 1}: more than half of them have to agree on who is the master.",
                    f"Write {number - 1} or {number + 1} for {name} in settings:machines of"
                    f" {self.settings_path.relative_to(self.root)}, or in {self.map_path.name}.",
                )
        return dict(sorted(found.items(), key=lambda item: (role_of(item[0]) != MASTER, item[0])))

    def _map(self, machine_counts: Mapping[str, int]) -> dict[str, str]:
        """Return minion id -> profile, as salt-cloud renders the map with these counts."""
        found = maps.read(self.map_path, machine_counts)
        return {name: profile for name, (profile, _) in found.items()}

    def map_options(self) -> dict[str, Mapping[str, Any]]:
        """Return minion id -> the options that the map adds to those of the profile."""
        found = maps.read(self.map_path, self.counts())
        return {name: options for name, (_, options) in found.items()}

    def machines_of(self, role: str) -> list[str]:
        """Return the minion ids of a role that the map names."""
        return _of_role(self.machines(), role)

    def master(self) -> str:
        """Return the minion id of the Salt master."""
        masters = self.machines_of(MASTER)
        if len(masters) != 1:
            raise StackError(
                f"{self.map_path.name} names {len(masters)} machines of the role '{MASTER}'.",
                "Name just one.",
            )
        return masters[0]

    @property
    def ssh_key(self) -> Path:
        """The private SSH key for the machines."""
        return self.state_dir / "ssh" / "key"

    @property
    def ssh_key_before(self) -> Path:
        """The previous key, during a rotation; see `ssh_rotation`."""
        return self.state_dir / "ssh" / "key.before"

    @property
    def settings_path(self) -> Path:
        """The file of the `settings` pillar."""
        return self.pillar_dir / "settings.sls"

    @property
    def has_settings(self) -> bool:
        """Whether the deployment was initialised."""
        return self.settings_path.exists()

    def settings(self) -> dict[str, Any]:
        """Return the deployment's `settings` pillar.

        Raises:
            StackError: there is none yet.
        """
        if not self.has_settings:
            account = "" if self.is_local else " --account 123456789012"
            raise StackError(
                f"{self.settings_path.relative_to(self.root)} does not exist.",
                f"Run: stackctl secrets init -d {self.name}{account}",
            )
        return tree_files.section(self.root, self.settings_path, "settings", alone=True)


def _of_role(names: Iterable[str], role: str) -> list[str]:
    return [name for name in names if role_of(name) == role]
