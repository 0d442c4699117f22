"""What differs on this machine from what the stack declares, where no state can put it right.

Each check yields sentences for the operator. docs/drift.md says which check looks at what, what the
states repair themselves, and what nothing looks at. `role.status` asks here, so all checks together
take less than a second. They look for what somebody has changed by hand, not for an intruder, who
could hide from them.
"""

from __future__ import annotations

import csv
import io
import re
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__grains__: dict[str, Any]
__salt__: dict[str, Any]

Role = Mapping[str, Any]

# Folder -> the files that an image, cloud-init, the deploy script or Salt itself writes there.
# Others belong to a package or say in their first lines that a state manages them.
FOLDERS = {
    "etc/audit/rules.d": r"",
    "etc/chrony": r"chrony\.keys",
    "etc/apt/preferences.d": r"",
    "etc/apt/sources.list.d": r"debian\.sources",
    "etc/cron.d": r"",
    "etc/cron.daily": r"",
    "etc/cron.hourly": r"",
    "etc/cron.monthly": r"",
    "etc/cron.weekly": r"",
    "etc/modprobe.d": r"",
    "etc/modules-load.d": r"",
    "etc/profile.d": r"",
    "etc/salt/minion.d": r"_schedule\.conf",
    "etc/ssh/sshd_config.d": r"10-cloud\.conf|50-cloud-init\.conf",
    "etc/sudoers.d": r"admin|90-cloud-init-users",
    "etc/security/limits.d": r"",
    "etc/sysctl.d": r"60-stack\.conf",
    "etc/systemd/system": r"salt-(minion|master)\.service|cloud-boot-(init|final)\.service",
    "etc/systemd/system.control": r"",
    "etc/tmpfiles.d": r"",
    "run/systemd/system.control": r"",
    "var/spool/cron/crontabs": r"",
}
_MARK = re.compile(rb"Managed by [sS]alt\b")
_MARKED_BYTES = 300
# What the local cloud's image masks: a container has no hardware of its own.
_MASKED_IN_CONTAINER = re.compile(
    r"(getty\.target|console-getty\.service|systemd-(networkd|resolved|udevd)\.service)"
)
_UPDATE_TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
_SECURITY = re.compile(r"^(deb\s.*\S+-security\b|Suites:.*\S+-security\b)", re.MULTILINE)
# A clock that is this far off, in seconds: etcd and tokens bear one second.
_CLOCK_OFF = 0.5
# How long chronyd may need for its first measurements, also without CPU credits.
_CLOCK_SECONDS = 120
_WITHHELD = re.compile(r"^Unattended-Upgrade::Package-Blacklist \{([^}]*)\};", re.MULTILINE)
_POLICY = re.compile(r"^(\S+):\n +Installed: (\S+)\n +Candidate: (\S+)$", re.MULTILINE)
_NO_LOGIN = {"nologin", "false", "sync"}
# Debian's package gives its user a shell. Nobody can log in as it: it has no password and no key.
_SERVICE_USERS = {"postgres"}
# cloud-init writes root a key that only prints which user to take.
_REFUSED_KEY = "Please login as the user"
_CODE = re.compile(r"^\S+ ..x. .* (/(?:usr|opt|lib)\S*) \(deleted\)$", re.MULTILINE)
_UNIT_PROPERTIES = "Id,ActiveState,SubState,NeedDaemonReload"
_UNIT = re.compile(r"/([^/\n]+\.service)(?:/|$)", re.MULTILINE)
_HAPROXY_SOCKET = "/run/haproxy/admin.sock"
# What counts during a recovery alone stays as it was while a restored server runs on.
_POSTGRES = """
SELECT format('PostgreSQL sets %s at its next restart only', name) FROM pg_settings
WHERE pending_restart AND name <> 'hot_standby' AND NOT starts_with(name, 'recovery_target')
UNION ALL SELECT format('PostgreSQL has %s = %s by ALTER SYSTEM', name, setting)
FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf'
UNION ALL SELECT format('PostgreSQL has %s for the database %s', setconfig, datname)
FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
UNION ALL SELECT format('PostgreSQL has the superuser %s', rolname) FROM pg_roles
WHERE rolsuper AND rolname <> 'postgres'
"""


def found(description: str = "/etc/salt/role.json", root: str = "/") -> list[str]:
    """Return what differs, as sentences; empty when nothing does.

    A check that fails is a sentence too, and does not keep the others from being made.

    Args:
        description: the file with what `role.description` returned.
        root: the machine's root folder.

    Raises:
        CommandExecutionError: the file is missing, because no highstate has run yet.
    """
    return [sentence for said in by_check(description, root).values() for sentence in said]


def by_check(description: str = "/etc/salt/role.json", root: str = "/") -> dict[str, list[str]]:
    """Return check -> what ``found`` has of it.

    Args:
        description: the file with what `role.description` returned.
        root: the machine's root folder.

    Raises:
        CommandExecutionError: the file is missing, because no highstate has run yet.
    """
    role = __salt__["role.recorded"](description)
    sentences: dict[str, list[str]] = {}
    for check in CHECKS:
        name = check.__name__[1:]
        try:
            sentences[name] = list(check(Path(root), role))
        except (OSError, ValueError, LookupError, CommandExecutionError) as error:
            sentences[name] = [f"the check of {name} failed: {error}"]
    return sentences


def outdated(proc: str = "/proc") -> list[str]:
    """Return the units whose processes run code that an update has replaced, sorted."""
    units = set()
    for maps in Path(proc).glob("[0-9]*/maps"):
        try:
            if _CODE.search(maps.read_text(errors="replace")):
                units |= set(_UNIT.findall(maps.with_name("cgroup").read_text()))
        except OSError:
            continue  # the process has ended
    return sorted(units)


def withheld(path: str = "/etc/apt/apt.conf.d/60-stack") -> list[str]:
    """Return the packages with an update that Debian's daily run leaves to the operator.

    Args:
        path: apt's configuration, with the packages that it leaves.

    Returns:
        Name and version of each.
    """
    try:
        found = _WITHHELD.search(Path(path).read_text())
    except OSError:
        return []  # no highstate has run yet
    patterns = re.findall(r'"(.+)";', found[1]) if found else []
    installed = _run("dpkg-query", "--show", "--showformat=${Package}\n").split()
    names = [name for name in installed if any(re.match(each, name) for each in patterns)]
    if not names:
        return []
    policy = _run("apt-cache", "policy", *names)
    return [
        f"{name} {candidate}"
        for name, now, candidate in _POLICY.findall(policy)
        if now not in ("(none)", candidate)
    ]


def reboot_required(root: str = "/") -> bool:
    """Return whether Debian asks for a reboot, such as for a new kernel."""
    return Path(root, "run/reboot-required").exists()


def _files(root: Path, role: Role) -> Iterator[str]:
    """Files in folders from which a program reads all files."""
    del role
    strange = [
        path
        for folder, known in FOLDERS.items()
        for path in sorted(Path(root, folder).rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and not re.fullmatch(known, path.name)
        and not _MARK.search(path.read_bytes()[:_MARKED_BYTES])
    ]
    of_packages = _owned(["/" + str(path.relative_to(root)) for path in strange])
    for path in strange:
        name = "/" + str(path.relative_to(root))
        if name not in of_packages:
            yield f"{name} belongs to no package and no state"


def _owned(paths: list[str]) -> set[str]:
    """Return the paths that belong to a package."""
    if not paths:
        return set()
    lines = _run("dpkg-query", "--search", *paths, may_fail=True).splitlines()
    return {line.partition(": ")[2] for line in lines}


def _units(root: Path, role: Role) -> Iterator[str]:
    """Failed and masked units, and units whose files systemd has not read yet."""
    del role
    shown = _run("systemctl", "show", f"--property={_UNIT_PROPERTIES}", "*")
    for block in shown.split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if line)
        if unit.get("ActiveState") == "failed":
            yield f"{unit['Id']} has failed"
        if unit.get("SubState") == "auto-restart":
            yield f"{unit['Id']} has failed, and is started again"
        if unit.get("NeedDaemonReload") == "yes":
            yield f"{unit['Id']} has files that systemd has not read"
    container = __grains__.get("virtual") == "container"
    folder = Path(root, "etc/systemd/system")
    for path in sorted(folder.glob("*.*")):
        masked = path.is_symlink() and str(path.readlink()) == "/dev/null"
        if masked and not (container and _MASKED_IN_CONTAINER.fullmatch(path.name)):
            yield f"{path.name} is masked"
    for updates in _UPDATE_TIMERS:
        if not Path(folder, "timers.target.wants", updates).is_symlink():
            yield f"{updates} is disabled, so no security update is installed"


def _users(root: Path, role: Role) -> Iterator[str]:
    """Users who could log in, or become root."""
    if "login_user" not in role:  # an earlier release wrote the description
        return
    login = role["login_user"]
    for name, _, uid, _, _, home, shell in _table(root, "etc/passwd", 7):
        if uid == "0" and name != "root":
            yield f"the user {name} has uid 0"
        if Path(shell).name not in _NO_LOGIN and name not in {"root", login, *_SERVICE_USERS}:
            yield f"the user {name} has the shell {shell}"
        keys = [
            line
            for path in sorted(Path(root, home.lstrip("/"), ".ssh").glob("authorized_keys*"))
            for line in path.read_text().splitlines()
            if line.strip() and not line.startswith("#") and _REFUSED_KEY not in line
        ]
        if len(keys) > (name == login):
            yield f"the user {name} has {len(keys)} SSH keys"
    for name, password, *_ in _table(root, "etc/shadow", 9):
        if not password.startswith(("!", "*")):
            yield f"the user {name} has a password"
    for group, _, _, members in _table(root, "etc/group", 4):
        for name in sorted({*members.split(",")} - {"", login}):
            if group == "sudo":
                yield f"the user {name} is in the group sudo"


def _table(root: Path, path: str, columns: int) -> Iterator[list[str]]:
    for line in Path(root, path).read_text().splitlines():
        fields = line.split(":")
        if len(fields) == columns:
            yield fields


def _ports(root: Path, role: Role) -> Iterator[str]:
    """TCP ports on which something listens that no endpoint names, and the other way round.

    The check of the role tells of its own port.
    """
    del root
    if "ports" not in role:
        return
    strange: defaultdict[int, set[str]] = defaultdict(set)
    missing = {*role["ports"]} - {role.get("port")}
    for line in _run("ss", "--no-header", "--listening", "--tcp", "--numeric", "-p").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        missing.discard(int(port))
        if not address.startswith(("127.", "[::1]")) and int(port) not in role["ports"]:
            strange[int(port)] |= set(re.findall(r'\("([^"]+)"', line))
    for number, programs in sorted(strange.items()):
        program = ", ".join(sorted(programs)) or "something"
        yield f"{program} listens on port {number}, which no endpoint names"
    for number in sorted(missing):
        yield f"nothing listens on port {number}, which an endpoint names"


def _packages(root: Path, role: Role) -> Iterator[str]:
    """Packages that no update reaches."""
    del root, role
    for line in _run("dpkg-query", "--show", "--showformat=${db:Status-Want} ${Package}\n").split(
        "\n"
    ):
        if line.startswith("hold "):
            yield f"the package {line.removeprefix('hold ')} is on hold"


def _updates(root: Path, role: Role) -> Iterator[str]:
    """Whether apt knows where Debian's security updates are."""
    del role
    folder = Path(root, "etc/apt")
    paths = [folder / "sources.list", *Path(folder, "sources.list.d").glob("*")]
    if not any(_SECURITY.search(path.read_text()) for path in paths if path.is_file()):
        yield "apt has no source of Debian's security updates"


def _clock(root: Path, role: Role) -> Iterator[str]:
    """A clock that is wrong, or that nothing corrects."""
    del role
    # https://chrony-project.org/doc/4.6/chronyc.html
    *_, status = tracking = _run("chronyc", "-cn", "tracking").strip().split(",")
    sources = [line.split(",") for line in _run("chronyc", "-cn", "sources").splitlines()]
    answered = any(int(reach, 8) for _, _, _, _, _, reach, *_ in sources)
    if not answered or status == "Not synchronised":
        began = Path(root, "run/chrony/chronyd.pid").stat().st_mtime
        if time.time() - began > _CLOCK_SECONDS:
            yield "the clock follows no server: none answers"
    elif abs(off := float(tracking[4])) > _CLOCK_OFF:
        yield f"the clock is {abs(off):.1f} s {'slow' if off > 0 else 'fast'}"


def _sshd(root: Path, role: Role) -> Iterator[str]:
    """Options of sshd that another file decides."""
    del root, role
    yield from __salt__["sshd.problems"]("/etc/ssh/sshd_config.d/00-stack.conf")


def _haproxy(root: Path, role: Role) -> Iterator[str]:
    """What was set at HAProxy's socket and is lost at its next start."""
    if role["unit"] != "haproxy":
        return
    text = Path(root, "etc/haproxy/haproxy.cfg").read_text()
    limits = set(re.findall(r"^\s*(?:default-)?server\b.*?\bmaxconn\s+(\d+)", text, re.MULTILINE))
    for row in csv.DictReader(io.StringIO(_ask_haproxy("show stat").removeprefix("# "))):
        if row["svname"] in ("FRONTEND", "BACKEND"):
            continue
        server = f"HAProxy's server {row['pxname']}/{row['svname']}"
        # `via`: it follows another server, which is told.
        if row["status"].startswith(("MAINT", "DRAIN")) and " (via " not in row["status"]:
            yield f"{server} is {row['status']}, set by hand"
        if limits and row["slim"] not in limits:
            yield f"{server} has maxconn {row['slim'] or 'unset'}, set by hand"


def _ask_haproxy(command: str) -> str:
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(2)
        admin.connect(_HAPROXY_SOCKET)
        admin.sendall(f"{command}\n".encode())
        with admin.makefile() as answer:
            return answer.read()


def _postgres(root: Path, role: Role) -> Iterator[str]:
    """Settings that PostgreSQL has not from its configuration files, and other superusers."""
    del root
    if role["unit"] == "patroni":
        psql = ("psql", "-XAtq", "--set=ON_ERROR_STOP=1", f"--command={_POSTGRES}")
        yield from _run("runuser", "--user", "postgres", "--", *psql).splitlines()


def _states(root: Path, role: Role) -> Iterator[str]:
    """What the next highstate changes, as a timer has found."""
    del root, role
    yield from __salt__["highstate.differences"]()


def _run(*command: str, may_fail: bool = False) -> str:
    done = __salt__["cmd.run_all"](
        list(command), python_shell=False, cwd="/", ignore_retcode=True, output_loglevel="quiet"
    )
    if done["retcode"] != 0 and not may_fail:
        raise CommandExecutionError(f"{command[0]}: {done['stderr'] or done['stdout']}")
    return str(done["stdout"])


CHECKS: tuple[Callable[[Path, Role], Iterator[str]], ...] = (
    _files,
    _units,
    _users,
    _ports,
    _packages,
    _updates,
    _clock,
    _sshd,
    _haproxy,
    _postgres,
    _states,
)
