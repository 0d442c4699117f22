"""The runner returns output and exit codes unchanged, and logs all but secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stackctl.errors import CommandError, MissingProgram
from stackctl.run import Log, attach, last_reason, run, run_bytes
from waiting import runs


def test_output_is_returned_and_logged_with_command_and_exit_code(log: Log) -> None:
    assert run(["sh", "-c", "echo out; echo err >&2"], log=log, what="talking") == "out\n"
    lines = [line.partition(" ")[2] for line in log.path.read_text().splitlines()]
    assert lines == ["$ sh -c 'echo out; echo err >&2'", "out", "err", "exit code 0"]


def test_failure_names_step_last_error_and_log(log: Log) -> None:
    with pytest.raises(CommandError) as caught:
        run(
            ["sh", "-c", "echo first >&2; echo last >&2; echo out; exit 3"],
            log=log,
            what="installing",
        )
    assert str(caught.value) == f"installing failed: last Log: {log.path}"
    assert "exit code 3" in log.path.read_text()


def test_failure_without_stderr_quotes_stdout(log: Log) -> None:
    with pytest.raises(CommandError, match=r"asking failed: nobody is there"):
        run(["sh", "-c", "echo nobody is there; exit 1"], log=log, what="asking")
    with pytest.raises(CommandError, match="asking failed: no output"):
        run(["false"], log=log, what="asking")


def test_accepted_exit_codes_are_success(log: Log) -> None:
    assert run(["sh", "-c", "echo some; exit 2"], log=log, what="asking", accept=(0, 2)) == "some\n"
    with pytest.raises(CommandError):
        run(["true"], log=log, what="asking", accept=(2,))


@pytest.mark.parametrize("data", ["hunter2", b"hunter2"])
def test_input_reaches_command_and_not_log(log: Log, data: str | bytes) -> None:
    assert run(["wc", "-c"], log=log, what="counting", stdin=data).strip() == "7"
    assert "hunter2" not in log.path.read_text()


def test_command_without_input_does_not_read_stdin(log: Log) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"typed ahead")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        assert run(["cat"], log=log, what="reading", timeout=60) == ""
        assert os.read(0, 100) == b"typed ahead"
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)


@pytest.mark.parametrize(
    "script", ["echo hunter2", "echo hunter2; exit 1", "echo hunter2; sleep 60"]
)
def test_quiet_output_is_neither_logged_nor_in_error(log: Log, script: str) -> None:
    printed = ""
    try:
        run(
            ["sh", "-c", f"cat >/dev/null; {script}"],
            log=log,
            what="opening",
            stdin="",
            quiet=True,
            timeout=0.5,
        )
    except CommandError as error:
        printed = str(error)
    # The command itself is logged once, and names it in this test.
    assert log.path.read_text().count("hunter2") == 1
    assert "hunter2" not in printed


def test_slow_command_is_killed_and_its_output_logged(log: Log, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}; echo begun; exec sleep 600"
    for seconds in (1, 10, 60):  # the shortest in which the command gets to hang
        with pytest.raises(
            CommandError,
            match=rf"waiting took longer than {seconds} s\. Run the same command again\.",
        ):
            run(["sh", "-c", script], log=log, what="waiting", timeout=seconds)
        if "begun\n" in (logged := log.path.read_text()):
            break
    assert "begun\n" in logged
    assert not runs(pid.read_text())


def test_missing_program_is_an_error(log: Log) -> None:
    with pytest.raises(
        CommandError, match=r"looking: there is no program 'nonesuch' here\. Install it\."
    ):
        run(["nonesuch"], log=log, what="looking")


def test_environment_is_extended(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "kept")
    assert (
        run(["sh", "-c", "echo $KEPT $ADDED"], log=log, what="", environment={"ADDED": "added"})
        == "kept added\n"
    )


def test_run_bytes_returns_output_unchanged_and_unlogged(log: Log) -> None:
    assert run_bytes(["printf", r"\377A"], log=log, what="printing") == b"\xffA"
    assert "\ufffdA" not in log.path.read_text()
    with pytest.raises(CommandError, match=r"^printing failed: no output"):
        run_bytes(["sh", "-c", "echo A; exit 1"], log=log, what="printing")


def test_attach_returns_exit_code() -> None:
    assert attach(["sh", "-c", "exit 3"], what="asking") == 3
    with pytest.raises(MissingProgram, match="asking: there is no program 'nonesuch' here"):
        attach(["nonesuch"], what="asking")


def test_output_that_is_no_text_is_replaced(log: Log) -> None:
    assert run(["printf", r"\377"], log=log, what="printing") == "\ufffd"


def test_log_is_private_and_newest_has_a_link(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", "up")
    log.write("hello")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert "hello" in (tmp_path / "log" / "up.log").read_text()
    newer = Log(tmp_path / "log", "up")
    assert (tmp_path / "log" / "up.log").resolve() == newer.path
    newer.remove()
    assert not (tmp_path / "log").exists()


NOISE = """\
/opt/salt/lib/python3.13/site-packages/salt/utils/event.py:1: ResourceWarning: unclosed MasterEvent
  self.close()
[WARNING ] Minion web-1 did not respond
Exception ignored in: <function IOLoop.__del__ at 0x7f>
Task was destroyed but it is pending!
sys:1: ResourceWarning: unclosed <socket.socket fd=9>
"""


def test_reason_is_no_warning_about_what_is_not_closed(log: Log) -> None:
    script = f"echo 'No master answers' >&2; printf '%s' '{NOISE}' >&2; exit 1"
    with pytest.raises(CommandError, match=r"^asking failed: No master answers"):
        run(["sh", "-c", script], log=log, what="asking")
    assert "MasterEvent" in log.path.read_text()
    assert last_reason(NOISE.splitlines()[0]).endswith("MasterEvent"), "there is nothing better"
    assert last_reason("\n") == ""
