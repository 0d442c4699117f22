"""The local cloud on its host: engine, image, configuration, API process, name servers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import DockerException

from localcloud import config, engine, image, machines, server, service, tls
from localcloud.config import CloudConfig
from localcloud.errors import (
    BaseImageFailed,
    EngineForbidden,
    EngineStartFailed,
    EngineUnavailable,
    PackagesFailed,
    ServiceStartFailed,
)
from waiting import runs

CLIENT: Any = SimpleNamespace(containers=SimpleNamespace(list=list))
Program = Callable[[str, str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return a function that makes a program which comes first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, text: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
        return folder / name

    return make


@pytest.fixture
def bare_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host without an engine, where this user is root and systemd is not PID 1.

    An engine answers as soon as the file exists whose path is in the variable `UP`.
    """
    up = tmp_path / "up"
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine, "_connect", lambda: CLIENT if up.exists() else None)
    monkeypatch.setattr(engine, "SYSTEMD", tmp_path / "absent")
    monkeypatch.setattr(engine, "STALE", ())
    monkeypatch.setattr(engine, "INOTIFY", tmp_path / "absent")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("UP", str(up))
    return up


# -- the engine


def test_stop_if_ours_ends_dockerd_without_containers(
    tmp_path: Path, program: Program, bare_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("dockerd", 'touch "$UP"; trap "exit 0" TERM; while :; do sleep 0.05; done')
    program("iptables", "")
    lines: list[str] = []
    assert engine.ensure(lines.append, tmp_path / "state") is CLIENT
    assert any("dockerd" in line for line in lines)
    pid = int((tmp_path / "state/dockerd.pid").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(CLIENT.containers, "list", lambda: ["a container"])
        assert not engine.stop_if_ours(tmp_path / "state")
    assert runs(pid)
    assert engine.stop_if_ours(tmp_path / "state")
    assert not runs(pid)
    assert not engine.stop_if_ours(tmp_path / "state")


def test_running_engine_is_used_and_never_stopped(tmp_path: Path, bare_host: Path) -> None:
    bare_host.touch()
    lines: list[str] = []
    assert engine.ensure(lines.append, tmp_path) is CLIENT
    assert lines == []
    assert not engine.stop_if_ours(tmp_path)


@pytest.mark.parametrize(("before", "after"), [(128, 1024), (1024, 1024), (8192, 8192)])
def test_host_allows_as_many_inotify_instances_as_machines_need(
    tmp_path: Path, bare_host: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    bare_host.touch()
    limit = tmp_path / "max_user_instances"
    limit.write_text(f"{before}\n")
    monkeypatch.setattr(engine, "INOTIFY", limit)
    lines: list[str] = []
    assert engine.ensure(lines.append, tmp_path) is CLIENT
    assert int(limit.read_text()) == after
    assert len(lines) == (before != after)


def test_limit_that_cannot_be_raised_is_told(
    tmp_path: Path, program: Program, bare_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_host.touch()
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n")
    monkeypatch.setattr(engine, "INOTIFY", limit)
    program("tee", "echo read-only file system >&2; exit 1")
    lines: list[str] = []
    assert engine.ensure(lines.append, tmp_path) is CLIENT
    assert "stays at 128" in lines[0]
    assert "read-only file system" in lines[0]


def test_stop_if_ours_spares_other_program_with_same_pid(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        (tmp_path / "dockerd.pid").write_text(f"{other.pid}\n")
        assert not engine.stop_if_ours(tmp_path)
        assert other.poll() is None
        other.kill()


@pytest.mark.usefixtures("bare_host")
def test_failed_engine_start_reports_log(tmp_path: Path, program: Program) -> None:
    program("dockerd", "echo no overlay2 here; exit 1")
    program("iptables", "")
    with pytest.raises(EngineStartFailed, match="no overlay2 here"):
        engine.ensure(print, tmp_path / "state")


def test_missing_engine_is_installed_and_reported(
    tmp_path: Path, program: Program, bare_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_program", lambda _name: None)
    program("apt-get", f'echo "$@" >> {tmp_path}/apt; case $* in *install*) touch "$UP";; esac')
    lines: list[str] = []
    assert engine.ensure(lines.append, tmp_path / "state") is CLIENT
    assert "docker.io iptables" in lines[0]
    assert "--no-install-recommends docker.io iptables" in (tmp_path / "apt").read_text()


@pytest.mark.usefixtures("bare_host")
def test_failed_apt_is_reported(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_program", lambda _name: None)
    program("apt-get", "echo E: Unable to locate package; exit 100")
    with pytest.raises(PackagesFailed, match="Unable to locate package"):
        engine.ensure(print, tmp_path)


@pytest.mark.usefixtures("bare_host")
def test_install_without_root_and_sudo_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: None if name == "sudo" else f"/usr/bin/{name}")
    monkeypatch.setattr(engine, "_program", lambda _name: None)
    with pytest.raises(EngineUnavailable, match="root or sudo"):
        engine.ensure(print, tmp_path)


@pytest.mark.usefixtures("bare_host")
def test_no_engine_is_started_when_docker_host_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(EngineUnavailable, match=r"192\.0\.2\.1"):
        engine.ensure(print, tmp_path)


def test_forbidden_engine_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_options: Any) -> None:
        raise DockerException("Error: PermissionError(13, 'Permission denied')")

    monkeypatch.setattr("docker.from_env", refuse)
    with pytest.raises(EngineForbidden, match="group docker"):
        engine.ensure(print, tmp_path)
    assert not engine.reachable()


@pytest.mark.usefixtures("bare_host")
def test_destroy_installs_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_program", lambda _name: None)
    monkeypatch.setattr(
        "localcloud.packages.install",
        lambda *_: pytest.fail("an engine was installed to be emptied"),
    )
    config.Credentials.ensure(tmp_path)
    tls.certificate(tmp_path, "127.0.0.1")
    service.destroy(CloudConfig("local", tmp_path, 4566, "image:1"), print)
    assert list(tmp_path.iterdir()) == []


# -- the image


def test_image_tag_changes_with_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements, authorities = tmp_path / "salt.txt", tmp_path / "ca"
    requirements.write_text("salt==3008.5\n")
    authorities.mkdir()
    monkeypatch.setattr(image, "HOST_CA", authorities)
    first = image.tag(requirements)
    assert image.tag(requirements) == first
    requirements.write_text("salt==3008.6\n")
    second = image.tag(requirements)
    (authorities / "company.crt").write_text("certificate")
    third = image.tag(requirements)
    monkeypatch.setattr(image, "PACKAGES", [*image.PACKAGES, "cowsay"])
    assert len({first, second, third, image.tag(requirements)}) == 4


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        (
            "W: GPG error: trixie InRelease: NO_PUBKEY 762F67A0B2C39DE4",
            "Upgrade the package debian-archive-keyring",
        ),
        ("Err:1 Could not resolve 'deb.debian.org'", "Is the network up"),
        ("E: something else", "something else"),
    ],
)
def test_failed_base_image_gives_hint(
    program: Program, monkeypatch: pytest.MonkeyPatch, output: str, hint: str
) -> None:
    program("mmdebstrap", f'echo "{output}"; exit 25')
    monkeypatch.setattr(image, "KEYRING", Path(__file__))
    monkeypatch.setattr(image, "exists", lambda _client, _tag: False)
    with pytest.raises(BaseImageFailed, match=hint):
        image.ensure(None, lambda _line: None, Path(__file__))  # type: ignore[arg-type]


# -- configuration and process


def test_configuration_is_read_as_written(tmp_path: Path) -> None:
    written = CloudConfig("local", tmp_path, 4566, "image:1", {"lb-1": {443: ("127.0.0.1", 8443)}})
    assert CloudConfig.load(written.dump()) == written


def test_fingerprint_changes_with_configuration(tmp_path: Path) -> None:
    first, other = (CloudConfig("local", tmp_path, port, "image:1") for port in (4566, 4567))
    assert config.fingerprint(first) == config.fingerprint(first)
    assert config.fingerprint(first) != config.fingerprint(other)


def test_secret_key_is_not_in_repr(tmp_path: Path) -> None:
    credentials = config.Credentials.ensure(tmp_path)
    assert credentials.secret_access_key not in repr(credentials)
    assert config.Credentials.ensure(tmp_path) == credentials
    assert config.Credentials.ensure(tmp_path / "other") != credentials


def test_status_of_empty_directory_is_not_running(tmp_path: Path) -> None:
    now = service.status(tmp_path)
    assert (now.running, now.healthy, now.pid) == (False, False, None)
    assert not service.stop(tmp_path)
    assert service.endpoint(tmp_path) is None


def test_second_process_for_state_directory_is_refused(tmp_path: Path) -> None:
    with server.lock_pid_file(tmp_path / "pid"):
        assert service.status(tmp_path).pid == os.getpid()
        with pytest.raises(ServiceStartFailed, match="Another process"):
            server.lock_pid_file(tmp_path / "pid")
    assert service.status(tmp_path).pid is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.53\nsearch example.org\n", "nameserver 192.0.2.53\n"),
        (
            "nameserver\nnameserver fd00::1\nnameserver 192.0.2.1 # x\nnameserver 192.0.2.2\n",
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\n",
        ),
        ("nameserver 127.0.0.53\n", "nameserver 127.0.0.11\n"),
        ("# nothing\n", "nameserver 127.0.0.11\n"),
    ],
)
def test_resolver_lists_only_reachable_name_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(machines, "RESOLVERS", (tmp_path / "resolv.conf", tmp_path / "absent"))
    assert machines.resolver() == expected


# -- containers


@pytest.mark.parametrize(("host", "asked", "given"), [(2, 1, 1), (2, 2, 2), (2, 8, 2)])
def test_container_has_no_more_cpus_than_host(
    monkeypatch: pytest.MonkeyPatch, host: int, asked: int, given: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: host)
    options = machines.container_options(cpus=asked, memory=1024)
    assert options["cpu_quota"] / options["cpu_period"] == given
    assert options["mem_limit"] == options["memswap_limit"] == "1024m"


def test_machine_container_gets_the_shared_options() -> None:
    made: dict[str, Any] = {}
    api = SimpleNamespace(create_endpoint_config=lambda **given: given)
    client: Any = SimpleNamespace(
        api=api, containers=SimpleNamespace(create=lambda _image, **given: made.update(given))
    )
    machine = machines.Machine(
        instance_id="i-1",
        name="web-1",
        subnet_id="subnet-1",
        cidr="10.0.0.0/24",
        address="10.0.0.4",
        hostname="ip-10-0-0-4",
        domain="ec2.internal",
        cpus=1,
        memory=1024,
    )
    rules: Any = None
    machines.DockerHost(client, "demo", Path("/cloud"), "image:1", rules)._create(
        machine, "demo-subnet-1"
    )
    shared = machines.container_options(cpus=1, memory=1024)
    assert shared.pop("environment").items() <= made["environment"].items()
    assert shared.items() <= made.items()
    assert made["networking_config"] == {"demo-subnet-1": {"ipv4_address": "10.0.0.4"}}
