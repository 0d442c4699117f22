"""Backups of the Salt master's keys by its timer, with its unit's restrictions and in a real disk.

The machine is a second one of the role, because the first one is this host. The bucket is that of a
local cloud in this process.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import BUILDER, SUBNET, Fleet, Machine, changed, failed
from memorycloud import Running, with_bucket
from plainpillar import DEPLOYMENT, ROOT
from stackctl import master_backup
from waiting import until

PKI = "/etc/salt/pki/master"
SECRET = "the-private-half-of-the-masters-key"
NAME = "test"  # the deployment's
BUCKET = f"airflow-stack-{NAME}-123456789012-eu-west-1"
KEY = "master/backup.tar.gpg"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with with_bucket(tmp_path_factory.mktemp("cloud"), BUCKET) as made:
        yield made


@pytest.fixture(scope="module")
def reachable(fleet: Fleet, cloud: Running) -> Iterator[str]:
    """The address of that cloud for machines, whose connections are passed on to this process."""
    assert fleet.master.is_running()
    target = ("127.0.0.1", int(cloud.url.rpartition(":")[2]))

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):  # the end of the test closes it
            while True:
                client, _ = server.accept()
                inner = socket.create_connection(target)
                for pair in ((client, inner), (inner, client)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    with socket.create_server((str(SUBNET[1]), 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield f"http://{SUBNET[1]}:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def keys_of_deployment(folder: Path) -> tuple[str, str]:
    """Return the private and the public key of a new deployment."""
    folder.chmod(0o700)

    def gpg(*args: str) -> str:
        command = ["gpg", "--homedir", str(folder), "--batch", "--quiet", *args]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    kind = ("future-default", "default", "never")
    gpg("--passphrase", "", "--quick-generate-key", NAME, *kind)
    try:
        return gpg("--armor", "--export-secret-keys"), gpg("--armor", "--export")
    finally:
        subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "all"], check=False)


@pytest.fixture(scope="module")
def master(
    fleet: Fleet, cloud: Running, reachable: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine with a master's keys, that has the timer."""
    machine = fleet.machine(BUILDER)
    private, public = keys_of_deployment(tmp_path_factory.mktemp("gpg"))
    machine.put("/root/private.asc", private, 0o600)
    imported = machine.run(
        "sh", "-c", "install -d -m 0700 $0 && gpg --homedir $0 --batch --import /root/private.asc"
        " && rm /root/private.asc", "/etc/salt/gpgkeys",
    )  # fmt: skip
    assert imported.returncode == 0, imported.stderr
    machine.put(f"/srv/stack/pillar/{NAME}/public.asc", public)
    machine.put("/root/.aws/config", f"[default]\nregion = eu-west-1\nendpoint_url = {reachable}\n")
    owner = cloud.credentials
    machine.put(
        "/root/.aws/credentials",
        f"[default]\naws_access_key_id = {owner.access_key_id}\n"
        f"aws_secret_access_key = {owner.secret_access_key}\n",
        0o600,
    )
    machine.put(f"{PKI}/{BUILDER}.pem", SECRET, 0o400)
    machine.put(f"{PKI}/{BUILDER}.pub", "public half")
    machine.put(f"{PKI}/minions/web-1", "of web-1")
    states = machine.apply("master.backup")
    assert not failed(states), failed(states)
    yield machine
    fleet.retire(BUILDER)


def backups(cloud: Running) -> list[dict[str, Any]]:
    """Return the backups in the bucket, the newest first."""
    found = cloud.client("s3").list_object_versions(Bucket=BUCKET, Prefix=KEY)
    return list(found.get("Versions", ()))


def test_second_run_changes_nothing(master: Machine) -> None:
    assert changed(master.apply("master.backup")) == []
    assert changed(master.apply("master.backup", test=True)) == []


def test_timer_backs_up_and_leaves_no_plaintext(master: Machine, cloud: Running) -> None:
    until(lambda: len(backups(cloud)) == 1, "the timer has made the first backup", 150)
    told = master.salt("master_backup.told")
    assert told["problem"] == ""
    assert told["backups"].startswith("keys backed up ")
    done = master.run("systemctl", "show", "--property=Result", "--value", "master-backup.service")
    assert done.stdout.strip() == "success"
    content = cloud.client("s3").get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    assert SECRET.encode() not in content
    places = "/run /tmp /var/tmp /var/lib/master-backup /var/log /var/cache/salt"
    found = master.run("sh", "-c", f"grep -rlF {SECRET} {places} 2>/dev/null")
    assert not found.stdout
    assert not master.run("sh", "-c", "ls -d /run/master-backup-* 2>/dev/null").stdout
    journal = master.run("journalctl", "--no-pager", "--unit=master-backup").stdout
    assert KEY in journal
    assert SECRET not in journal
    mode = master.run("stat", "-c", "%a %U", "/var/lib/master-backup/state.json").stdout
    assert mode.split() == ["600", "root"]
    agents = "pgrep -a -x gpg-agent | grep -F /run/master-backup"
    assert not master.run("sh", "-c", agents).stdout


def test_changed_key_is_backed_up_and_an_unchanged_one_is_not(
    master: Machine, cloud: Running
) -> None:
    until(lambda: backups(cloud), "the timer has made the first backup", 150)
    before = len(backups(cloud))
    master.run("systemctl", "start", "master-backup.service")
    assert len(backups(cloud)) == before
    master.put(f"{PKI}/minions/web-2", "of web-2")
    master.run("systemctl", "start", "master-backup.service")
    assert len(backups(cloud)) == before + 1


def test_lost_keys_come_back_as_stackctl_restores_them(master: Machine, cloud: Running) -> None:
    until(lambda: backups(cloud), "the timer has made the first backup", 150)
    show = f"cd {PKI} && find . -type f -exec sha256sum {{}} + | sort"
    before = master.run("sh", "-c", show).stdout
    assert f"./{BUILDER}.pem" in before
    master.run("rm", "-r", PKI)
    source = (ROOT / "salt/master/files/master_backup.py").read_text()
    master.put(master_backup.PROGRAM, source)  # where the tree is on a new master
    args = ("restore", "--id", BUILDER, "--version", "", "--if-new")
    command = master_backup._command(DEPLOYMENT, *args)
    done = master.run(*command)
    assert done.returncode == 0, done.stderr
    assert master.run("sh", "-c", show).stdout == before
    modes = master.run("stat", "-c", "%a", PKI, f"{PKI}/{BUILDER}.pem").stdout
    assert modes.split() == ["700", "400"]
    for word in ("PRIVATE", SECRET):
        assert word not in f"{done.stdout}{done.stderr}"


def test_bucket_that_is_away_is_told_and_tried_again(master: Machine) -> None:
    master.put(f"{PKI}/minions/web-3", "of web-3")
    master.run("mv", "/root/.aws/config", "/root/.aws/away")
    master.put("/root/.aws/config", "[default]\nendpoint_url = http://127.0.0.1:9\n")
    try:
        assert master.run("systemctl", "start", "master-backup.service").returncode == 0
        told = master.salt("master_backup.told")
        assert "the next backup fails: Could not connect to the endpoint URL" in told["backups"]
        assert told["problem"] == "", "not for half an hour"
        assert "Could not connect" in master.run("journalctl", "-u", "master-backup").stdout
    finally:
        master.run("mv", "/root/.aws/away", "/root/.aws/config")
    assert master.run("systemctl", "start", "master-backup.service").returncode == 0
    assert "fails" not in master.salt("master_backup.told")["backups"]
