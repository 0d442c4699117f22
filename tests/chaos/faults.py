"""The faults, and the way back from each.

A fault that lasts is ended by `mend`, which harms nothing where there was no fault. From the others
the stack comes back by itself, or by `stackctl up`.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
from tests.chaos.scene import API, NoTarget, Scene

from bench.machines import CommandFailed, Machine
from stackctl.account import enter
from stackctl.machines import ec2_client, list_machines
from stackctl.roles import role_of

Strike = Callable[[Scene, str], Any]
SLOW = Path(__file__).with_name("slow.py")
QUEUE = "7"
DELAY, LOST = "0.2", "0.2"
POSTMASTER = "/var/lib/postgresql/*/main/postmaster.pid"
DROP_IN = "/run/systemd/system/patroni.service.d"
RUN = "/run/chaos"
# Takes every connection that the server gives, and those that others give up.
TAKE_ALL = """
import select, socket, struct, time
hello = b"user\\0postgres\\0database\\0postgres\\0\\0"
hello = struct.pack("!II", 8 + len(hello), 196608) + hello
held = []
while True:
    with open("/proc/self/comm", "w") as file:
        file.write(f"taken {len(held)}")
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect("/var/run/postgresql/.s.PGSQL.5432")
        link.sendall(hello)
        link.settimeout(5)
        if link.recv(1) == b"R":
            held.append(link)
            continue
    except OSError:
        pass
    link.close()
    time.sleep(0.2)
"""


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        what: what happens, in a table's cell.
        strike: lets it happen to a machine.
        mend: ends it; None: nobody has to.
        remedy: what ends it outside of a rehearsal.
        minutes: that it takes beside the time of others.
    """

    what: str
    strike: Strike
    mend: Strike | None = None
    remedy: str = ""
    minutes: float = 0.0


def unit(name: str) -> str:
    """Return the service of a machine."""
    units = {"lb": "haproxy", "web": "airflow", "redis": "redis-server", "salt": "salt-master"}
    return units.get(role_of(name), "patroni")


def _signal(number: str, of: str = "", whom: str = "all") -> Strike:
    """Return what sends a signal to a service."""

    def send(scene: Scene, name: str) -> None:
        kill = f"systemctl kill --signal={number} --kill-whom={whom} {of or unit(name)}"
        scene.machine(name).run(kill)

    return send


def _sh(script: str) -> Strike:
    """Return what runs a script as root."""

    def run(scene: Scene, name: str) -> None:
        scene.machine(name).run(script)

    return run


# -- machines --------------------------------------------------------------------------------------


def _kill(scene: Scene, name: str) -> None:
    scene.machine(name).container.kill()


def _remove(scene: Scene, name: str) -> None:
    scene.machine(name).container.remove(force=True, v=True)


def _pause(scene: Scene, name: str) -> None:
    scene.machine(name).container.pause()


def _unpause(scene: Scene, name: str) -> None:
    machine = scene.machine(name)
    if machine.container.status == "paused":
        machine.container.unpause()


def _restart(scene: Scene, name: str) -> None:
    """Have EC2 restart it, and return when it goes down."""
    machine = scene.machine(name)
    before = machine.pid
    with enter(scene.stack.deployment):
        client = ec2_client(scene.stack.deployment)
        found = list_machines(client, scene.stack.deployment)[name]
        client.reboot_instances(InstanceIds=[found.instance_id])
    ends = time.monotonic() + 60
    while machine.pid == before and time.monotonic() < ends:
        time.sleep(0.2)


# -- the network -----------------------------------------------------------------------------------


def _cut(*ways: str, ports: tuple[int, ...] = ()) -> Strike:
    def cut(scene: Scene, name: str) -> None:
        scene.machine(name).cut(ports, ways=ways)

    return cut


def _reconnect(scene: Scene, name: str) -> None:
    scene.machine(name).mend()


def _inside(machine: Machine, *command: str, check: bool = True) -> None:
    """Run a command of this host in a machine's network."""
    into = ["nsenter", "--target", str(machine.pid), "--net"]
    subprocess.run([*into, *command], check=check, capture_output=True)


def _rule(verb: str) -> list[str]:
    queue = ["-j", "NFQUEUE", "--queue-num", QUEUE, "--queue-bypass"]
    return ["iptables", "-t", "mangle", verb, "OUTPUT", "-o", "eth0", *queue]


def _pid_file(scene: Scene, name: str) -> Path:
    return scene.stack.deployment.state_dir / f"slow-{name}.pid"


def _slow_down(scene: Scene, name: str) -> None:
    machine = scene.machine(name)
    into = ["nsenter", "--target", str(machine.pid), "--net"]
    process = subprocess.Popen([*into, sys.executable, str(SLOW), QUEUE, DELAY, LOST])
    _pid_file(scene, name).write_text(str(process.pid))
    _inside(machine, *_rule("-A"))


def _speed_up(scene: Scene, name: str) -> None:
    file = _pid_file(scene, name)
    if not file.exists():
        return
    machine = scene.machine(name)
    if machine.pid:
        _inside(machine, *_rule("-D"), check=False)
        _inside(machine, "nft", "delete", "table", "ip", "mangle", check=False)
    pid, ended = int(file.read_text()), True
    with suppress(OSError):
        if SLOW.name in Path(f"/proc/{pid}/cmdline").read_text():
            ended = False
            os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
    file.unlink()
    if ended:  # then the kernel lets the packets pass
        raise CommandFailed(f"{name} was not slow to the end")


# -- the disk --------------------------------------------------------------------------------------


def _limit_files(size: str) -> Strike:
    """Return what limits how large the files may be that a service writes.

    The machines share the disk of this host, so it cannot be full for one of them alone. Only the
    soft limit changes, which the processes' own user may raise again.
    """

    def limit(scene: Scene, name: str) -> None:
        script = f"""
            group=$(systemctl show --property=ControlGroup --value {unit(name)})
            for pid in $(find "/sys/fs/cgroup$group" -name cgroup.procs -exec cat {{}} +); do
                user=$(stat -c %U /proc/$pid 2>/dev/null) || continue
                runuser -u "$user" -- prlimit --pid "$pid" --fsize={size}: || true
            done
        """
        scene.machine(name).run(script)

    return limit


# -- PostgreSQL ------------------------------------------------------------------------------------


def _take_connections(scene: Scene, name: str) -> None:
    machine = scene.machine(name)
    run = f"python3 -c {shlex.quote(TAKE_ALL)} & echo $! > {RUN}/taker; wait"
    machine.run(f"install -d -o postgres {RUN}")
    machine.container.exec_run(["sh", "-c", run], user="postgres", detach=True)


def _switch_over(scene: Scene, name: str) -> None:
    scene.stack.ctl("salt", "--", name, "patroni.switch_over")


# -- the EC2 API, a process of this host -----------------------------------------------------------


def _api(number: signal.Signals) -> Strike:
    def send(scene: Scene, _: str) -> None:
        with suppress(NoTarget):
            os.kill(scene.api(), number)

    return send


FAULTS = {
    "killed": Fault("service killed (`kill -9`)", _signal("KILL")),
    "gone": Fault("machine killed", _kill),
    "lost": Fault("machine lost with its disk", _remove, minutes=3),
    "frozen": Fault("machine frozen", _pause, _unpause, "restart the machine"),
    "stopped": Fault(
        "service stopped (SIGSTOP)", _signal("STOP"), _signal("CONT"), "restart the service"
    ),
    "cut": Fault("network cut", _cut("in", "out"), _reconnect, "mend the network"),
    "deaf": Fault("nothing reaches it", _cut("in"), _reconnect, "mend the network"),
    "mute": Fault("nothing leaves it", _cut("out"), _reconnect, "mend the network"),
    "slow": Fault("200 ms late, 20 % lost", _slow_down, _speed_up, "mend the network"),
    "full": Fault(
        "disk full: its service can write no file", _limit_files("0"), _limit_files("unlimited"),
        "make room",
    ),
    "restarted": Fault("restarted", _restart),
    "etcd-killed": Fault("etcd killed", _signal("KILL", "etcd")),
    "etcd-stopped": Fault(
        "etcd stopped (SIGSTOP)", _signal("STOP", "etcd"), _signal("CONT", "etcd"), "restart etcd"
    ),
    "crash": Fault("postmaster killed", _sh(f"kill -KILL $(head -qn1 {POSTMASTER})")),
    "refused": Fault(
        "all connections taken", _take_connections,
        _sh(f"if [ -e {RUN}/taker ]; then kill $(cat {RUN}/taker); rm {RUN}/taker; fi"),
        "end who takes them",
    ),
    "zombie": Fault(
        "all its processes stopped (SIGSTOP)", _sh("pkill -STOP -x postgres"),
        _sh("pkill -CONT -x postgres || true"), "restart the machine",
    ),
    "patroni-killed": Fault("Patroni killed", _signal("KILL", "patroni", "main")),
    "patroni-gone": Fault(
        "Patroni killed, and not started again",
        _sh(
            f"mkdir -p {DROP_IN}; printf '[Service]\\nRestart=no\\n' > {DROP_IN}/chaos.conf;"
            " systemctl daemon-reload; systemctl kill --signal=KILL --kill-whom=main patroni"
        ),
        _sh(
            f"if [ -e {DROP_IN}/chaos.conf ]; then rm -r {DROP_IN}; systemctl daemon-reload;"
            " systemctl start patroni; fi"
        ),
        "start Patroni",
    ),
    "patroni-zombie": Fault(
        "Patroni stopped (SIGSTOP)", _signal("STOP", "patroni", "main"),
        _signal("CONT", "patroni", "main"), "restart Patroni",
    ),
    "etcd-cut": Fault(
        "cut from the other members of etcd", _cut("in", "out", ports=(2379, 2380)), _reconnect,
        "mend the network",
    ),
    "switchover": Fault("switchover", _switch_over),
    "api-killed": Fault("killed", _api(signal.SIGKILL)),
    "api-stopped": Fault("stopped (SIGSTOP)", _api(signal.SIGSTOP), _api(signal.SIGCONT), "wait"),
}  # fmt: skip
OF_ROLE = {
    "postgres": {
        "stopped", "etcd-stopped", "refused", "zombie", "patroni-gone", "patroni-zombie", "full",
    },
    "web": {"stopped", "full"},
    "redis": {"stopped"},
    "lb": {"stopped"},
    "salt": {"stopped", "full"},
}  # fmt: skip
"""The faults that only machines of a role have; all machines have those of the network."""
OF_ALL = {"frozen", "cut", "slow"}


def mend_all(scene: Scene) -> None:
    """End every fault that lasts, wherever a killed run may have left one."""
    _api(signal.SIGCONT)(scene, API)
    for name, machine in scene.machines().items():
        for key in sorted(OF_ALL, key="frozen".__ne__):
            _mend(scene, key, name)
        if machine.container.status in ("running", "paused"):
            for key in sorted(OF_ROLE.get(role_of(name), set())):
                _mend(scene, key, name)


def _mend(scene: Scene, key: str, name: str) -> None:
    mend = FAULTS[key].mend
    with suppress(CommandFailed, docker.errors.APIError):
        if mend is not None:
            mend(scene, name)
