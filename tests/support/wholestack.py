"""The stack on this machine as its operator handles it."""

from __future__ import annotations

import json
import shlex
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import docker
from cryptography.fernet import Fernet
from docker.models.containers import Container

import inside
from localcloud.machines import CLOUD_LABEL, NAME_LABEL
from stackctl import local
from stackctl.deployment import Deployment
from waiting import until

UP_SECONDS = 1500
OF_A_CONNECTION = "of a connection"


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
        """Run a shell command as root on a machine, beside stackctl, and return its output.

        An exit code outside `accept` fails the test.
        """
        container = self.containers()[machine]
        done = inside.run(container, "sh", "-c", command, stdin=(stdin or "").encode())
        printed, error = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        assert done.returncode in accept, f"{machine}: {command}: {printed}\n{error}"
        return printed

    def secret(self, secret: str, field: str) -> str:
        """Return a field of a secret, decrypted at the first time."""
        if (secret, field) not in self._shown:
            self._shown[secret, field] = self.ctl("secrets", "show", secret, field).strip()
        return self._shown[secret, field]

    def forget_secrets(self) -> None:
        """Have `secret` decrypt again what was rotated."""
        self._shown.clear()

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


def sql(stack: Stack, statement: str) -> str:
    """Return the database's answer to its superuser."""
    command = f"psql -XAtqc {shlex.quote(statement)} airflow"
    return stack.sh("postgres-1", f"cd / && sudo -u postgres {command}").strip()


def add_connection(stack: Stack) -> str:
    """Have Airflow keep a connection, as whoever has a token of the API does; return its name."""
    name = f"kept-{time.time_ns()}"
    context = ssl.create_default_context(cadata=str(stack.deployment.settings()["ca_certificate"]))

    def post(path: str, data: dict[str, str], **headers: str) -> dict[str, str]:
        headers["Content-Type"] = "application/json"
        request = urllib.request.Request(stack.url + path, json.dumps(data).encode(), headers)
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            found: dict[str, str] = json.load(answer)
            return found

    admin = {"username": "admin", "password": stack.secret("airflow-admin", "password")}
    bearer = {"Authorization": f"Bearer {post('/auth/token', admin)['access_token']}"}
    connection = {"connection_id": name, "conn_type": "http", "password": OF_A_CONNECTION}
    assert post("/api/v2/connections", connection, **bearer)["connection_id"] == name
    return name


def password_of(stack: Stack, connection: str) -> str:
    """Return a connection's password, opened with the deployment's key."""
    ciphertext = sql(stack, f"SELECT password FROM connection WHERE conn_id = '{connection}'")
    key = stack.secret("airflow-keys", "fernet_key")
    return Fernet(key).decrypt(ciphertext.encode()).decode()
