"""Docker's engine: use the one that runs, else install it and start it."""

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
"""Exists where systemd is PID 1, see sd_booted(3)."""
STALE = (
    (Path("/var/run/docker.pid"), "dockerd"),
    (Path("/var/run/docker/containerd/containerd.pid"), "containerd"),
)
"""Pid files that can outlive a crash, name another program's pid, and keep dockerd from starting."""
_PID_FILE = "dockerd.pid"
_LOG_FILE = "dockerd.log"


def ensure(report: Report, state_dir: Path = DEFAULT_STATE_DIR) -> docker.DockerClient:
    """Return a client of an engine that answers.

    An engine that runs is used as it is. Else docker.io and iptables are installed where they are missing, and the
    engine is started: by systemd where systemd is PID 1, else by hand, with its pid and log in `state_dir`, so that
    `stop_if_ours` can end it.

    Raises:
        EngineForbidden: an engine runs, and this user may not use it.
        EngineUnavailable: no engine, and neither root nor sudo.
        PackagesFailed: apt failed.
        EngineStartFailed: the engine ended or did not answer in a minute.
    """
    client = _connect()
    if client:
        return client
    if os.environ.get("DOCKER_HOST"):
        raise EngineUnavailable(
            f"No engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}. Start it, or unset the variable."
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
                "Docker's engine is not installed, and installing it wants root or sudo."
            ) from error
        client = _connect()  # a package may start its own service
        if client:
            return client
    if SYSTEMD.is_dir():
        return _start_by_systemd(report)
    return _start_by_hand(report, state_dir)


def connect() -> docker.DockerClient:
    """Return a client of the engine that runs.

    Raises:
        EngineUnavailable: none answers.
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
    """Return whether there is an engine, running or not."""
    return reachable() or _program("dockerd") is not None


def stop_if_ours(state_dir: Path = DEFAULT_STATE_DIR) -> bool:
    """End the engine that `ensure` started by hand, unless containers still run in it; leave any other alone.

    Returns:
        Whether an engine was stopped.

    Raises:
        EngineStartFailed: it did not end in a minute.
    """
    pid_file = state_dir / _PID_FILE
    pid = _running(pid_file, "dockerd")
    if pid is None:
        pid_file.unlink(missing_ok=True)
        return False
    client = _connect()
    if client and client.containers.list():
        return False  # another checkout's machines, or somebody's own
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while _running(pid_file, "dockerd"):
        if time.monotonic() > deadline:
            raise EngineStartFailed(
                f"dockerd ({pid}) does not end; its log is {state_dir / _LOG_FILE}."
            )
        time.sleep(0.1)
    with suppress(ChildProcessError):  # another process may have started it
        os.waitpid(pid, os.WNOHANG)
    pid_file.unlink(missing_ok=True)
    return True


def bridge_gateway(client: docker.DockerClient) -> str:
    """Return this host's address on Docker's default bridge, where containers of every network can reach it."""
    configs = client.networks.get("bridge").attrs["IPAM"]["Config"] or [{}]
    for config in configs:
        if config.get("Gateway"):
            return str(config["Gateway"])
        if config.get("Subnet"):  # some versions leave the gateway out: it is the first address
            network = str(config["Subnet"]).split("/", 1)[0].rsplit(".", 1)[0]
            return f"{network}.1"
    raise EngineStartFailed(
        "Docker has no default bridge (`bridge: none` in daemon.json?), so machines could not reach the API."
    )


def _connect() -> docker.DockerClient | None:
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except DockerException as error:
        if "Permission denied" in str(error) or "PermissionError" in str(error):
            raise EngineForbidden(
                "Docker's engine runs, but this user may not use it. Run this as root, or join the group docker and "
                "log in again."
            ) from error
        return None
    return client


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _start_by_systemd(report: Report) -> docker.DockerClient:
    report("starting Docker's engine (systemctl start docker)")
    done = subprocess.run(
        packages.privileged("systemctl", "enable", "--now", "docker.service"),
        capture_output=True,
        text=True,
        check=False,
    )
    client = _await_answer() if done.returncode == 0 else None
    if client is None:
        raise EngineStartFailed(
            f"systemd could not start Docker's engine. See: journalctl -u docker\n{packages.tail(done.stderr)}"
        )
    return client


def _start_by_hand(report: Report, state_dir: Path) -> docker.DockerClient:
    if os.geteuid() != 0:
        raise EngineUnavailable(
            "Docker's engine does not run, and only root can start it where systemd is not PID 1."
        )
    report("starting Docker's engine (dockerd, since systemd is not PID 1)")
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
    client = _await_answer(process)
    if client is None:
        if process.poll() is None:
            process.terminate()
        raise EngineStartFailed(
            f"dockerd did not start; its log is {log}:\n{packages.tail(log.read_text(errors='replace'))}"
        )
    return client


def _await_answer(process: subprocess.Popen[bytes] | None = None) -> docker.DockerClient | None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = _connect()
        if client or (process and process.poll() is not None):
            return client
        time.sleep(0.2)
    return None


def _running(pid_file: Path, program: str) -> int | None:
    """Return the pid in `pid_file` if that process lives and is `program`."""
    try:
        pid = int(pid_file.read_text())
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except (OSError, ValueError):
        return None
    return pid if name == program and not rest.strip().startswith("Z") else None
