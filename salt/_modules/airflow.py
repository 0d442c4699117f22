"""Releases of Airflow on a machine, and the content of its database."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from salt.exceptions import CommandExecutionError

ROOT = "/opt/airflow"
SETTINGS = ("/etc/airflow/environment", "/etc/airflow/secrets.env")
# Beside them, for commands: no limits on the time of statements.
COMMAND_SETTINGS = "/etc/airflow/command.env"
# Instead of the web app's own connection: the role that owns the database. Only root reads it.
OWNER_SETTINGS = "/etc/airflow/owner.env"
DATABASE_TOOL = "/opt/airflow/database.py"

# Written last: a release without it is incomplete.
MANIFEST = "release.json"

# Part of a release's name. Another number when salt/airflow/files/build_release.py makes something
# else of the same lockfile.
RECIPE = b"3"

# In seconds. A command loads Airflow for some, and ten times as long without CPU credits.
_CLI_TIMEOUT = 1800
_PROBE_TIMEOUT = 300
_HEALTH_TIMEOUT = 5


def release_name(lockfile: str) -> str:
    """Return the name of the release that a lockfile describes.

    The name is ``<version>-<hash>``, of the file and of how a release is built from it.

    Raises CommandExecutionError when the file is missing or does not pin Airflow.
    """
    try:
        content = Path(lockfile).read_bytes()
    except OSError as error:
        raise CommandExecutionError(
            f"cannot read the lockfile {lockfile}: {error.strerror}"
        ) from error
    version = re.search(
        rb"^apache-airflow-core(?:\[[^\]]*\])?==([0-9][\w.]*)", content, re.MULTILINE
    )
    if version is None:
        raise CommandExecutionError(f"{lockfile} does not pin apache-airflow-core")
    return f"{version.group(1).decode()}-{hashlib.sha256(content + RECIPE).hexdigest()[:12]}"


def installed(name: str, root: str = ROOT) -> bool:
    """Return whether a release is installed completely."""
    return _release(root, name).joinpath(MANIFEST).is_file()


def current(root: str = ROOT) -> str | None:
    """Return the name of the release that ``current`` points at, or None."""
    link = Path(root, "current")
    return link.readlink().name if link.is_symlink() else None


def releases(root: str = ROOT) -> list[str]:
    """Return the names of all releases on this machine, also of incomplete ones."""
    folder = Path(root, "releases")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def activate(name: str, root: str = ROOT) -> None:
    """Make a release current. The link is replaced in one step, so it is never missing."""
    if not installed(name, root):
        raise CommandExecutionError(f"release {name} is not installed")
    link = Path(root, "current")
    fresh = Path(root, "current.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(f"releases/{name}")
    fresh.replace(link)


def in_use(root: str = ROOT) -> set[str]:
    """Return the names of the releases whose files a running process has mapped."""
    mapped = re.compile(rf"{re.escape(root)}/releases/([^/\n]+)/")
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            found |= set(mapped.findall(maps.read_text()))
    return found


def prune(keep: list[str], root: str = ROOT) -> list[str]:
    """Remove the releases that are neither to keep nor in use; return their names.

    After a failed upgrade, the release in use is neither the new release nor the previous one.
    """
    wanted = {*keep, *in_use(root)}
    removed = [name for name in releases(root) if name not in wanted]
    for name in removed:
        shutil.rmtree(_release(root, name))
    return removed


def heads(root: str = ROOT) -> dict[str, str]:
    """Return table -> revision of the database that the current release needs."""
    name = current(root)
    if name is None or not installed(name, root):
        raise CommandExecutionError(
            f"no release of Airflow is installed in {root}: apply the state airflow.release"
        )
    manifest: dict[str, dict[str, str]] = json.loads(
        _release(root, name).joinpath(MANIFEST).read_text()
    )
    return manifest["heads"]


def database(username: str | None = None, password: str | None = None) -> dict[str, Any]:
    """Query the database without loading Airflow, in a fraction of a second.

    Returns ``revisions`` (table -> revision, empty on an empty database), ``dags`` (how many are
    serialized), ``marks`` (the texts of ``mark`` for ``dags`` and ``permissions``, or None) and,
    when a username is given, ``user`` (``absent``, ``other password`` or ``present``). Raises
    CommandExecutionError when the database does not answer.
    """
    answer: dict[str, Any] = _ask({"do": "report", "username": username, "password": password})
    return answer


def mark(work: str, text: str) -> None:
    """Store in the database which release did some work: ``dags`` or ``permissions``."""
    _ask({"do": "mark", "work": work, "mark": text}, owner=True)


def encrypted(*, anew: bool = False) -> dict[str, int]:
    """Return with which Fernet keys the values in the database are encrypted.

    Args:
        anew: encrypt with the first key what another one opens.

    Returns:
        ``first``: how many values the first key opens. ``other``: how many another key opens; with
        `anew`, how many were encrypted anew. ``none``: how many no key opens.

    Raises:
        CommandExecutionError: the database does not answer.
    """
    answer: dict[str, int] = _ask({"do": "encrypted", "anew": anew})
    return answer


def migrate() -> None:
    """Bring the database's schema to the current release."""
    _airflow(["db", "migrate"], owner=True)


def sync_permissions() -> None:
    """Bring FAB's roles and permissions to the current release."""
    _airflow(["sync-perm"], owner=True)


def create_user(username: str, password: str, profile: Mapping[str, str]) -> None:
    """Create a user of the web app; the password travels through a pipe.

    Args:
        username: the name with which the user logs in.
        password: the password.
        profile: ``firstname``, ``lastname``, ``email`` and ``role``.
    """
    options = [text for name, value in profile.items() for text in (f"--{name}", value)]
    _airflow(["users", "create", "--username", username, *options], f"{password}\n{password}\n")


def reset_password(username: str, password: str) -> None:
    """Give an existing user this password; the password travels through a pipe."""
    _airflow(["users", "reset-password", "--username", username], f"{password}\n{password}\n")


def serialize_dags() -> None:
    """Parse every DAG bundle and store the result for the web app, as the DAG processor would."""
    _airflow(["dags", "reserialize"])


def healthy(url: str, via: str | None = None, ca: str | None = None) -> bool:
    """Return whether a health page of Airflow answers that its database is healthy.

    Args:
        url: the page, as users type it.
        via: what to ask instead of the address of the name in ``url``: the ``address:port`` of a
            machine, or ``unix:`` and the path of a socket on this one.
        ca: a CA's certificate in PEM, which is trusted like the system's CAs.
    """
    page = urlsplit(url)
    connection = _Connection(via or page.netloc, timeout=_HEALTH_TIMEOUT)
    try:
        connection.connect()
        if page.scheme == "https":
            trust = ssl.create_default_context()
            if ca:
                trust.load_verify_locations(cadata=ca)
            connection.sock = trust.wrap_socket(connection.sock, server_hostname=page.hostname)
        connection.request("GET", page.path, headers={"Host": page.netloc})
        answer = connection.getresponse()
        return bool(
            answer.status == 200 and json.load(answer)["metadatabase"]["status"] == "healthy"
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection to ``host:port``, or to the socket of ``unix:path``."""

    def __init__(self, address: str, timeout: int) -> None:
        self._path = address.removeprefix("unix:") if address.startswith("unix:") else None
        super().__init__("localhost" if self._path else address, timeout=timeout)

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _release(root: str, name: str) -> Path:
    return Path(root, "releases", name)


def _ask(question: dict[str, Any], *, owner: bool = False) -> Any:
    # Root's environment is closed to the web app, which runs meanwhile. All files that this program
    # loads are root's.
    answer = _run(
        [str(Path(ROOT, "current/venv/bin/python")), "-I", DATABASE_TOOL],
        _settings(owner=owner),
        _PROBE_TIMEOUT,
        stdin=json.dumps(question),
        user=None if owner else "airflow",
    )
    return json.loads(answer)


def _airflow(arguments: list[str], stdin: str = "", *, owner: bool = False) -> None:
    """Run Airflow's command line.

    It loads plugins from a folder of the user airflow, so it never runs as root. The states stop
    the web app meanwhile: no process of that user may then read the owner's password.
    """
    _run(
        [str(Path(ROOT, "current/venv/bin/airflow")), *arguments],
        _settings(COMMAND_SETTINGS, owner=owner),
        _CLI_TIMEOUT,
        stdin=stdin,
        user="airflow",
    )


def _settings(*more: str, owner: bool = False) -> dict[str, str]:
    """Return the service's environment, as systemd would read it, and that of more files."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    for path in (*SETTINGS, *more, *([OWNER_SETTINGS] if owner else [])):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError as error:
            state = "airflow.migrate" if path == OWNER_SETTINGS else "airflow.config"
            message = f"cannot read {path}: {error.strerror}; apply the state {state}"
            raise CommandExecutionError(message) from error
        for setting in shlex.split("\n".join(lines), comments=True):
            key, _, value = setting.partition("=")
            environment[key] = value
    return environment


def _run(
    command: list[str],
    environment: dict[str, str],
    timeout: int,
    *,
    stdin: str = "",
    user: str | None = None,
) -> str:
    """Run a command away from any terminal and return its output.

    Raises CommandExecutionError with the end of the output, without known secrets.
    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=environment,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandExecutionError(
            f"{Path(command[0]).name} took longer than {timeout} s"
        ) from error
    except OSError as error:
        raise CommandExecutionError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        for secret in _secrets():
            output = output.replace(secret, "***")
        raise CommandExecutionError(
            f"{shlex.join(command[:4])} failed with {done.returncode}: {output}"
        )
    return done.stdout


def _secrets() -> list[str]:
    """Return every value of the secrets files, and the passwords inside their URLs."""
    values: list[str] = []
    for path in (SETTINGS[1], OWNER_SETTINGS):
        with contextlib.suppress(OSError):
            for setting in shlex.split(Path(path).read_text(), comments=True):
                value = setting.partition("=")[2]
                passwords = re.findall(r"://[^:/@]*:([^@]+)@", value)
                values += [value, *passwords, *map(unquote, passwords)]
    return [value for value in values if value]
