"""The deployment: the archive, the SSH session, and the host keys.

Scripts replace OpenSSH and sudo, and run on this machine what these would run on another.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import salt.config
from botocore.exceptions import ClientError

from saltext.ec2 import _archive, _login, _session, _wait, host_keys
from saltext.ec2._machine import Machine
from saltext.ec2.errors import ApiError, ConfigurationError, DeployError
from saltext.ec2.tags import HOST_KEY_TAG
from waiting import runs, until

SSH = """#!/bin/sh
echo "$@" >> {log}
{before}
for remote; do :; done
exec sh -c "$remote"
"""
SUDO = '#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n'

Given = dict[str, Any]
Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return a function that makes Salt's configuration, with the given lines as deploy script."""

    def make(script: str, **more: Any) -> dict[str, Any]:
        (tmp_path / "probe.sh").write_text(script)
        return {
            **salt.config.DEFAULT_CLOUD_OPTS,
            "providers": {"cloud": {"ec2": {}}},
            "profiles": {"web": {}},
            "deploy_scripts_search_path": [str(tmp_path)],
            "minion": {"master": "10.0.0.1"},
            "script": "probe",
            "enable_cloud_grains": True,
            **more,
        }

    return make


@pytest.fixture
def machine() -> Given:
    return {
        "name": "web-1", "driver": "cloud:ec2", "provider": "cloud:ec2", "profile": "web",
        "priv_key": "PRIVATE", "pub_key": "PUBLIC",
    }  # fmt: skip


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts an ssh into the PATH which begins with the shell code `before`.

    The function returns the file in which this ssh logs its arguments.
    """
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(before: str = "") -> Path:
        log = tmp_path / "ssh.log"
        for name, text in (
            ("ssh", SSH.format(log=shlex.quote(str(log)), before=before)),
            ("sudo", SUDO),
        ):
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        return log

    return make


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The deployment's clock."""
    made = Clock()
    monkeypatch.setattr(_wait, "time", made)
    return made


LOGIN = _login.Login("10.0.0.2", 22, ["admin"], {"StrictHostKeyChecking": "yes"}, "/key")


def install(
    payload: bytes,
    folder: Path,
    login: _login.Login = LOGIN,
    seconds: float = 30,
    run_timeout: float = 120,
) -> list[str]:
    shown: list[str] = []
    script = _session.Script(payload, run_timeout, f"{folder}/deploy", show=shown.append)
    _session.run("web-1", login, script, _wait.Wait(seconds))
    return shown


@pytest.mark.covers("script", "minion", "grains")
def test_script_finds_the_files_of_salts_bootstrap(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    ssh()
    script = (
        'cd "$(dirname "$0")"; ls -l minion.pem; cat minion.pem minion.pub minion grains; pwd;'
        ' echo "for {{ vm.name }}"'
    )
    shown = install(
        _archive.build(machine | {"grains": {"role": "web"}}, settings(script)), tmp_path
    )
    text = "\n".join(shown)
    assert shown[0].startswith("-rw-------")
    assert "PRIVATEPUBLIC" in text
    assert "master: 10.0.0.1" in text
    assert "id: web-1" in text
    assert "role: web" in text
    assert "profile: web" in text, "the grain salt-cloud holds the profile of a machine"
    assert "for web-1" in text
    (folder,) = [line for line in shown if line.startswith(f"{tmp_path}/deploy-")]
    assert not Path(folder).exists()


def test_deployment_is_one_session(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    log = ssh()
    install(_archive.build(machine, settings("true")), tmp_path)
    (line,) = log.read_text().split("-F none")[1:]
    assert "StrictHostKeyChecking=yes" in line
    assert "User=admin" in line
    assert "PRIVATE" not in line


@pytest.mark.covers("file_map", "script_env", "script_args", "preflight_cmds", "inline_script")
def test_script_has_files_environment_arguments_and_commands(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    ssh()
    (tmp_path / "lock").write_text("pinned")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "leaf").write_text("green")
    target = tmp_path / "there is" / "room"
    opts = settings(
        'cat "$1/lock" "$1/tree/deep/leaf"; echo " $WORD $2"',
        file_map={
            str(tmp_path / "lock"): f"{target}/lock",
            str(tmp_path / "tree"): f"{target}/tree",
        },
        script_env={"WORD": "it's"},
        script_args=f"'{target}' twice",
        preflight_cmds=["echo before"],
        inline_script=["echo after"],
    )
    assert install(_archive.build(machine, opts), tmp_path) == [
        "before",
        "pinnedgreen it's twice",
        "after",
    ]


@pytest.mark.covers("script", "force_minion_config")
def test_bootstrap_script_gets_folder_of_its_files(settings: Settings, machine: Given) -> None:
    opts = settings("# bootstrap-salt\n", force_minion_config=True)
    with tarfile.open(fileobj=io.BytesIO(_archive.build(machine, opts))) as tar:
        run = tar.extractfile("run")
        assert run
        assert '"$here/deploy.sh" -c "$here" -F' in run.read().decode()


@pytest.mark.covers("script", "file_map")
def test_archive_refuses_missing_script_or_file(settings: Settings, machine: Given) -> None:
    with pytest.raises(ConfigurationError, match="no deploy script nowhere"):
        _archive.build(machine, settings("true") | {"script": "nowhere"})
    with pytest.raises(ConfigurationError, match="file_map: /nowhere does not exist"):
        _archive.build(machine, settings("true", file_map={"/nowhere": "/there"}))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 7", "ended with 7: no output"),
        (
            "echo working; echo the disk is full >&2; exit 1",
            r"ended with 1: working \| the disk is full",
        ),
        ("kill -9 $$", "ended with 137"),
    ],
)
def test_failed_script_is_reported_with_its_output(
    settings: Settings,
    machine: Given,
    ssh: Callable[..., Path],
    tmp_path: Path,
    script: str,
    message: str,
) -> None:
    ssh()
    with pytest.raises(DeployError, match=message):
        install(_archive.build(machine, settings(script)), tmp_path)


def test_script_is_stopped_after_its_timeout(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    ssh()
    pid = tmp_path / "pid"
    payload = _archive.build(machine, settings(f"echo $$ > {pid}; echo working; sleep 600"))
    for seconds in (1, 10, 60):  # the shortest in which the script gets to hang
        with pytest.raises(DeployError) as error:
            install(payload, tmp_path, run_timeout=seconds)
        if "working" in str(error.value):
            break
    assert f"ended with 124: working | stopped after {seconds} s" in str(error.value)
    # The machine itself stops the script: without a connection, the driver cannot.
    until(lambda: not runs(pid.read_text()), "the script is stopped")


def test_second_deployment_waits_for_first(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    ssh()
    log = tmp_path / "log"
    payload = _archive.build(
        machine, settings(f"echo begin >> {log}; sleep 0.3; echo end >> {log}")
    )
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: install(payload, tmp_path), range(2)))
    assert log.read_text().split() == ["begin", "end", "begin", "end"]


@pytest.mark.covers("preflight_cmds")
def test_script_does_not_run_after_failed_preflight_command(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    ssh()
    opts = settings(f"touch {tmp_path}/ran", preflight_cmds=["false"])
    with pytest.raises(DeployError, match="ended with 1"):
        install(_archive.build(machine, opts), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_login_is_retried_and_script_runs_once(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    ssh(
        f"echo >> {count}; [ $(wc -l < {count}) -ge 3 ]"
        ' || { echo "Permission denied" >&2; exit 255; }'
    )
    install(_archive.build(machine, settings(f"echo >> {tmp_path}/ran; exit 0")), tmp_path)
    assert (tmp_path / "ran").read_text() == "\n"


def test_login_tries_users_in_turn(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    log = ssh('case "$*" in *User=ubuntu*) ;; *) exit 255;; esac')
    login = _login.Login("10.0.0.2", 22, ["admin", "ubuntu"], {})
    install(_archive.build(machine, settings("true")), tmp_path, login=login)
    assert log.read_text().count("User=admin") == 1


def test_broken_session_is_not_repeated(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    log = ssh()
    with pytest.raises(DeployError, match="ended with 255: half way"):
        install(_archive.build(machine, settings("echo half way; exit 255")), tmp_path)
    assert log.read_text().count("-F none") == 1


def test_login_timeout_quotes_ssh(
    settings: Settings, machine: Given, ssh: Callable[..., Path], tmp_path: Path
) -> None:
    ssh('echo "admin@10.0.0.2: Permission denied (publickey)." >&2; exit 255')
    with pytest.raises(
        DeployError, match=r"no login to 10.0.0.2 as admin: .*Permission denied \(publickey\)"
    ):
        install(b"", tmp_path)


def test_refused_logins_slow_down_and_keep_their_reason(
    ssh: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    # sshd stops answering a client that it has refused several times.
    count = tmp_path / "count"
    silent = 'echo "Connection closed by remote host" >&2; exit 255'
    log = ssh(
        f"echo >> {count}; [ $(wc -l < {count}) -le 2 ] || {{ {silent}; }};"
        ' echo "Permission denied" >&2; exit 255'
    )
    with pytest.raises(
        DeployError, match=r"as admin: .*Permission denied.*, then .*Connection closed"
    ):
        install(b"", tmp_path, seconds=2.5)
    assert log.read_text().count("-F none") == 3
    assert clock.now == 1 + 2


def test_other_host_key_fails_at_once(ssh: Callable[..., Path], tmp_path: Path) -> None:
    log = ssh('echo "Host key verification failed." >&2; exit 255')
    with pytest.raises(DeployError, match="shows another host key than the console of web-1"):
        install(b"", tmp_path)
    assert log.read_text().count("-F none") == 1


CONSOLE = """\
[    1.234567] systemd[1]: Started.
-----BEGIN SSH HOST KEY KEYS-----
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOld root@old
-----END SSH HOST KEY KEYS-----
<14>ec2: #############
-----BEGIN SSH HOST KEY KEYS-----
[    9.876543] cloud-init[1]: ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY= root@web-1
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINew root@web-1
-----END SSH HOST KEY KEYS-----
"""


def test_host_keys_come_from_last_block_of_console() -> None:
    assert host_keys.from_console(CONSOLE) == [
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINew",
    ]
    assert host_keys.from_console(CONSOLE.rpartition("-----END")[0]) == [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOld"
    ]
    assert host_keys.from_console("") == []


def machine_with(ec2: Any = None, **options: Any) -> Machine:
    """Return the machine web-1 with the default options and these."""
    defaults = {"host_keys": "console", "known_hosts_file": None, "wait_for_ip_interval": 0}
    cache = SimpleNamespace(get=lambda *_: False)
    connection: Any = SimpleNamespace(ec2=ec2, cache=cache)
    instance: Any = {"InstanceId": "i-1", "InstanceType": "t3.micro"}
    return Machine(connection, defaults | options, "web-1", instance)


def test_console_of_unknown_instance_is_empty() -> None:
    def failing(code: str) -> Machine:
        def refuse(**_: Any) -> None:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetConsoleOutput")

        return machine_with(SimpleNamespace(get_console_output=refuse))

    assert host_keys.read(failing("InvalidInstanceID.NotFound")) == []
    for throttled in ("RequestLimitExceeded", "Throttling"):
        assert host_keys.read(failing(throttled)) == []
    with pytest.raises(ApiError, match="UnauthorizedOperation"):
        host_keys.read(failing("UnauthorizedOperation"))


def test_host_keys_are_awaited_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [[], ["ssh-ed25519 AAAA"]]
    monkeypatch.setattr(host_keys, "read", lambda _: shown.pop(0))
    for _ in range(2):  # the second time, the console shows nothing more
        known = host_keys.KnownHosts(tmp_path)
        given = host_keys.ssh_options(machine_with(), known, _wait.Wait(60))
        assert given["StrictHostKeyChecking"] == "yes"
        assert given["HostKeyAlias"] == "i-1"
        assert Path(given["UserKnownHostsFile"]).read_text() == "i-1 ssh-ed25519 AAAA\n"


def test_console_without_host_keys_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_keys, "read", lambda _: [])
    known = host_keys.KnownHosts(tmp_path)
    with pytest.raises(
        DeployError, match=r"console does not show its SSH host keys.*reboot it: it prints"
    ):
        host_keys.ssh_options(machine_with(), known, _wait.Wait(-1))


def test_key_in_the_tag_needs_no_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_keys, "read", lambda _: pytest.fail("the console was read"))
    machine = machine_with()
    tag: Any = {"Key": HOST_KEY_TAG, "Value": "ssh-ed25519 AAAAC3=="}
    tagged = dataclasses.replace(machine, instance={**machine.instance, "Tags": [tag]})
    known = host_keys.KnownHosts(tmp_path)
    given = host_keys.ssh_options(tagged, known, _wait.Wait(-1))
    assert Path(given["UserKnownHostsFile"]).read_text() == "i-1 ssh-ed25519 AAAAC3==\n"
    assert known.keys("i-1") == ["ssh-ed25519 AAAAC3=="]
    assert known.keys("i-2") == []


@pytest.mark.parametrize(
    "value", ["", "ssh-ed25519", "ssh-ed25519 AAAAC3== x", "* ssh-ed25519 AAAAC3=="]
)
def test_tag_with_anything_else_counts_for_nothing(value: str) -> None:
    assert host_keys.from_tag({"Tags": [{"Key": HOST_KEY_TAG, "Value": value}]}) == []


def test_tag_holds_the_shortest_key_if_it_fits() -> None:
    assert host_keys.tag_value(["ssh-rsa AAAAB", "ssh-ed25519 AAAA", "ssh-rsa AAAAC"]) == (
        "ssh-rsa AAAAB"
    )
    assert host_keys.tag_value(["x" * 256]) == "x" * 256
    assert host_keys.tag_value(["x" * 257]) == ""
    assert host_keys.tag_value([]) == ""


def test_looks_at_a_console_become_rare_and_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    shown = [[], [], [], [], [], [], [], ["ssh-ed25519 AAAA"]]
    monkeypatch.setattr(host_keys, "read", lambda _: shown.pop(0))
    monkeypatch.setattr(_wait.Wait, "pause", lambda _, seconds: pauses.append(seconds))
    machine = machine_with(wait_for_ip_interval=1)
    host_keys.ssh_options(machine, host_keys.KnownHosts(tmp_path), _wait.Wait(1e12))
    for pause, longest in zip(pauses, (1, 2, 4, 8, 15, 15, 15), strict=True):
        assert longest / 2 <= pause <= longest
    assert len(set(pauses)) == 7


def test_host_keys_none_disables_checking(tmp_path: Path) -> None:
    def given(**options: Any) -> dict[str, str]:
        known = host_keys.KnownHosts(tmp_path)
        return host_keys.ssh_options(machine_with(**options), known, _wait.Wait(0))

    assert given(host_keys="none")["StrictHostKeyChecking"] == "no"
    own = given(known_hosts_file="/etc/ssh/known")
    assert (own["StrictHostKeyChecking"], own["UserKnownHostsFile"]) == ("yes", "/etc/ssh/known")


def test_gateway_host_key_is_checked() -> None:
    given = {
        "ssh_gateway": "gate.example.com:2222",
        "ssh_gateway_port": 22,
        "ssh_gateway_username": "jump",
        "private_key": "/k",
    }
    command = _login.proxy_command(given)
    assert command.startswith("ssh ")
    assert "StrictHostKeyChecking=yes" in command
    assert command.endswith("-p 2222 -l jump -W %h:%p gate.example.com")
    assert _login.proxy_command({"ssh_gateway": None}) == ""
