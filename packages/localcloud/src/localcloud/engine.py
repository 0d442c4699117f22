"""Docker's engine: finds the engine that runs, or installs and starts one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import docker
from docker.errors import DockerException

from localcloud import packages
from localcloud.config import Report
from localcloud.errors import EngineForbidden, EngineStartFailed, EngineUnavailable

DEFAULT_STATE_DIR = Path("/var/lib/localcloud")
START_SECONDS = 60.0
SYSTEMD = Path("/run/systemd/system")
"""A folder that exists where systemd is PID 1, see sd_booted(3)."""
STALE = (
    (Path("/var/run/docker.pid"), "dockerd"),
    (Path("/var/run/docker/containerd/containerd.pid"), "containerd"),
)
"""Pid files, each with its program. After a crash they can name the pid of another program; then
dockerd does not start."""
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INSTANCES = 1024
"""A machine's systemd and its services hold some eight of them; the kernel's default is 128 for all
machines together, and a unit that gets none fails. See inotify(7)."""
_PID_FILE = "dockerd.pid"
_LOG_FILE = "dockerd.log"


def ensure(report: Report, state_dir: Path = DEFAULT_STATE_DIR) -> docker.DockerClient:
    """Return a client of an engine that answers; install and start an engine if none runs.

    A missing docker.io or iptables is installed. systemd starts the engine where it is PID 1.
    Elsewhere this function starts dockerd, and keeps its pid and log in `state_dir`, so that
    `stop_if_ours` can stop it. The host gets as many inotify instances as many machines need, until
    it boots again.

    Raises:
        EngineForbidden: an engine runs, and this user may not use it.
        EngineUnavailable: no engine runs, and this user is not root and has no sudo.
        PackagesFailed: apt failed.
        EngineStartFailed: the engine ended, or did not answer within a minute.
    """
    _allow_inotify(report)
    client = _connect()
    if client:
        return client
    if os.environ.get("DOCKER_HOST"):
        raise EngineUnavailable(
            f"No engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}. "
            "Start it, or unset the variable."
        )
    missing = [
        name
        for name, program in (("docker.io", "dockerd"), ("iptables", "iptables"))
        if not _program(program)
    ]
    if missing:
        try:
            packages.install(missing, report)
        except EngineUnavailable as error:
            raise EngineUnavailable(
                "Docker's engine is not installed, and installing it needs root or sudo."
            ) from error
        client = _connect()  # the package may have started its service
        if client:
            return client
    if SYSTEMD.is_dir():
        return _start_by_systemd(report)
    return _start_dockerd(report, state_dir)


def connect() -> docker.DockerClient:
    """Return a client of the engine that runs.

    Raises:
        EngineUnavailable: no engine answers.
        EngineForbidden: an engine runs, and this user may not use it.
    """
    client = _connect()
    if client is None:
        raise EngineUnavailable("Docker's engine does not run.")
    return client


def reachable() -> bool:
    """Return whether an engine runs that this user may use."""
    try:
        return _connect() is not None
    except EngineForbidden:
        return False


def installed() -> bool:
    """Return whether an engine is installed, whether or not it runs."""
    return reachable() or _program("dockerd") is not None


def stop_if_ours(state_dir: Path = DEFAULT_STATE_DIR) -> bool:
    """Stop the dockerd that `ensure` has started, unless containers run in it.

    Returns:
        Whether an engine was stopped; no other engine ever is.

    Raises:
        EngineStartFailed: dockerd did not end within a minute.
    """
    pid_file = state_dir / _PID_FILE
    pid = _running(pid_file, "dockerd")
    if pid is None:
        pid_file.unlink(missing_ok=True)
        return False
    client = _connect()
    if client and client.containers.list():
        return False  # of another cloud, or of another program
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while _running(pid_file, "dockerd"):
        if time.monotonic() > deadline:
            raise EngineStartFailed(
                f"dockerd ({pid}) does not end; its log is {state_dir / _LOG_FILE}."
            )
        time.sleep(0.1)
    with suppress(ChildProcessError):  # dockerd may be the child of another process
        os.waitpid(pid, os.WNOHANG)
    pid_file.unlink(missing_ok=True)
    return True


def bridge_gateway(client: docker.DockerClient) -> str:
    """Return this host's address on Docker's default bridge, which every container can reach."""
    configs = client.networks.get("bridge").attrs["IPAM"]["Config"] or [{}]
    for config in configs:
        if config.get("Gateway"):
            return str(config["Gateway"])
        if config.get("Subnet"):  # some versions omit the gateway, which is the first address
            network = str(config["Subnet"]).split("/", 1)[0].rsplit(".", 1)[0]
            return f"{network}.1"
    raise EngineStartFailed(
        "Docker has no default bridge (`bridge: none` in daemon.json?), "
        "so machines could not reach the API."
    )


def _connect() -> docker.DockerClient | None:
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except DockerException as error:
        if "Permission denied" in str(error) or "PermissionError" in str(error):
            raise EngineForbidden(
                "Docker's engine runs, but this user may not use it. Run this as root, or join the "
                "group docker and log in again."
            ) from error
        return None
    return client


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _allow_inotify(report: Report) -> None:
    """Raise the host's number of inotify instances, unless it is as high or an engine is remote."""
    if os.environ.get("DOCKER_HOST") or not INOTIFY.is_file():
        return
    if (before := int(INOTIFY.read_text())) >= INSTANCES:
        return
    command = packages.privileged("tee", str(INOTIFY))
    done = subprocess.run(
        command, input=f"{INSTANCES}\n", capture_output=True, text=True, check=False
    )
    if done.returncode:
        report(
            f"{INOTIFY} stays at {before}, which is few for many machines: {done.stderr.strip()}"
        )
    else:
        report(f"raised fs.inotify.max_user_instances from {before} to {INSTANCES}")


def _start_by_systemd(report: Report) -> docker.DockerClient:
    report("starting Docker's engine (systemctl start docker)")
    done = subprocess.run(
        packages.privileged("systemctl", "enable", "--now", "docker.service"),
        capture_output=True,
        text=True,
        check=False,
    )
    client = _wait_for_answer() if done.returncode == 0 else None
    if client is None:
        raise EngineStartFailed(
            "systemd could not start Docker's engine. See: journalctl -u docker\n"
            f"{packages.tail(done.stderr)}"
        )
    return client


def _start_dockerd(report: Report, state_dir: Path) -> docker.DockerClient:
    if os.geteuid() != 0:
        raise EngineUnavailable(
            "Docker's engine does not run, and only root can start it where systemd is not PID 1."
        )
    report("starting Docker's engine (dockerd itself, since systemd is not PID 1)")
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for pid_file, name in STALE:
        if _running(pid_file, name) is None:
            pid_file.unlink(missing_ok=True)
    log = state_dir / _LOG_FILE
    with log.open("ab") as output:
        process = subprocess.Popen(
            [_program("dockerd") or "dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
            start_new_session=True,
        )
    (state_dir / _PID_FILE).write_text(f"{process.pid}\n")
    client = _wait_for_answer(process)
    if client is None:
        if process.poll() is None:
            process.terminate()
        raise EngineStartFailed(
            f"dockerd did not start; its log is {log}:\n"
            f"{packages.tail(log.read_text(errors='replace'))}"
        )
    return client


def _wait_for_answer(
    process: subprocess.Popen[bytes] | None = None,
) -> docker.DockerClient | None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = _connect()
        if client or (process and process.poll() is not None):
            return client
        time.sleep(0.2)
    return None


def _running(pid_file: Path, program: str) -> int | None:
    """Return the pid in `pid_file` if a process with it runs `program`."""
    try:
        pid = int(pid_file.read_text())
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except (OSError, ValueError):
        return None
    return pid if name == program and not rest.strip().startswith("Z") else None
