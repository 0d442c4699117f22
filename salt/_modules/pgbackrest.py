"""Backups of PostgreSQL, and restores: what Salt does around ``backups.py`` (salt/postgres).

https://pgbackrest.org/command.html
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

PROGRAM = "/usr/local/lib/stack/backups.py"
CONFIG = "/etc/pgbackrest/stack.json"
PATRONI = "/etc/patroni/config.yml"
KNOWN = "/var/lib/pgbackrest/known-system"  # what the repository has known last
TARGET = "/run/pgbackrest/target.json"
REPLACED = "/run/pgbackrest/replaced.json"
ASIDE_UNIT = "postgres-aside"
METADATA = "169.254.169.254"
USER = "postgres"
STANZA = "stack"
LED = "led-before-restore"  # a file in the data of the server that led
RESTORE_SECONDS = 1200
_TIMEOUT = 10
_NO_STANZA = (1, 2, 3)  # of pgbackrest info: no path, no backup, no data
_POLL_SECONDS = 0.5


def bucket() -> str:
    """Return the name of the deployment's bucket, by the number of this machine's account.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html

    Raises:
        CommandExecutionError: the instance metadata service does not answer.
    """
    aws = __pillar__["aws"]
    return str(aws["bucket"]["name"]).format(
        project=aws["project"], deployment=__pillar__["settings"]["deployment"], account=_account()
    )


def stanza() -> str:
    """Return what has to be done so that this server's log can be archived; empty: nothing.

    Where the repository cannot be read, nothing has to be done if it has once known this cluster:
    without S3, machines change and restart all the same.

    Returns:
        ``stanza-create``, or ``stanza-upgrade`` where the repository knows another cluster.

    Raises:
        CommandExecutionError: the repository cannot be read.
    """
    own, record = _system(), Path(KNOWN)
    try:
        known = _known_systems()
    except CommandExecutionError:
        if record.exists() and record.read_text() == own:
            return ""
        raise
    if known and known[-1] == own:
        record.write_text(own)
        return ""
    return "stanza-upgrade" if known else "stanza-create"


def _known_systems() -> list[str]:
    """Return the identifiers of the clusters that the repository knows, the present one last."""
    output = _run(["pgbackrest", f"--stanza={STANZA}", "--output=json", "info"])
    found = json.loads(output, strict=False)  # a message may hold what a wrong key has decrypted
    known = next((each for each in found if each["name"] == STANZA), None)
    if known is None:
        return []
    databases = [str(each["system-id"]) for each in known["db"]]
    if not databases and known["status"]["code"] not in _NO_STANZA:
        reasons = [each["status"]["message"] for each in known.get("repo", ())]
        raise CommandExecutionError("; ".join([known["status"]["message"], *reasons]))
    return databases


def _system() -> str:
    """Return the identifier of this server's cluster."""
    settings = _settings()
    control = _run([f"{settings['bin_dir']}/pg_controldata", settings["data_dir"]])
    return next(line for line in control.splitlines() if "system identifier" in line).split()[-1]


def prepare_stanza(command: str) -> None:
    """Have the repository take this server's log.

    An earlier call that was interrupted has left half of what it makes, which pgBackRest takes for
    damage. Where the repository has nothing else, that is removed first.

    Args:
        command: as ``stanza`` returns it.

    Raises:
        CommandExecutionError: pgBackRest refuses.
    """
    try:
        _run(["pgbackrest", f"--stanza={STANZA}", command])
    except CommandExecutionError as error:
        if command != "stanza-create" or "exists but" not in str(error):
            raise
        for words in (["stop"], ["--force", "stanza-delete"]):
            _run(["pgbackrest", f"--stanza={STANZA}", *words])
        _run(["pgbackrest", f"--stanza={STANZA}", command])


def told() -> dict[str, str]:
    """Return how the backups are as ``backups``, and what is wrong as ``problem``.

    Raises:
        CommandExecutionError: this machine cannot tell.
    """
    found: dict[str, str] = _asked("tell")
    return found


def backups() -> list[dict[str, Any]]:
    """Return the backups, the oldest first: ``label``, ``kind``, ``ended``, ``mib``.

    Raises:
        CommandExecutionError: the repository cannot be read.
    """
    found: list[dict[str, Any]] = _asked("list")
    return found


def backup(full: bool = False) -> str:
    """Make a backup now, if this is the machine that makes them; return what was done, in words.

    Args:
        full: whether it has to be a full one.

    Raises:
        CommandExecutionError: it fails.
    """
    return _program("backup", "--now", *(["--full"] if full else [])).strip()


def drill() -> dict[str, Any]:
    """Restore the newest state beside the server, look at it, remove it, and return a report.

    Raises:
        CommandExecutionError: it cannot be restored, or rows are missing.
    """
    found: dict[str, Any] = _asked("drill")
    return found


def require_target(to: str = "latest", timeline: str = "") -> dict[str, str]:
    """Return the times of the oldest and of the newest backup, if a target can be restored.

    Args:
        to: ``latest``, or a time with its zone.
        timeline: a number; by default the newest.

    Raises:
        CommandExecutionError: it cannot be restored, and why.
    """
    found: dict[str, str] = _asked("require-target", f"--to={to}", f"--timeline={timeline}")
    return found


def flush() -> dict[str, str]:
    """Have everything archived that is committed, if this server leads.

    Returns:
        ``time`` and ``timeline``: what brings the present state back later; empty on other servers.

    Raises:
        CommandExecutionError: it is not archived in time.
    """
    found: dict[str, str] = _asked("flush")
    return found


def replaced() -> dict[str, str]:
    """Return what the last ``flush`` of this server has returned, since it has booted."""
    try:
        found: dict[str, str] = json.loads(Path(REPLACED).read_text())
    except OSError:
        return {"time": "", "timeline": ""}
    return found


def maker() -> str:
    """Return the server that makes backups.

    Raises:
        CommandExecutionError: Patroni does not answer here.
    """
    return str(_asked("maker"))


def set_aside(only_followers: bool = False) -> str:
    """Stop PostgreSQL on this machine and put its data aside; return what was done.

    Args:
        only_followers: whether a server that leads goes on.
    """
    leads = __salt__["patroni.is_primary"]()
    if only_followers and leads:
        return "it leads"
    __salt__["service.stop"]("patroni")
    data, aside = _folders()
    if not data.exists():
        return "there is no data"
    if aside.exists():
        shutil.rmtree(aside)
    data.rename(aside)
    if leads:
        Path(aside, LED).touch()
    return f"its data is at {aside}"


def put_back(only_leader: bool = False) -> str:
    """Undo ``set_aside``, and start PostgreSQL; return what was done.

    Args:
        only_leader: whether only the server does so that led.
    """
    data, aside = _folders()
    if only_leader and not Path(aside, LED).exists():
        return "it did not lead"
    if aside.exists():
        __salt__["service.stop"]("patroni")
        shutil.rmtree(data, ignore_errors=True)
        aside.rename(data)
        Path(data, LED).unlink(missing_ok=True)
    __salt__["service.start"]("patroni")
    deadline = time.monotonic() + _TIMEOUT
    while only_leader and not __salt__["patroni.is_primary"]() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return f"it has the data of {aside} again"


def forget_cluster() -> None:
    """Have Patroni know no cluster any more, so that one can begin.

    Raises:
        CommandExecutionError: etcd does not answer.
    """
    scope = yaml.safe_load(Path(PATRONI).read_text())["scope"]
    __salt__["etcd_member.delete"](f"/service/{scope}/")


def begin(to: str = "latest", timeline: str = "", seconds: float = RESTORE_SECONDS) -> str:
    """Begin the cluster anew on this machine, from a backup; return what was done.

    The present data has been put aside everywhere. Where this fails, it is still there.

    Args:
        to: ``latest``, or a time with its zone.
        timeline: a number; by default the newest.
        seconds: after which this gives up.

    Raises:
        CommandExecutionError: it cannot be restored.
    """
    _asked("write-target", f"--to={to}", f"--timeline={timeline}")
    since = time.time()
    try:
        __salt__["service.start"]("patroni")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if __salt__["patroni.is_primary"]():
                told = __salt__["patroni.told"]()["replication"]
                return f"restored {to}: {told}"
            if failure := _failure(since):
                raise CommandExecutionError(failure)
            time.sleep(_POLL_SECONDS)
    finally:
        Path(TARGET).unlink(missing_ok=True)
    raise CommandExecutionError(f"not restored within {seconds:g} s: see journalctl -u patroni")


def discard() -> str:
    """Remove the data that ``set_aside`` has put aside; return what was done."""
    _, aside = _folders()
    if not aside.exists():
        return ""
    shutil.rmtree(aside)
    return f"{aside} is removed"


def aside(to: str = "latest", timeline: str = "") -> str:
    """Restore beside the server, start that, and return the command that opens it.

    Nobody but this machine's ``postgres`` reaches it.

    Args:
        to: ``latest``, or a time with its zone.
        timeline: a number; by default the newest.

    Raises:
        CommandExecutionError: it cannot be restored.
    """
    _asked("make-aside", f"--to={to}", f"--timeline={timeline}")
    where = _beside("aside")
    __salt__["service.start"](ASIDE_UNIT)
    deadline = time.monotonic() + RESTORE_SECONDS
    ready = ["psql", "-XAtqc", "SELECT pg_is_in_recovery()", "-h", str(where), "postgres"]
    while time.monotonic() < deadline:
        done = __salt__["cmd.run_all"](ready, runas=USER, python_shell=False, ignore_retcode=True)
        if done["stdout"].strip() == "f":
            return f"sudo -u {USER} psql -h {where} {__pillar__['postgres']['database']}"
        if not __salt__["service.status"](ASIDE_UNIT):
            break
        time.sleep(_POLL_SECONDS)
    raise CommandExecutionError(f"it has ended: see journalctl -u {ASIDE_UNIT}")


def end_aside() -> bool:
    """Stop and remove what ``aside`` has made; return whether there was something."""
    where = _beside("aside")
    __salt__["service.stop"](ASIDE_UNIT)
    if not where.exists():
        return False
    shutil.rmtree(where)
    return True


def _settings() -> dict[str, Any]:
    """Return what the state has written for the program."""
    found: dict[str, Any] = json.loads(Path(CONFIG).read_text())
    return found


def _beside(name: str) -> Path:
    """Return a folder beside the server's data."""
    return Path(_settings()["data_dir"]).with_name(name)


def _folders() -> tuple[Path, Path]:
    """Return the server's data, and where it is put aside."""
    data = Path(_settings()["data_dir"])
    return data, _beside(f"{data.name}.replaced")


def _failure(since: float) -> str:
    """Return why Patroni's bootstrap has failed since a time; empty: it has not."""
    words = ["journalctl", "--unit=patroni", f"--since=@{since:.0f}", "--output=cat", "--no-pager"]
    lines = __salt__["cmd.run_stdout"](words, python_shell=False).splitlines()
    if not any("Failed to bootstrap" in line or "failed to bootstrap" in line for line in lines):
        return ""
    said = [line for line in lines if not line.startswith(("INFO", "DEBUG", "Traceback", " "))]
    return " ".join(said[:5])


def _account() -> str:
    """Return the number of this machine's account."""
    connection = http.client.HTTPConnection(METADATA, timeout=_TIMEOUT)
    try:
        connection.request(
            "PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        )
        token = connection.getresponse().read().decode()
        connection.request(
            "GET",
            "/latest/dynamic/instance-identity/document",
            headers={"X-aws-ec2-metadata-token": token},
        )
        return str(json.load(connection.getresponse())["accountId"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise CommandExecutionError(
            f"the instance metadata service does not tell the account: {error}"
        ) from error
    finally:
        connection.close()


def _asked(*arguments: str) -> Any:
    return json.loads(_program(*arguments))


def _program(*arguments: str) -> str:
    return _run(["/usr/bin/python3", "-I", PROGRAM, *arguments])


def _run(command: list[str]) -> str:
    """Run a command as PostgreSQL's user; raise CommandExecutionError with what it says."""
    done = __salt__["cmd.run_all"](
        command, runas=USER, python_shell=False, ignore_retcode=True, cwd="/"
    )
    if done["retcode"] != 0:
        said = (done["stderr"] or done["stdout"]).strip().splitlines()
        with contextlib.suppress(StopIteration):
            said = [next(line for line in said if "ERROR" in line)]
        raise CommandExecutionError(" ".join(said[-3:]))
    return str(done["stdout"])
