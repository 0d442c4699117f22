"""The locks on the master's machine, over SSH and sudo, when the connection is lost."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator

import pytest

from realcloud import Machine
from stackctl.locks import JOB_FILE, SESSION_FILE, Holder
from stackctl.ssh import script_command
from waiting import until

HOLDER = Holder("other@desk", 22, "up", "2026-11-26 03:00:00 UTC").text()
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(machine: Machine) -> Iterator[Start]:
    """`start(script, argument, …)`: begin a script of stackctl as root on the machine."""
    machine.ssh("true")  # it learns the host keys
    begun: list[subprocess.Popen[str]] = []

    def begin(*args: str) -> subprocess.Popen[str]:
        known = machine.cloud.key.with_name(f"known-{machine.instance_id}")
        command = ["ssh", "-F", "none", "-i", str(machine.cloud.key), "-o", "BatchMode=yes"]
        command += ["-o", f"UserKnownHostsFile={known}", "-o", "HostKeyAlias=machine"]
        remote = shlex.join(["sudo", "-n", *script_command(args)])
        process = subprocess.Popen(
            [*command, f"admin@{machine.address}", remote],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def is_free(machine: Machine, file: str) -> bool:
    done = machine.ssh(f"sudo flock --nonblock {file} true", check=False)
    return done.returncode == 0


def test_lock_of_a_run_ends_with_its_connection(machine: Machine, start: Start) -> None:
    process = start("hold-lock", SESSION_FILE, HOLDER)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    assert not is_free(machine, SESSION_FILE)
    second = start("hold-lock", SESSION_FILE, HOLDER)
    printed, _ = second.communicate(timeout=60)
    assert (printed, second.returncode) == (f"locked {HOLDER}\n", 75)
    process.kill()
    until(lambda: is_free(machine, SESSION_FILE), "the lock is free", 30, every=0.5)


def test_job_outlives_its_connection_and_keeps_the_lock(machine: Machine, start: Start) -> None:
    command = ["sh", "-c", "echo begun; sleep 5; echo done > /run/job-result"]
    process = start("run-locked", JOB_FILE, "1", HOLDER, *command)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.kill()
    assert not is_free(machine, JOB_FILE)
    waiting = start("run-locked", JOB_FILE, "0.1", HOLDER, "true")
    printed, _ = waiting.communicate(timeout=60)
    assert (printed, waiting.returncode) == (f"locked {HOLDER}\n", 75)
    until(lambda: is_free(machine, JOB_FILE), "the job has ended", 60, every=0.5)
    assert machine.run("cat /run/job-result") == "done"
