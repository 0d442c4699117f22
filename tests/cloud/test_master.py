"""The Salt master's machine and another minion after restarts and changed keys, without a command.

The machines have the units and settings of the tree, and the master its key under its id.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from realcloud import ROOT, Machine, RealCloud
from stackctl.ssh import script_command
from waiting import until

PKI = "/etc/salt/pki"
BACK_SECONDS = 180  # half a minute, on a host that does much else
MASTER_CONF = "id: salt-1\ninterface: 0.0.0.0\nworker_threads: 2\nlog_level_logfile: quiet\n"


@dataclass
class Pair:
    """A master with its own minion, and a machine with another minion."""

    master: Machine
    other: Machine

    def own_minion(self) -> str:
        """Run the script with which `up` looks at the master's own minion."""
        return script(self.master, "own-minion", PKI, "salt-1")

    def answering(self, seconds: int = 5, silent: int = 5) -> set[str]:
        """Return the minions that answer in time."""
        question = ("list", "salt-1,web-1", "test.ping")
        args = ("ask-minions", "/opt/salt/bin/python", str(seconds), str(silent), *question)
        answers = json.loads(script(self.master, *args, check=False) or "{}")
        return {name for name, answer in answers.items() if answer is True}

    def is_back(self) -> None:
        """Wait until both minions answer, without a command."""
        until(lambda: self.answering() == {"salt-1", "web-1"}, "both answer", BACK_SECONDS)


def script(machine: Machine, *args: str, check: bool = True) -> str:
    """Run a script of stackctl as root on a machine."""
    program = json.dumps(script_command(args)).encode()
    text = f"import json, os; a = json.loads({program.decode()!r}); os.execvp(a[0], a)"
    encoded = base64.b64encode(text.encode()).decode()
    machine.run(f"echo {encoded} | base64 -d > /run/script.py")
    return machine.ssh("sudo python3 /run/script.py", check=check).stdout.strip()


def put(machine: Machine, path: str, text: str) -> None:
    encoded = base64.b64encode(text.encode()).decode()
    machine.run(f"mkdir -p $(dirname {path}) && echo {encoded} | base64 -d > {path}")


def set_up(machine: Machine, minion_id: str, master: str) -> None:
    """Give a machine the minion's unit and settings, and an own key."""
    files = ROOT / "salt" / "minion" / "files"
    unit = (files / "salt-minion.service").read_text()
    put(machine, "/etc/systemd/system/salt-minion.service", unit)
    put(machine, "/etc/salt/minion.d/stack.conf", (files / "stack.conf").read_text())
    put(machine, "/etc/salt/minion", f"id: {minion_id}\nmaster: {master}\n")
    new_key(machine)


def new_key(machine: Machine) -> None:
    machine.run(
        f"mkdir -p {PKI}/minion && cd {PKI}/minion && rm -f minion.pem minion.pub"
        " && openssl genrsa -out minion.pem 2048 2> /dev/null"
        " && openssl rsa -in minion.pem -pubout -out minion.pub 2> /dev/null"
    )


@pytest.fixture(scope="module")
def pair(cloud: RealCloud) -> Iterator[Pair]:
    """A master that has accepted the keys of two minions, which answer."""
    master, other = cloud.launch("salt-1"), cloud.launch("web-1")
    set_up(master, "salt-1", "127.0.0.1")
    set_up(other, "web-1", master.address)
    unit = (ROOT / "salt" / "master" / "files" / "salt-master.service").read_text()
    put(master, "/etc/systemd/system/salt-master.service", unit)
    put(master, "/etc/salt/master.d/stack.conf", MASTER_CONF)
    put(master, f"{PKI}/master/minions/web-1", other.run(f"cat {PKI}/minion/minion.pub"))
    master.run("systemctl daemon-reload; systemctl enable --now salt-master salt-minion")
    other.run("systemctl daemon-reload; systemctl enable --now salt-minion")
    made = Pair(master, other)
    assert made.own_minion() == "ask"
    made.is_back()
    # salt/master pins this file's fingerprint on the other machines.
    master.run(f"test -e {PKI}/master/salt-1.pub")
    yield made
    for machine in (master, other):
        machine.terminate()


def test_silent_minion_does_not_keep_the_question_open(pair: Pair) -> None:
    pair.other.run("systemctl kill --signal=STOP salt-minion")
    try:
        began = time.monotonic()
        assert pair.answering(60, silent=4) == {"salt-1"}
        assert time.monotonic() - began < 30, "4 s, the login and the start of Python"
    finally:
        pair.other.run("systemctl kill --signal=CONT salt-minion")
    pair.is_back()


@pytest.mark.parametrize(
    ("unit", "how"),
    [
        ("salt-master", "restart"),
        ("salt-master", "kill --signal=KILL"),
        ("salt-minion", "kill --signal=TERM"),  # it exits with 0
    ],
)
def test_ended_program_is_back(pair: Pair, unit: str, how: str) -> None:
    pair.master.run(f"systemctl {how} {unit}")
    pair.is_back()


def test_minion_with_a_new_key_is_back_once_it_is_accepted(pair: Pair) -> None:
    new_key(pair.master)
    pair.master.run("systemctl restart salt-minion")
    refused = "journalctl -u salt-minion -b | grep -c 'has rejected this minion' || true"
    until(lambda: pair.master.run(refused) != "0", "the master has refused it", BACK_SECONDS)
    assert "salt-1" not in pair.answering()
    assert pair.own_minion() == "ask"
    pair.is_back()


def test_both_are_back_after_hard_restart_of_the_masters_machine(
    pair: Pair, docker_client: Any
) -> None:
    docker_client.containers.get(pair.master.container).kill()
    pair.master.is_in("stopped")
    pair.master.cloud.client("ec2").start_instances(InstanceIds=[pair.master.instance_id])
    pair.master.ready()
    pair.is_back()


def test_master_with_another_key_is_refused_until_minions_forget_the_old_one(pair: Pair) -> None:
    pair.master.run(f"rm {PKI}/master/*.pem {PKI}/master/*.pub; systemctl restart salt-master")
    assert pair.own_minion() == "ask"
    assert pair.answering() == set(), "this is what `up` has to see, and to repair"
    for machine in (pair.master, pair.other):  # as the deploy script does
        machine.run(f"rm {PKI}/minion/minion_master.pub; systemctl restart salt-minion")
    pair.is_back()
