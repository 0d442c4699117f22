"""Root's shell on the machines: which host keys it trusts, and how it gets there."""

from __future__ import annotations

import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from moto.ec2.responses import general

from plainpillar import ROOT
from saltext.ec2.tags import HOST_KEY_TAG
from stackctl.deployment import Deployment
from stackctl.errors import CommandError, LaunchError, UnreachableError
from stackctl.files import write_private
from stackctl.machines import Machine, list_machines
from stackctl.run import Log
from stackctl.secret_store import SecretStore
from stackctl.ssh import Shell, script_command

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkbQBpO2s3MoOYRT0nsTu7cTyL1ZRjPnz9d8yKdHyW6"
RSA = "ssh-rsa AAAAB3NzaC1yc2E"
DEPLOYMENT = Deployment("test", ROOT)
IMAGE = "ami-12c6146b"  # one of those that moto knows


def console(*keys: str) -> str:
    """Return a console's output with host keys, as cloud-init writes it."""
    lines = "".join(f"{key} root@web-1\r\n" for key in keys)
    begin, end = (f"-----{word} SSH HOST KEY KEYS-----" for word in ("BEGIN", "END"))
    return f"[  OK  ] Started ssh.\r\n{begin}\r\n{lines}{end}\r\nweb-1 login: "


def launch(client: EC2Client, name: str) -> str:
    """Launch a machine with the profiles' tags and return its instance id."""
    answer = client.run_instances(
        ImageId=IMAGE,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [
                    {"Key": "project", "Value": "airflow-stack"},
                    {"Key": "deployment", "Value": DEPLOYMENT.name},
                    {"Key": "Name", "Value": name},
                ],
            }
        ],
    )
    return answer["Instances"][0]["InstanceId"]


def machine(name: str, public: str = "") -> Machine:
    return Machine(name, "i-1", "running", "10.20.1.9", public)


@pytest.fixture
def shell(deployment: Deployment, client: EC2Client, log: Log) -> Iterator[Shell]:
    write_private(deployment.ssh_key, "key")
    with Shell(deployment, client, log) as made:
        yield made


def test_trust_learns_machine_once_and_its_successor_again(
    client: EC2Client, monkeypatch: pytest.MonkeyPatch, deployment: Deployment, log: Log
) -> None:
    monkeypatch.setattr(general, "SAMPLE_CONSOLE_OUTPUT", console(ED25519, RSA))
    known = deployment.state_dir / "ssh" / "known_hosts"
    first = launch(client, "web-1")
    with Shell(deployment, client, log) as shell:
        shell.trust(list_machines(client, DEPLOYMENT)["web-1"])
        assert known.read_text() == f"web-1 {ED25519} {first}\nweb-1 {RSA} {first}\n"
        assert stat.S_IMODE(known.stat().st_mode) == 0o600
        # Keys that are known need no console.
        monkeypatch.setattr(general, "SAMPLE_CONSOLE_OUTPUT", "")
        shell.trust(list_machines(client, DEPLOYMENT)["web-1"], timeout=-1)

        client.terminate_instances(InstanceIds=[first])
        second = launch(client, "web-1")
        monkeypatch.setattr(general, "SAMPLE_CONSOLE_OUTPUT", console(RSA))
        shell.trust(list_machines(client, DEPLOYMENT)["web-1"])
    assert known.read_text() == f"web-1 {RSA} {second}\n"


def test_key_of_the_tag_is_trusted_without_a_console(
    client: EC2Client, monkeypatch: pytest.MonkeyPatch, deployment: Deployment, log: Log
) -> None:
    monkeypatch.setattr(general, "SAMPLE_CONSOLE_OUTPUT", "")
    instance = launch(client, "web-1")
    tag: Any = {"Key": HOST_KEY_TAG, "Value": ED25519}
    client.create_tags(Resources=[instance], Tags=[tag])
    with Shell(deployment, client, log) as shell:
        assert shell.known_keys() == {}
        shell.trust(list_machines(client, DEPLOYMENT)["web-1"], timeout=-1)
        assert shell.known_keys() == {instance: [ED25519]}


def test_known_keys_are_those_of_the_file(deployment: Deployment, log: Log) -> None:
    known = deployment.state_dir / "ssh" / "known_hosts"
    write_private(known, f"web-1 {ED25519} i-1\nweb-1 {RSA} i-1\nlb-1 {RSA} i-2\n\nbroken\n")
    with Shell(deployment, None, log) as shell:
        assert shell.known_keys() == {"i-1": [ED25519, RSA], "i-2": [RSA]}


@pytest.mark.parametrize(
    ("name", "reason", "told"),
    [
        ("prod", "port 22: Connection timed out", True),
        ("prod", "port 22: Connection refused", False),
        ("local", "port 22: Connection timed out", False),
    ],
)
def test_silence_of_a_real_machine_may_be_a_changed_address(
    checkout: Path, log: Log, monkeypatch: pytest.MonkeyPatch, name: str, reason: str, told: bool
) -> None:
    command = ["sh", "-c", f"echo ssh: connect to host 198.51.100.7 {reason} >&2; exit 255"]
    with Shell(Deployment(name, checkout), None, log) as shell:
        monkeypatch.setattr(shell, "command", lambda *_, **__: command)
        with pytest.raises(UnreachableError) as caught:
            shell.run(machine("salt-1"), ["true"], what="asking")
    assert ("'My address has changed'" in caught.value.hint) is told
    assert "stackctl up starts and repairs" in caught.value.hint


def test_ssh_checks_host_keys_and_reads_no_configuration(
    shell: Shell, deployment: Deployment
) -> None:
    command = shell.command(machine("salt-1"), ["sh", "-c", "id -u; echo 'a b'"])
    assert command[:3] == ["ssh", "-F", "none"]
    assert {
        "StrictHostKeyChecking=yes",
        "HostKeyAlias=salt-1",
        "BatchMode=yes",
        "User=admin",
        "IdentitiesOnly=yes",
        "ConnectTimeout=15",
    } <= set(command)
    assert f"UserKnownHostsFile={deployment.state_dir / 'ssh' / 'known_hosts'}" in command
    assert command[-2:] == ["10.20.1.9", """sudo -n sh -c 'id -u; echo '"'"'a b'"'"''"""]


def test_other_machines_are_reached_through_master(shell: Shell) -> None:
    command = shell.command(machine("web-1"), ["true"], master=machine("salt-1"))
    proxy = next(arg for arg in command if arg.startswith("ProxyCommand="))
    assert "HostKeyAlias=salt-1" in proxy
    # The open connection to the master is used again: many machines may be asked at once.
    to_master = shell.command(machine("salt-1"), ["true"])
    assert next(arg for arg in to_master if arg.startswith("ControlPath=")) in proxy
    assert proxy.endswith("-W %h:%p 10.20.1.9")
    assert "HostKeyAlias=web-1" in command


def test_commands_share_a_connection_unless_they_are_not_to(shell: Shell) -> None:
    master, web = machine("salt-1"), machine("web-1")
    alone = shell.command(master, ["true"], shared=False)
    assert not any(arg.startswith("Control") for arg in alone)
    assert "ControlMaster=auto" in shell.command(master, ["true"])
    assert "ControlMaster=auto" in shell.command(master, ["true"], master=master)
    assert "ControlMaster=auto" not in shell.command(web, ["true"], master=master)
    assert "-t" not in shell.command(master, ["true"])
    assert "-t" in shell.command(master, ["true"], tty=True)


def test_shell_that_ends_closes_its_connections(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[list[str]] = []

    def close(command: list[str], **_: object) -> None:
        closed.append(command)
        raise CommandError("closing SSH failed: the master of that connection is gone")

    monkeypatch.setattr("stackctl.ssh.run", close)
    write_private(deployment.ssh_key, "key")
    with Shell(deployment, None, log) as shell:
        control = next(
            arg for arg in shell.command(machine("salt-1"), ["true"]) if "ControlPath" in arg
        )
        socket = Path(control.partition("=")[2].replace("%n", "10.20.1.9"))
        socket.touch()
    assert closed == [["ssh", "-S", str(socket), "-O", "exit", "10.20.1.9"]]
    assert not socket.parent.exists()


def test_unknown_machine_is_not_trusted_without_the_api(deployment: Deployment, log: Log) -> None:
    known = deployment.state_dir / "ssh" / "known_hosts"
    write_private(known, f"web-1 {ED25519} i-1\n")
    with Shell(deployment, None, log) as shell:
        shell.trust(machine("web-1"))
        with pytest.raises(LaunchError, match=r"^The host keys of lb-1 are not known here"):
            shell.trust(Machine("lb-1", "i-2", "running", "10.20.1.8", ""))


def test_console_has_as_long_as_the_caller_says(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []

    def learn(_client: object, _machine: object, deadline: float) -> list[str]:
        deadlines.append(deadline)
        return [ED25519]

    monkeypatch.setattr("stackctl.ssh.host_keys.learn", learn)
    monkeypatch.setattr("stackctl.ssh.time", SimpleNamespace(monotonic=lambda: 1000.0))
    shell.trust(machine("web-1"), timeout=20)
    assert deadlines == [1020.0]


def test_key_comes_from_the_secret_store_once(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SecretStore, "read", lambda *_: {"private_key": "secret"})
    with Shell(deployment, None, log) as shell:
        key = shell.write_key()
        assert (key, key.read_text()) == (deployment.ssh_key, "secret")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        write_private(key, "as a rotation left it")
        assert shell.write_key().read_text() == "as a rotation left it"


def test_options_reach_the_command(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "command", lambda _machine, args, **_: list(args))
    master = machine("salt-1")
    program = ["sh", "-c", "cat; exit 3"]
    assert shell.run(master, program, what="x", stdin="in", accept=(3,)) == "in"
    with pytest.raises(CommandError) as caught:
        shell.run(master, program, what="x")
    assert caught.value.code == 3, "it is no error of SSH"
    with pytest.raises(CommandError, match="x took longer"):
        shell.run(master, ["sleep", "60"], what="x", timeout=0.1)


def test_real_machine_is_reached_at_its_public_address(
    checkout: Path, client: EC2Client, log: Log
) -> None:
    master = machine("salt-1", public="198.51.100.7")
    with Shell(Deployment("local", checkout), client, log) as local:
        assert local.address(master) == "10.20.1.9"
    with Shell(Deployment("prod", checkout), client, log) as real:
        assert real.address(master) == "198.51.100.7"
        assert real.address(machine("salt-1")) == "10.20.1.9"


def test_script_command_holds_script_without_comments_and_args() -> None:
    command = script_command(["read-revision", "/srv/a b", "local"])
    assert command[:2] == ["sh", "-c"]
    assert command[3:] == ["read-revision", "/srv/a b", "local"]
    assert "#" not in command[2]
    assert "cat" in command[2]


def test_script_reads_its_input(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shell, "command", lambda _machine, args, **_: list(args))
    args = ["import-gpg-key", str(tmp_path / "ring")]
    with pytest.raises(CommandError, match=r"^importing failed: gpg: "):
        shell.script(machine("salt-1"), args, what="importing", stdin="no key")


NO_ROUTE = "ssh: connect to host 10.20.1.250 port 22: No route to host"
BROKEN = "client_loop: send disconnect: Broken pipe"


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            "ssh: connect to host 10.20.1.9 port 22: Connection refused",
            "ssh: connect to host 10.20.1.9 port 22: Connection refused",
        ),
        # Behind the master, the first line is the cause.
        (
            f"{NO_ROUTE}\nConnection closed by UNKNOWN port 65535",
            NO_ROUTE,
        ),
        # The master went away while `salt` ran there.
        (
            f"event.py:1: ResourceWarning: unclosed MasterEvent\n{BROKEN}",
            BROKEN,
        ),
        ("", "the connection ended"),
    ],
)
def test_lost_connection_is_one_sentence_with_the_cure(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, printed: str, reason: str
) -> None:
    command = ["sh", "-c", f"printf '%s' {shlex.quote(printed)} >&2; exit 255"]
    monkeypatch.setattr(shell, "command", lambda *_, **__: command)
    with pytest.raises(UnreachableError) as caught:
        shell.run(machine("salt-1"), ["true"], what="asking the minions")
    assert caught.value.what == (
        f"asking the minions failed: SSH has no connection to salt-1: {reason}."
    )
    assert "stackctl up starts and repairs" in caught.value.hint


def test_machine_that_boots_is_waited_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Only this module's pauses: subprocess makes some of its own.
    clock = SimpleNamespace(sleep=lambda _: (tmp_path / "sshd").touch(), monotonic=time.monotonic)
    monkeypatch.setattr("stackctl.ssh.time", clock)
    command = ["sh", "-c", f"[ -e {tmp_path}/sshd ] || exit 255"]
    monkeypatch.setattr(shell, "command", lambda *_, **__: command)
    with pytest.raises(UnreachableError):
        shell.wait_for(machine("web-1"), machine("salt-1"), seconds=-1)
    shell.wait_for(machine("web-1"), machine("salt-1"))
