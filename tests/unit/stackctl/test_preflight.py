"""Every check of the host passes on a good host, and fails on a bad one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT

import localcloud.engine
import localcloud.neighbours
import localcloud.service
from localcloud.neighbours import Neighbour
from stackctl import preflight
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError
from stackctl.local_cloud import LocalCloud
from stackctl.preflight import GIB


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A program that listens on a port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of loopback on which nobody listens and nobody else will: it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the proxy of whoever runs the tests."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def with_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Leave only these programs on the PATH."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


# -- memory and disk -------------------------------------------------------------------------------


def test_check_memory() -> None:
    preflight.check_memory(6 * GIB, 6)
    preflight.check_memory(13 * GIB, 13)
    with pytest.raises(
        PreflightError,
        match=r"^5\.5 GiB of memory are free; 6 machines need 6 GiB\. Close something",
    ):
        preflight.check_memory(5 * GIB + GIB // 2, 6)


@pytest.mark.parametrize(
    ("name", "existing", "needed"),
    [
        ("small", 6, 0),
        ("small", 4, 2),
        ("production", 6, 7),
        ("production", 13, 0),
        ("small", 9, 0),
    ],
)
def test_stack_that_grows_needs_memory_for_what_it_lacks(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str, existing: int, needed: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(preflight, "check_docker", lambda _: None)
    monkeypatch.setattr(preflight, "check_memory", lambda _, machines: asked.append(machines))
    monkeypatch.setattr(LocalCloud, "runs", lambda _: True)
    monkeypatch.setattr(localcloud.engine, "reachable", lambda: True)
    monkeypatch.setattr(localcloud.service, "machine_names", lambda _: ["container"] * existing)
    LocalCloud(Deployment("local", checkout, name)).check()
    assert asked == ([needed] if needed else [])


@pytest.mark.parametrize(
    ("owner", "folder", "way_out"),
    [
        ("", None, "Remove that network if nothing uses it: docker network rm other"),
        ("local-1", ".stack/local/cloud", "Remove the other one: make -C {checkout} down"),
        ("local-1", "gone/local/cloud", "gone: .venv/bin/python -m localcloud remove local-1"),
        ("local-1", None, "gone: .venv/bin/python -m localcloud remove local-1"),
    ],
)
def test_addresses_of_another_network_are_refused_with_the_way_out(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    folder: str | None,
    way_out: str,
) -> None:
    (tmp_path / ".stack/local/cloud").mkdir(parents=True)
    found = Neighbour("other", "10.20.1.0/24", owner, tmp_path / folder if folder else None)
    for name in ("docker", "memory", "disk", "network", "port"):
        monkeypatch.setattr(preflight, f"check_{name}", lambda *_: None)
    monkeypatch.setattr(localcloud.engine, "reachable", lambda: True)
    monkeypatch.setattr(localcloud.engine, "connect", lambda: "client")
    monkeypatch.setattr(localcloud.neighbours, "overlapping", lambda *_: [found])
    with pytest.raises(PreflightError) as refused:
        LocalCloud(Deployment("local", checkout, "small")).check()
    assert "Docker's network other has 10.20.1.0/24, which is in 10.20.0.0/16" in str(refused.value)
    assert str(refused.value).endswith(way_out.format(checkout=tmp_path))


def test_available_memory_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "MemTotal:        9000 kB\nMemFree:  1 kB\nMemAvailable:    5000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert preflight.available_memory() == 5000 * 1024
    monkeypatch.setattr(Path, "read_text", lambda _: "MemTotal: 9000 kB\n")
    with pytest.raises(PreflightError, match="has no MemAvailable"):
        preflight.available_memory()


def test_available_memory_reads_this_host() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < preflight.available_memory() <= total


def test_check_disk_of_nearest_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(100 * GIB, 0, free)

    monkeypatch.setattr("stackctl.preflight.shutil.disk_usage", usage)
    free = preflight.NEEDED_DISK_GIB * GIB
    preflight.check_disk(tmp_path / "not" / "there" / "yet")
    assert asked == [tmp_path]
    free = GIB
    with pytest.raises(
        PreflightError,
        match=rf"^1\.0 GiB are free on the disk of {re.escape(str(tmp_path))}; 6 GiB",
    ):
        preflight.check_disk(tmp_path)


# -- ports -----------------------------------------------------------------------------------------


def test_check_port_accepts_free_port() -> None:
    address = "127.0.0.77"  # where nobody else takes a port at this moment
    with socket.create_server((address, 0)) as once:
        port = once.getsockname()[1]
    preflight.check_port(address, port, "STACK_HTTPS_PORT")


def test_check_port_accepts_port_whose_connections_have_just_ended(
    listener: socket.socket,
) -> None:
    address = listener.getsockname()
    with socket.create_connection(address):
        served, _ = listener.accept()
        served.close()  # the kernel keeps the connection for a minute, on the server's side
        listener.close()
    preflight.check_port(address[0], address[1], "STACK_HTTPS_PORT")


@pytest.mark.parametrize("variable", ["STACK_HTTPS_PORT", "STACK_API_PORT"])
def test_check_port_refuses_taken_port(listener: socket.socket, variable: str) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(
        PreflightError,
        match=rf"^Port {port} of 127\.0\.0\.1 is taken .* {variable}={port + 1} make up",
    ):
        preflight.check_port("127.0.0.1", port, variable)


def test_check_port_refuses_port_taken_on_every_address() -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as everywhere,
        pytest.raises(PreflightError, match="is taken"),
    ):
        preflight.check_port("127.0.0.1", everywhere.getsockname()[1], "STACK_HTTPS_PORT")


def test_check_port_refuses_address_of_another_host() -> None:
    # RFC 5737: no host has it.
    with pytest.raises(PreflightError, match=r"^Port 8443 of 192\.0\.2\.1 cannot be used: "):
        preflight.check_port("192.0.2.1", 8443, "STACK_HTTPS_PORT")


# -- Docker and programs ---------------------------------------------------------------------------


@pytest.mark.parametrize(("reachable", "uid"), [(True, 1000), (True, 0), (False, 0)])
def test_check_docker_accepts_engine_or_root(
    monkeypatch: pytest.MonkeyPatch, reachable: bool, uid: int
) -> None:
    as_user(monkeypatch, uid)
    preflight.check_docker(lambda: reachable)


def test_check_docker_refuses_user_without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 1000)
    with pytest.raises(
        PreflightError, match=r"installing one needs root\. Run as root \(sudo make up\)"
    ):
        preflight.check_docker(lambda: False)


def test_check_programs_accepts_installed_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_user(monkeypatch, 1000)
    with_programs(monkeypatch, tmp_path / "bin", *preflight.PROGRAMS)
    assert preflight.missing_packages() == []
    preflight.check_programs()


def test_check_programs_names_packages_of_missing_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_user(monkeypatch, 1000)
    with_programs(monkeypatch, tmp_path / "bin", "git", "tar", "apt-get")
    assert preflight.missing_packages() == ["gnupg", "openssh-client"]
    with pytest.raises(
        PreflightError, match=r"^These packages are missing: gnupg, openssh-client\. Install them"
    ):
        preflight.check_programs()


def test_check_programs_lets_root_of_debian_install_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_user(monkeypatch, 0)
    with_programs(monkeypatch, tmp_path / "bin", "git", "apt-get")
    preflight.check_programs()
    (tmp_path / "bin" / "apt-get").unlink()
    with pytest.raises(
        PreflightError, match="These packages are missing: gnupg, openssh-client, tar"
    ):
        preflight.check_programs()


# -- network ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "asked"),
    [
        ("", [("one.invalid", 443), ("two.invalid", 443)]),
        ("http://proxy.invalid:8080", [("proxy.invalid", 8080)]),
        ("http://proxy.invalid", [("proxy.invalid", 3128)]),
    ],
)
def test_check_network_asks_every_mirror_or_only_the_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: str, asked: list[tuple[str, int]]
) -> None:
    found: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        assert timeout < 60
        found.append(address)
        return socket.socket()

    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setattr("stackctl.preflight.socket.create_connection", connect)
    preflight.check_network(("one.invalid", "two.invalid"))
    assert found == asked


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
def test_check_network_connects_to_proxy(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{listener.getsockname()[1]}")
    preflight.check_network(("mirror.invalid",))  # only the proxy has to know that name


def test_check_network_refuses_closed_proxy(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(
        PreflightError, match=r"^127\.0\.0\.1 cannot be reached: .*refused.* check the network, DNS"
    ):
        preflight.check_network()


def test_check_network_refuses_unknown_host() -> None:
    # RFC 6761: a name of this zone never exists.
    with pytest.raises(PreflightError, match=r"^mirror\.invalid cannot be reached: "):
        preflight.check_network(("mirror.invalid",))


# -- account ---------------------------------------------------------------------------------------


@pytest.fixture
def prod(checkout: Path, client: object) -> Deployment:
    """A real deployment, and credentials of moto's account."""
    made = Deployment("prod", checkout)
    made.pillar_dir.mkdir()
    return made


def test_check_account_accepts_account_of_settings(prod: Deployment) -> None:
    prod.settings_path.write_text(f"settings: {{aws_account: '{ACCOUNT}'}}\n")
    preflight.check_account(prod)


@pytest.mark.parametrize(
    "settings", ["{}", f"{{aws_account: {ACCOUNT}}}"], ids=["none", "a number"]
)
def test_check_account_without_setting_prints_the_line_to_add(
    prod: Deployment, settings: str
) -> None:
    prod.settings_path.write_text(f"settings: {settings}\n")
    with pytest.raises(
        PreflightError, match=rf"names no aws_account in quotes; .* belong to {ACCOUNT}"
    ) as caught:
        preflight.check_account(prod)
    assert caught.value.hint.endswith(f"aws_account: '{ACCOUNT}'")


def test_check_account_without_credentials_says_what_to_set(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> object:
        raise NoCredentialsError

    prod.settings_path.write_text(f"settings: {{aws_account: '{ACCOUNT}'}}\n")
    monkeypatch.setattr("stackctl.preflight.boto3.client", ask)
    with pytest.raises(PreflightError, match=r"There are no AWS credentials\. aws sts .* AWS_PROF"):
        preflight.check_account(prod)


def test_check_account_with_ended_credentials_says_the_real_reason(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> object:
        raise ClientError(
            {"Error": {"Code": "ExpiredToken", "Message": "The token is expired"}},
            "GetCallerIdentity",
        )

    prod.settings_path.write_text(f"settings: {{aws_account: '{ACCOUNT}'}}\n")
    monkeypatch.setattr("stackctl.preflight.boto3.client", ask)
    with pytest.raises(PreflightError) as caught:
        preflight.check_account(prod)
    assert "(ExpiredToken) when calling the GetCallerIdentity" in caught.value.what
    assert caught.value.hint.startswith("The AWS credentials have ended, or")


def test_check_account_refuses_another_account(prod: Deployment) -> None:
    prod.settings_path.write_text("settings: {aws_account: '210987654321'}\n")
    message = (
        rf"belong to the AWS account {ACCOUNT},"
        r" and prod lives in 210987654321 \(pillar/prod/settings\.sls\)"
    )
    with pytest.raises(PreflightError, match=message):
        preflight.check_account(prod)
