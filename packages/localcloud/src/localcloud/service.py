"""Starts, stops and checks the API process, which runs on when the command that started it ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import docker

from localcloud import engine, firewall, machines, packages, tls
from localcloud.config import (
    CONFIG_FILE,
    HEALTH,
    LOOPBACK,
    CloudConfig,
    Credentials,
    Endpoint,
    Report,
    fingerprint,
    write_private,
)
from localcloud.errors import NoSuchCloud, PortTaken, ServiceStartFailed, ServiceStopFailed

START_SECONDS = 60.0
STOP_SECONDS = 90.0


@dataclass(frozen=True)
class Status:
    """The state of the API process of a state directory."""

    running: bool
    healthy: bool
    pid: int | None
    log: Path
    fingerprint: str | None = None


def start(config: CloudConfig, report: Report) -> Endpoint:
    """Start the API of a cloud, unless it runs, and return its endpoint.

    A process that runs another configuration or other code, or does not answer, is replaced; its
    machines run on. A cloud that the state directory holds is continued: its machines are started.

    Raises:
        PortTaken: another program listens on the port.
        ServiceStartFailed: the process ended, or did not answer within a minute; the text has the
            end of its log.
        EngineError: Docker's engine cannot be used.
        PackagesFailed: nftables is missing and cannot be installed.
    """
    client = engine.ensure(report)
    firewall.ensure(report)
    endpoint = _endpoint(config, client)
    wanted = fingerprint(config)
    now = status(config.state_dir)
    if now.healthy and now.fingerprint == wanted:
        return endpoint
    if now.running:
        report(
            "restarting the local cloud's API: its configuration or code has changed"
            if now.healthy
            else "restarting the local cloud's API: it does not answer"
        )
        stop(config.state_dir)
    _require_free(config.port, LOOPBACK, engine.bridge_gateway(client))
    _require_free(config.s3_port, engine.bridge_gateway(client))
    report(f"starting the local cloud's API at {endpoint.url}")
    write_private(config.path, config.dump())
    _start_process(config.state_dir, now.log)
    return endpoint


def stop(state_dir: Path) -> bool:
    """End the API process; machines and saved state stay.

    Returns:
        Whether a process was ended.

    Raises:
        ServiceStopFailed: the process does not end even when it is killed.
    """
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 10.0)):
        pid = _pid(state_dir)
        if pid is None:
            return number == signal.SIGKILL
        os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while _pid(state_dir) is not None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return True
    raise ServiceStopFailed(f"The local cloud's API (process {_pid(state_dir)}) does not end.")


def endpoint(state_dir: Path) -> Endpoint | None:
    """Return the endpoint of the cloud in a state directory, or None if its API does not answer."""
    if not status(state_dir).healthy:
        return None
    return _endpoint(CloudConfig.read(state_dir), engine.connect())


def machine_names(config: CloudConfig) -> list[str]:
    """Return the names of the cloud's containers, of running and of stopped machines.

    Raises:
        EngineUnavailable: Docker's engine does not run.
    """
    return machines.container_names(engine.connect(), config.name)


def status(state_dir: Path) -> Status:
    """Return whether the API process runs and answers."""
    log = state_dir / "localcloud.log"
    pid = _pid(state_dir)
    if pid is None:
        return Status(running=False, healthy=False, pid=None, log=log)
    try:
        port = CloudConfig.read(state_dir).port
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{LOOPBACK}:{port}{HEALTH}", timeout=5) as answer:
            health = json.load(answer)
    except (OSError, ValueError, KeyError, NoSuchCloud):
        return Status(running=True, healthy=False, pid=pid, log=log)
    return Status(
        running=True,
        healthy=health["pid"] == pid,
        pid=pid,
        log=log,
        fingerprint=health["fingerprint"],
    )


def remove(name: str, report: Report) -> None:
    """Remove the containers, networks, volumes and rules of a cloud, whose folder may be gone.

    Raises:
        EngineError: Docker's engine cannot be used.
        MachineError: Docker refused to remove something.
    """
    for removed in machines.remove_everything(engine.ensure(report), name):
        report(f"removed {removed}")
    firewall.remove(name)


def destroy(config: CloudConfig, report: Report) -> None:
    """Remove the cloud: process, containers, networks, volumes, rules, credentials and state.

    A part that does not exist is skipped, so a cloud that never ran, or is half destroyed, is no
    error. An installed engine that does not run is started, since it can hold containers from
    before the host restarted. The log file stays.

    Raises:
        ServiceStopFailed: the API process does not end.
        EngineError: Docker's engine cannot be used.
        MachineError: Docker refused to remove something.
    """
    if stop(config.state_dir):
        report("stopped the local cloud's API")
    if engine.installed():
        remove(config.name, report)
    for name in ("moto.pickle", "credentials.json", CONFIG_FILE, "pid"):
        (config.state_dir / name).unlink(missing_ok=True)
    for name in ("objects", tls.FOLDER):
        shutil.rmtree(config.state_dir / name, ignore_errors=True)


def _endpoint(config: CloudConfig, client: docker.DockerClient) -> Endpoint:
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    credentials = Credentials.ensure(config.state_dir)
    gateway = engine.bridge_gateway(client)
    return Endpoint(
        url=f"http://{gateway}:{config.port}",
        loopback_url=f"http://{LOOPBACK}:{config.port}",
        access_key=credentials.access_key_id,
        secret_key=credentials.secret_access_key,
        s3=(gateway, config.s3_port),
        s3_certificate=tls.certificate(config.state_dir, gateway),
    )


def _start_process(state_dir: Path, log: Path) -> None:
    """Start the API process and wait until it answers."""
    with log.open("ab") as output:
        output.seek(0, os.SEEK_END)
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "localcloud", "serve", str(state_dir)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not status(state_dir).healthy:
        if process.poll() is not None or time.monotonic() > deadline:
            if process.poll() is None:
                process.terminate()
            with log.open("rb") as file:
                file.seek(begin)
                end = packages.tail(file.read().decode(errors="replace"))
            raise ServiceStartFailed(
                f"The local cloud's API did not start; its log is {log}:\n{end}"
            )
        time.sleep(0.05)


def _pid(state_dir: Path) -> int | None:
    """Return the pid of the API process, which holds a lock on the pid file."""
    try:
        with (state_dir / "pid").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except (OSError, ValueError):
        pass
    return None


def _require_free(port: int, *addresses: str) -> None:
    for address in addresses:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise PortTaken(
                    f"Port {port} of {address} is taken: {error}. "
                    "Stop the program that uses it, or choose another port."
                ) from error
