"""The stack on this machine as its operator handles it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import docker
from docker.models.containers import Container

from localcloud.machines import CLOUD_LABEL, NAME_LABEL
from stackctl import local
from stackctl.deployment import Deployment
from waiting import until

UP_SECONDS = 1500


def is_green(row: dict[str, Any]) -> bool:
    """Return whether a row of `status` has nothing to tell."""
    return bool(row["healthy"] and row["site"] == "healthy" and not row["errors"])


@dataclass(frozen=True)
class Stack:
    """The stack as its operator handles it."""

    deployment: Deployment
    _shown: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address that users type."""
        return str(self.deployment.settings()["base_url"])

    def ctl(
        self,
        *arguments: str,
        accept: tuple[int, ...] = (0,),
        timeout: float = 300,
        stdin: str | None = None,
        errors: bool = False,
    ) -> str:
        """Run stackctl and return its output; an exit code outside `accept` fails the test.

        The output is what it says of errors where `errors` is true.
        """
        done = subprocess.run(
            [sys.executable, "-m", "stackctl", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            input=stdin,
            cwd=self.deployment.root,
        )
        assert done.returncode in accept, (
            f"stackctl {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        )
        return done.stderr if errors else done.stdout

    def up(self) -> str:
        """Bring up what is missing."""
        return self.ctl("up", timeout=UP_SECONDS)

    def sh(
        self,
        machine: str,
        command: str,
        *,
        accept: tuple[int, ...] = (0,),
        stdin: str | None = None,
    ) -> str:
        """Run a shell command as root on a machine."""
        return self.ctl("exec", machine, "--", command, accept=accept, stdin=stdin)

    def secret(self, secret: str, field: str) -> str:
        """Return a field of a secret, decrypted at the first time."""
        if (secret, field) not in self._shown:
            self._shown[secret, field] = self.ctl("secrets", "show", secret, field).strip()
        return self._shown[secret, field]

    def containers(self) -> dict[str, Container]:
        """Return the containers of the machines by name, also of those that do not run."""
        label = f"{CLOUD_LABEL}={local.cloud_name(self.deployment)}"
        found = docker.from_env().containers.list(all=True, filters={"label": label})
        return {container.labels[NAME_LABEL]: container for container in found}

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the table of `status`."""
        return {
            row["machine"]: row for row in json.loads(self.ctl("status", "--json", accept=(0, 1)))
        }

    def healthy(self) -> dict[str, dict[str, Any]]:
        """Return that table once all machines and the site are healthy.

        A busy minion may not answer the first time.
        """

        def rows() -> dict[str, dict[str, Any]]:
            found = self.rows()
            return (
                found
                if all(row["healthy"] and row["site"] == "healthy" for row in found.values())
                else {}
            )

        return until(rows, "all machines and the site are healthy", 600, every=1)
