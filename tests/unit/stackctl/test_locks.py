"""One run at a time changes a deployment, and what an interrupted run left running is waited for.

The master is this host: its scripts run for real, in a folder of the test.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from stackctl import cli, locks
from stackctl.deployment import Deployment
from stackctl.errors import BusyError, CommandError, Interrupted, UnreachableError
from stackctl.locks import Holder, Jobs, Session, on_this_host
from stackctl.machines import Machine
from stackctl.run import Log, run
from stackctl.ssh import Shell, script_command
from waiting import runs, until

RUN_LOCKED = Path(locks.__file__).with_name("remote") / "run-locked.sh"

MASTER = Machine("salt-1", "i-1", "running", "10.20.1.250", "")
ME = Holder("me@laptop", 11, "up", "2026-11-26 03:12:07 UTC")
OTHER = Holder("other@desk", 22, "up", "2026-11-26 03:00:00 UTC")


class HereShell:
    """A shell on the master that runs everything on this host."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def command(self, machine: Machine, args: Sequence[str], **_: object) -> list[str]:
        assert machine.name == "salt-1"
        return list(args)

    def script(self, machine: Machine, args: Sequence[str], **options: Any) -> str:
        return run(self.command(machine, script_command(args)), log=self.log, **options)


@pytest.fixture
def shell(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(locks, "SESSION_FILE", str(tmp_path / "session"))
    monkeypatch.setattr(locks, "JOB_FILE", str(tmp_path / "job"))
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.1)
    return cast(Shell, HereShell(log))


@pytest.fixture
def notes() -> list[str]:
    """What the operator is told."""
    return []


@pytest.fixture
def other_job(shell: Shell, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A job that an interrupted run has left on the master."""
    holder = OTHER.doing("orchestration orch.deploy").text()
    script = script_command(["run-locked", locks.JOB_FILE, "1", holder, "sleep", "600"])
    process = subprocess.Popen(script, start_new_session=True)
    until(lambda: (tmp_path / "job").exists() and (tmp_path / "job").read_text(), "it has begun")
    yield process
    end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a job with all its processes, each of which holds its lock."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- on this host ----------------------------------------------------------------------------------


def test_second_run_on_this_host_is_told_who_works(
    deployment: Deployment, notes: list[str]
) -> None:
    with (
        on_this_host(deployment, OTHER, notes.append, wait=False),
        pytest.raises(
            BusyError,
            match=r"`stackctl up` of other@desk \(pid 22\), since 2026-11-26 03:00:00 UTC\. Wait",
        ),
        on_this_host(deployment, ME, notes.append, wait=False),
    ):
        pass
    assert notes == []
    with on_this_host(deployment, ME, notes.append, wait=False):
        pass


def test_second_run_on_this_host_waits_when_asked_to(
    deployment: Deployment, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    first_done = threading.Event()

    def note(line: str) -> None:
        notes.append(line)
        first_done.set()

    def first() -> None:
        with on_this_host(deployment, OTHER, note, wait=False):
            begun.set()
            first_done.wait(60)

    begun = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(60)
    with on_this_host(deployment, ME, note, wait=True):
        assert notes[0] == f"waiting for {OTHER}"
        text = (deployment.state_dir / "lock").read_text()
        assert Holder.read(text) == ME
    thread.join()


def test_lock_of_a_dead_process_is_free(deployment: Deployment, notes: list[str]) -> None:
    script = (
        "import sys, time; from pathlib import Path; from stackctl import locks\n"
        "from stackctl.deployment import Deployment\n"
        f"deployment = Deployment('local', Path({str(deployment.root)!r}))\n"
        "with locks.on_this_host(deployment, locks.Holder.this('up'), print, wait=False):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(BusyError, match=rf"\(pid {process.pid}\)"),
        on_this_host(deployment, ME, notes.append, wait=False),
    ):
        pass
    process.kill()
    process.communicate()
    with on_this_host(deployment, ME, notes.append, wait=False):
        pass


def test_unreadable_holder_is_somebody() -> None:
    for text in ("", "{", "[]", "{}", json.dumps({"who": 1})):
        assert str(Holder.read(text)).startswith("`stackctl stackctl` of somebody")


# -- the run on the master -------------------------------------------------------------------------


def test_session_is_exclusive_until_it_ends(shell: Shell, log: Log, notes: list[str]) -> None:
    with Session(shell, log, OTHER, notes.append) as first:
        first.hold(MASTER)
        first.hold(MASTER)  # it has it
        with (
            Session(shell, log, ME, notes.append) as second,
            pytest.raises(BusyError, match=re.escape(str(OTHER))),
        ):
            second.hold(MASTER)
    with Session(shell, log, ME, notes.append) as third:
        third.hold(MASTER)
    assert notes == []


def test_session_waits_when_asked_to(shell: Shell, log: Log, notes: list[str]) -> None:
    with Session(shell, log, OTHER, notes.append) as first:
        first.hold(MASTER)

        def note(line: str) -> None:
            notes.append(line)
            first.__exit__()

        with Session(shell, log, ME, note, wait=True) as second:
            second.hold(MASTER)
    assert notes == [f"waiting for {OTHER}"]


def test_session_ends_with_its_process(shell: Shell, log: Log, tmp_path: Path) -> None:
    script = script_command(["hold-lock", locks.SESSION_FILE, OTHER.text()])
    process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    process.stdin.write(b".")
    process.stdin.flush()
    with (tmp_path / "session").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.stdin.close()
    assert process.wait(60) == 0
    with Session(shell, log, ME, print) as mine:
        mine.hold(MASTER)


def test_session_waits_for_a_job_without_being_asked(
    shell: Shell, log: Log, notes: list[str], other_job: subprocess.Popen[bytes]
) -> None:
    def note(line: str) -> None:
        notes.append(line)
        end(other_job)

    with Session(shell, log, ME, note) as session:
        session.hold(MASTER)
    assert re.fullmatch(
        r"waiting for `stackctl up` of other@desk \(pid 22\), since 20.* UTC:"
        r" orchestration orch\.deploy",
        notes[0],
    )


@pytest.mark.parametrize(
    ("script", "error", "printed"),
    [
        (
            "echo 'ssh: connect to host 10.20.1.250 port 22: No route to host' >&2; exit 255",
            UnreachableError,
            "SSH has no connection to salt-1: ssh: connect to host 10.20.1.250",
        ),
        ("echo 'sudo: no' >&2; exit 1", CommandError, "salt-1 does not give its lock: sudo: no"),
    ],
)
def test_master_without_lock_is_an_error(
    shell: Shell,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[CommandError],
    printed: str,
) -> None:
    monkeypatch.setattr(shell, "command", lambda *_, **__: ["sh", "-c", script])
    with Session(shell, log, ME, print) as session, pytest.raises(error, match=printed):
        session.hold(MASTER)


# -- what runs there -------------------------------------------------------------------------------


def test_job_returns_output_and_failure(shell: Shell, notes: list[str]) -> None:
    jobs = Jobs(shell, ME, notes.append)
    assert jobs.run(MASTER, ["cat"], task="reading", stdin="text") == "text"
    assert jobs.run(MASTER, ["sh", "-c", "exit 2"], task="asking", accept=(0, 2)) == ""
    with pytest.raises(CommandError, match=r"^asking failed"):
        jobs.run(MASTER, ["sh", "-c", "exit 3"], task="asking")


def test_job_waits_no_longer_than_an_hour(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, other_job: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", -1)
    with pytest.raises(BusyError, match=r"of other@desk .*: orchestration orch\.deploy"):
        Jobs(shell, ME, print).wait(MASTER)
    assert other_job.poll() is None


def test_job_goes_on_after_an_interruption_which_says_so(
    shell: Shell, log: Log, tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    started: list[subprocess.Popen[bytes]] = []

    def script(_machine: Machine, args: Sequence[str], **_: object) -> str:
        # As SSH: the program on the master does not get the signal of this terminal.
        started.append(subprocess.Popen(script_command(args), start_new_session=True))
        until(lambda: pid.exists() and pid.read_text(), "it has begun")
        raise KeyboardInterrupt

    monkeypatch.setattr(shell, "script", script)
    command = ["sh", "-c", f"echo $$ > {pid}; exec sleep 600"]
    with pytest.raises(Interrupted) as caught:
        Jobs(shell, ME, print).run(MASTER, command, task="orchestration orch.deploy")
    assert str(caught.value) == (
        "On salt-1 goes on: orchestration orch.deploy. Run the same command again: it waits for"
        " that and continues from there."
    )
    assert runs(pid.read_text())
    monkeypatch.undo()
    monkeypatch.setattr(locks, "JOB_FILE", str(tmp_path / "job"))
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.1)

    def note(line: str) -> None:
        notes.append(line)
        os.kill(int(pid.read_text()), signal.SIGKILL)

    Jobs(cast(Shell, HereShell(log)), ME, note).wait(MASTER)
    assert len(notes) == 1
    started[0].wait()


def test_interrupted_wait_names_what_goes_on(
    shell: Shell,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    other_job: subprocess.Popen[bytes],
) -> None:
    def note(_: str) -> None:
        monkeypatch.setattr(shell, "script", interrupt)

    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"goes on: `stackctl up` of other@desk .*orch\.deploy"):
        Jobs(shell, ME, note).run(MASTER, ["true"], task="salt-cloud")
    with pytest.raises(KeyboardInterrupt) as caught:
        Jobs(shell, ME, note).wait(MASTER)
    assert not isinstance(caught.value, Interrupted), "nothing of this run goes on"


def test_interruption_is_one_sentence_and_exit_code_130(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        raise Interrupted("On salt-1 goes on: salt-cloud.", "Run the same command again.")

    monkeypatch.setattr(cli, "repository_root", lambda: checkout)
    monkeypatch.setitem(cli.VERBS, "up", interrupt)
    assert cli.main(["up"]) == 130
    assert capsys.readouterr().err == (
        "Interrupted. On salt-1 goes on: salt-cloud. Run the same command again.\n"
    )


def test_command_outlives_its_reader(tmp_path: Path) -> None:
    """Python ends at a broken pipe, and so would an orchestration whose operator has gone."""
    lock, done = tmp_path / "lock", tmp_path / "done"
    program = f"""
import sys, time, pathlib
while not pathlib.Path({str(tmp_path / "gone")!r}).exists():
    time.sleep(0.01)
for stream in (sys.stdout, sys.stderr):
    print("x" * 100_000, file=stream, flush=True)
pathlib.Path({str(done)!r}).touch()
"""
    script = str(RUN_LOCKED)
    command = ["sh", script, str(lock), "1", "me", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        until(lambda: lock.exists() and lock.read_text(), "it has the lock")
        for stream in (running.stdout, running.stderr):
            assert stream
            stream.close()
        other = subprocess.run([*command[:3], "0", "you", "true"], capture_output=True, check=False)
        assert (other.returncode, other.stdout) == (75, b"locked me\n")
        (tmp_path / "gone").touch()
        assert running.wait(30) == 0
    assert done.exists()


def test_command_has_its_streams_and_its_exit_code(tmp_path: Path) -> None:
    command = ["sh", str(RUN_LOCKED), str(tmp_path / "lock"), "1", "me", "sh", "-c"]
    ran = subprocess.run(
        [*command, "cat; echo told >&2; exit 3"],
        input="given",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "given", "told\n")
