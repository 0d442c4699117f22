"""The execution module `drift`: what differs on a machine, in sentences."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from plainpillar import ROOT
from saltmodules import load

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
sync:x:4:65534::/bin:/bin/sync
admin:x:1000:1000::/home/admin:/bin/bash
postgres:x:105:105::/var/lib/postgresql:/bin/bash
"""
SHADOW = "root:*:1:0:9:7:::\nadmin:!:1:0:9:7:::\npostgres:!*:1::::::\n"
GROUP = "sudo:x:27:admin\nadm:x:4:eve\n"
# As chronyc prints them: the fifth is how far the clock is off; the sixth whether the last eight
# questions had an answer, in octal.
TRACKING = (
    "A9FEA97B,169.254.169.123,4,1795817136.1,0.000000061,0,0,0,0,0.1,0.001,0.01,16.1,Normal\n"
)
SOURCES = "^,*,169.254.169.123,3,4,377,12,0.000001,0.000002,0.000100\n"
COLUMNS = ("# pxname", "svname", "status", "slim")


@dataclass
class Machine:
    """A machine on which nothing differs, until a test changes that."""

    root: Path
    role: dict[str, Any] = field(
        default_factory=lambda: {"unit": "app", "ports": [22, 80], "login_user": "admin"}
    )
    virtual: str = "xen"
    answers: dict[str, Any] = field(
        default_factory=lambda: {
            "dpkg-query --search": "pkg: /etc/cron.d/of-package\n",
            "dpkg-query --show": "install pkg\nhold-not pkg\n",
            "systemctl show": "Id=a.service\nActiveState=active\nNeedDaemonReload=no\n\nId=b\n",
            "ss --no-header": "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 1 [::1]:9 [::]:*\n"
            "LISTEN 0 1 *:80 *:*\n"
            "LISTEN 0 1 127.0.0.11:3 0.0.0.0:*\n",
            "chronyc -cn tracking": TRACKING,
            "chronyc -cn sources": SOURCES,
        }
    )
    sshd: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.put("etc/passwd", PASSWD)
        self.put("etc/shadow", SHADOW)
        self.put("etc/group", GROUP)
        self.put("home/admin/.ssh/authorized_keys", "# the deployment's\nssh-ed25519 AAAA x\n")
        for timer in ("apt-daily", "apt-daily-upgrade"):
            self.link(f"etc/systemd/system/timers.target.wants/{timer}.timer", "/usr/x")
        self.put("etc/apt/sources.list.d/debian.sources", "Suites: x trixie-security\n")
        self.put("run/chrony/chronyd.pid", "1\n")

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def link(self, path: str, target: str) -> None:
        """Set a link."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).symlink_to(target)

    def module(self) -> Any:
        """Return the execution module."""

        def run(command: list[str], **options: Any) -> dict[str, Any]:
            assert options["python_shell"] is False
            answer = self.answers.get(" ".join(command[:2]), "")
            answer = self.answers.get(" ".join(command), answer)
            if isinstance(answer, Exception):
                return {"retcode": 1, "stdout": "", "stderr": str(answer)}
            return {"retcode": 0, "stdout": answer, "stderr": ""}

        return load(
            "_modules",
            "drift",
            __grains__={"virtual": self.virtual},
            __salt__={
                "cmd.run_all": run,
                "role.recorded": load("_modules", "role").recorded,
                "sshd.problems": lambda _path: self.sshd,
                "highstate.differences": lambda: self.states,
            },
        )

    def found(self) -> list[str]:
        """Return the sentences."""
        self.put("role.json", json.dumps(self.role))
        sentences: list[str] = self.module().found(str(self.root / "role.json"), str(self.root))
        return sentences


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on which nothing differs."""
    return Machine(tmp_path)


def test_nothing_differs(machine: Machine) -> None:
    """Files of packages, of states, of the image, and links are known."""
    machine.put("etc/cron.d/of-package", "x")
    machine.put("etc/cron.d/of-state", "# Managed by salt/backup: nightly.\n")
    machine.put("etc/systemd/system/airflow.service", "# Managed by Salt (salt/airflow).\n")
    machine.put("etc/systemd/system/salt-minion.service", "[Unit]\n")
    machine.put("etc/sudoers.d/90-cloud-init-users", "x")
    machine.link("etc/systemd/system/dbus-x.service", "/usr/lib/systemd/system/x.service")
    machine.put("root/.ssh/authorized_keys", 'command="echo Please login as the user x" ssh-rsa A')
    assert machine.found() == []


def test_before_the_first_highstate(machine: Machine) -> None:
    with pytest.raises(CommandExecutionError, match="apply the highstate first"):
        machine.module().found(str(machine.root / "absent"))


@pytest.mark.parametrize(
    "path",
    [
        "etc/apt/sources.list.d/other.list",
        "etc/apt/preferences.d/pin",
        "etc/cron.d/backup",
        "etc/cron.daily/backup",
        "var/spool/cron/crontabs/root",
        "etc/sudoers.d/eve",
        "etc/sysctl.d/99-local.conf",
        "etc/modules-load.d/x.conf",
        "etc/modprobe.d/x.conf",
        "etc/audit/rules.d/x.rules",
        "etc/chrony/sources.d/x.sources",
        "etc/security/limits.d/x.conf",
        "etc/tmpfiles.d/x.conf",
        "etc/salt/minion.d/x.conf",
        "etc/ssh/sshd_config.d/99-x.conf",
        "etc/profile.d/x.sh",
        "etc/systemd/system/redis-server.service.d/override.conf",
        "etc/systemd/system/mine.timer",
        "etc/systemd/system.control/redis-server.service.d/50-MemoryMax.conf",
        "run/systemd/system.control/redis-server.service.d/50-MemoryMax.conf",
    ],
)
def test_file_of_nobody(machine: Machine, path: str) -> None:
    machine.put(path, "x\n" * 200 + "# Managed by salt/late\n")
    assert machine.found() == [f"/{path} belongs to no package and no state"]


def test_units(machine: Machine) -> None:
    machine.answers["systemctl show"] = (
        "Id=a.service\nActiveState=failed\nNeedDaemonReload=no\n\n"
        "Id=b.service\nActiveState=active\nNeedDaemonReload=yes\n\n"
        "Id=c.service\nActiveState=activating\nSubState=auto-restart\nNeedDaemonReload=no\n\n"
        "Id=d.service\nActiveState=activating\nSubState=start\nNeedDaemonReload=no\n"
    )
    machine.link("etc/systemd/system/apt-daily.timer", "/dev/null")
    (machine.root / "etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer").unlink()
    assert machine.found() == [
        "a.service has failed",
        "b.service has files that systemd has not read",
        "c.service has failed, and is started again",
        "apt-daily.timer is masked",
        "apt-daily-upgrade.timer is disabled, so no security update is installed",
    ]
    machine.virtual = "container"
    machine.link("etc/systemd/system/ssh.service", "/dev/null")
    machine.link("etc/systemd/system/systemd-udevd.service", "/dev/null")
    assert machine.found()[3:] == [
        "apt-daily.timer is masked",
        "ssh.service is masked",
        "apt-daily-upgrade.timer is disabled, so no security update is installed",
    ]


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ("deb http://deb.debian.org/debian-security trixie-security main", []),
        ("deb [signed-by=/x] http://mirror/debian trixie-security/updates main", []),
        ("Types: deb\nSuites: trixie trixie-security\n", []),
        ("# deb http://mirror/debian trixie-security main", ["apt has no source"]),
        ("deb http://mirror/debian trixie main", ["apt has no source"]),
    ],
)
def test_security_updates_have_a_source(machine: Machine, sources: str, found: list[str]) -> None:
    (machine.root / "etc/apt/sources.list.d/debian.sources").unlink()
    machine.put("etc/apt/sources.list", f"{sources}\n")
    assert [sentence[:17] for sentence in machine.found()] == found


@pytest.mark.parametrize(
    ("off", "found"),
    [
        ("0.499", []),
        ("-0.499", []),
        ("1.26", ["the clock is 1.3 s slow"]),
        ("-86400.1", ["the clock is 86400.1 s fast"]),
    ],
)
def test_wrong_clock(machine: Machine, off: str, found: list[str]) -> None:
    machine.answers["chronyc -cn tracking"] = TRACKING.replace("0.000000061", off)
    assert machine.found() == found


@pytest.mark.parametrize("measured", [True, False])
def test_clock_that_no_server_corrects(machine: Machine, *, measured: bool) -> None:
    """One that lost its server, or never had one. After a start, a server may be slow."""
    if measured:
        machine.answers["chronyc -cn sources"] = SOURCES.replace(",377,", ",0,")
    else:
        never = "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n"
        machine.answers["chronyc -cn tracking"] = never
    assert machine.found() == []
    os.utime(machine.root / "run/chrony/chronyd.pid", (1, 1))
    assert machine.found() == ["the clock follows no server: none answers"]


def test_clock_that_nobody_measures(machine: Machine) -> None:
    machine.answers["chronyc -cn tracking"] = OSError("506 Cannot talk to daemon")
    assert machine.found() == ["the check of clock failed: chronyc: 506 Cannot talk to daemon"]


def test_users(machine: Machine) -> None:
    machine.put(
        "etc/passwd",
        f"{PASSWD}toor:x:0:0::/root2:/usr/sbin/nologin\neve:x:1:1::/home/eve:/bin/sh\n",
    )
    machine.put("etc/shadow", f"{SHADOW}eve:$y$j9T$x:1:0:9:7:::\nbob::1:0:9:7:::\n")
    machine.put("etc/group", "sudo:x:27:admin,eve\n")
    machine.put("home/eve/.ssh/authorized_keys2", "ssh-ed25519 A\n")
    machine.put("root/.ssh/authorized_keys", "ssh-ed25519 A\n")
    machine.put("home/admin/.ssh/authorized_keys", "ssh-ed25519 A\nssh-ed25519 B\n\n")
    assert machine.found() == [
        "the user root has 1 SSH keys",
        "the user admin has 2 SSH keys",
        "the user toor has uid 0",
        "the user eve has the shell /bin/sh",
        "the user eve has 1 SSH keys",
        "the user eve has a password",
        "the user bob has a password",
        "the user eve is in the group sudo",
    ]
    del machine.role["login_user"]  # an earlier release wrote the description
    assert machine.found() == []


def test_ports(machine: Machine) -> None:
    machine.answers["ss --no-header"] = (
        'LISTEN 0 5 *:80 *:* users:(("haproxy",pid=1,fd=3))\n'
        'LISTEN 0 5 0.0.0.0:8001 0.0.0.0:* users:(("python3",pid=1,fd=3),("sh",pid=2,fd=3))\n'
        'LISTEN 0 5 [::]:8001 [::]:* users:(("python3",pid=1,fd=4))\n'
        "LISTEN 0 5 10.0.0.1:111 0.0.0.0:*\n"
    )
    assert machine.found() == [
        "something listens on port 111, which no endpoint names",
        "python3, sh listens on port 8001, which no endpoint names",
        "nothing listens on port 22, which an endpoint names",
    ]
    machine.role["port"] = 22  # the check of the role tells of it
    assert len(machine.found()) == 2
    del machine.role["ports"]  # an earlier release wrote the description
    assert machine.found() == []


def test_held_packages_and_sshd(machine: Machine) -> None:
    machine.answers["dpkg-query --show"] = "install a\nhold redis-server\n"
    machine.sshd = ["sshd has x 1 in place of 2"]
    assert machine.found() == [
        "the package redis-server is on hold",
        "sshd has x 1 in place of 2",
    ]


@pytest.fixture
def haproxy(machine: Machine) -> Callable[..., list[str]]:
    """`haproxy(row, …)`: the sentences where HAProxy's statistics have these rows."""
    path = machine.root / "admin.sock"

    def ask(*rows: tuple[str, ...]) -> list[str]:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    assert connection.recv(100) == b"show stat\n"
                    text = "\n".join(",".join(row) for row in (COLUMNS, *rows))
                    connection.sendall(f"{text}\n\n".encode())

            thread = threading.Thread(target=answer)
            thread.start()
            module = machine.module()
            module._HAPROXY_SOCKET = str(path)
            machine.put("role.json", json.dumps(machine.role | {"unit": "haproxy"}))
            found: list[str] = module.found(str(machine.root / "role.json"), str(machine.root))
            thread.join()
            return found

    machine.put(
        "etc/haproxy/haproxy.cfg",
        "global\n  maxconn 9\nbackend web\n  default-server check maxconn 20\n  server a 1:2\n",
    )
    return ask


def test_haproxy(haproxy: Callable[..., list[str]]) -> None:
    limits = [("edge", "FRONTEND", "OPEN", "9"), ("web", "BACKEND", "UP", "3")]
    assert haproxy(*limits, ("web", "a", "UP", "20"), ("web", "b", "DOWN 1/2", "20")) == []
    followers = [("uploads", "a", "MAINT (via web/a)", "20")]
    assert haproxy(*followers, ("web", "a", "MAINT", "20"), ("web", "b", "DRAIN", "7")) == [
        "HAProxy's server web/a is MAINT, set by hand",
        "HAProxy's server web/b is DRAIN, set by hand",
        "HAProxy's server web/b has maxconn 7, set by hand",
    ]


def test_postgres(machine: Machine) -> None:
    machine.role["unit"] = "patroni"
    machine.answers["runuser --user"] = "PostgreSQL sets x at its next restart only\nanother\n"
    assert machine.found() == ["PostgreSQL sets x at its next restart only", "another"]
    machine.answers["runuser --user"] = CommandExecutionError("connection refused")
    assert machine.found() == ["the check of postgres failed: runuser: connection refused"]


def test_states(machine: Machine) -> None:
    machine.states = ["the next highstate changes x"]
    assert machine.found() == machine.states


def test_failed_check_keeps_no_other_from_being_made(machine: Machine) -> None:
    (machine.root / "etc/shadow").unlink()
    machine.sshd = ["sshd has x 1 in place of 2"]
    first, second = machine.found()
    assert first.startswith("the check of users failed: ")
    assert second == "sshd has x 1 in place of 2"


def test_outdated_units(tmp_path: Path) -> None:
    """Code of a package counts; deleted shared memory and temporary files do not."""
    code = "7f00-7f01 r-xp 00000000 08:01 5 "
    data = "7f00-7f01 rw-s 00000000 00:01 5 "
    processes = {
        "10": (f"{code}/usr/lib/libssl.so.3 (deleted)\n", "0::/system.slice/redis.service\n"),
        "11": (f"{code}/usr/lib/libssl.so.3\n", "0::/system.slice/ssh.service\n"),
        "12": (f"{data}/dev/zero (deleted)\n", "0::/system.slice/patroni.service\n"),
        "13": (f"{code}/opt/airflow/x.so (deleted)\n", "1:cpu:/\n0::/a.slice/b.service/sub\n"),
        "14": (f"{code}/usr/bin/bash (deleted)\n", "0::/user.slice/session-1.scope\n"),
        "15": (f"{code}/memfd:x (deleted)\n", "0::/system.slice/other.service\n"),
        "self": (f"{code}/usr/bin/bash (deleted)\n", "0::/system.slice/self.service\n"),
    }
    for pid, (maps, cgroup) in processes.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "maps").write_text(maps)
        (tmp_path / pid / "cgroup").write_text(cgroup)
    (tmp_path / "16").mkdir()  # has just ended
    module = load("_modules", "drift")
    assert module.outdated(str(tmp_path)) == ["b.service", "redis.service"]


POLICY = """redis-server:
  Installed: 5:8.0.2-3
  Candidate: 5:8.0.3-1
  Version table:
     5:8.0.3-1 500
        500 http://deb.debian.org/debian trixie/main amd64 Packages
patroni:
  Installed: 4.0.7-3
  Candidate: 4.0.7-3
  Version table:
 *** 4.0.7-3 500
etcd-server:
  Installed: (none)
  Candidate: 3.5.16-4
  Version table:
"""


def test_updates_that_the_daily_run_leaves_are_told(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> dict[str, Any]:
        asked.append(command)
        names = "libc6\nredis-server\npatroni\npatroni-doc\nmy-redis-server\n"
        printed = names if command[0] == "dpkg-query" else POLICY
        return {"retcode": 0, "stdout": printed, "stderr": ""}

    module = load("_modules", "drift", __salt__={"cmd.run_all": run})
    config = str(ROOT / "salt/base/files/apt.conf")
    assert module.withheld(config) == ["redis-server 5:8.0.3-1"]
    assert asked[-1] == ["apt-cache", "policy", "redis-server", "patroni"]
    asked.clear()
    (tmp_path / "apt.conf").write_text('Unattended-Upgrade::Automatic-Reboot "false";\n')
    assert module.withheld(str(tmp_path / "apt.conf")) == []
    assert [command[0] for command in asked] == ["dpkg-query"]
    assert module.withheld(str(tmp_path / "missing")) == []


def test_reboot_required(tmp_path: Path) -> None:
    module = load("_modules", "drift")
    assert module.reboot_required(str(tmp_path)) is False
    (tmp_path / "run").mkdir()
    (tmp_path / "run/reboot-required").touch()
    assert module.reboot_required(str(tmp_path)) is True


def test_every_check_is_in_the_document() -> None:
    text = (ROOT / "docs/drift.md").read_text()
    for check in load("_modules", "drift").CHECKS:
        assert f"`{check.__name__}`" in text
