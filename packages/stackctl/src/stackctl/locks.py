"""One run at a time changes a deployment.

Three locks, each a file that a process locks with flock(2), so that none outlives its process (what
runs exclude each other before there is a master: `account_lock`):

* on this host, for the runs from this checkout;
* on the Salt master, for the runs of all operators (`Session`);
* on the Salt master, for what a run has started there, which goes on when that run is interrupted
  or loses its connection (`Jobs`). The next run waits for it.

A file says who holds its lock, for the others to read.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Self, cast

from stackctl.deployment import Deployment
from stackctl.errors import BusyError, CommandError, Interrupted
from stackctl.files import private_directory
from stackctl.machines import Machine
from stackctl.run import Log
from stackctl.ssh import SSH_FAILED, Shell, script_command, unreachable

SESSION_FILE = "/run/stackctl-session.lock"  # on the master, like the next
JOB_FILE = "/run/stackctl-job.lock"
LOCKED = 75  # EX_TEMPFAIL of sysexits.h; no program that runs below a lock uses it
NOTHING = "nothing"  # the task of a run that only waits
POLL_SECONDS = 3
BEAT_SECONDS = 15  # hold-lock.sh gives a connection up after a minute of silence
WAIT_SECONDS = 3600  # that a run waits for another run, and for what goes on on the master

Note = Callable[[str], None]
"""Receives a sentence that the operator has to see."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        who: user@host.
        pid: of stackctl there.
        verb: of stackctl.
        since: the time in UTC at which the run, or its task, began.
        task: what runs on the master; empty for a run as a whole.
    """

    who: str
    pid: int
    verb: str
    since: str
    task: str = ""

    @classmethod
    def this(cls, verb: str) -> Self:
        """Return this process as the holder."""
        return cls(f"{getpass.getuser()}@{socket.gethostname()}", os.getpid(), verb, _now())

    def doing(self, task: str) -> Holder:
        """Return this holder with a task that begins now."""
        return replace(self, since=_now(), task=task)

    @classmethod
    def read(cls, text: str) -> Holder:
        """Return the holder that a lock's file names; one without a name if it cannot be read."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls("somebody", 0, "stackctl", "an unknown time")

    def text(self) -> str:
        """Return what the lock's file holds."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        """Return the holder in words."""
        words = f"`stackctl {self.verb}` of {self.who} (pid {self.pid}), since {self.since}"
        return f"{words}: {self.task}" if self.task else words


@contextmanager
def on_this_host(
    deployment: Deployment, holder: Holder, note: Note, *, wait: bool
) -> Iterator[None]:
    """Hold this checkout's lock of the deployment.

    Args:
        deployment: which one.
        holder: this run.
        note: told which run this one waits for.
        wait: for another run, up to `WAIT_SECONDS`.

    Raises:
        BusyError: another run holds the lock.
    """
    with path_on_this_host(deployment).open("a+") as file:
        deadline = time.monotonic() + (WAIT_SECONDS if wait else 0)
        while not _try_lock(file):
            file.seek(0)
            _wait(Holder.read(file.read()), deadline, note)
        file.truncate(0)
        file.write(holder.text())
        file.flush()
        yield


def path_on_this_host(deployment: Deployment) -> Path:
    """Return the file of this checkout's lock of the deployment, which may not exist yet."""
    return private_directory(deployment.state_dir) / "lock"


class Session:
    """The lock on the Salt master of one run of stackctl, from `hold` to the end of the block."""

    def __init__(
        self, shell: Shell, log: Log, holder: Holder, note: Note, *, wait: bool = False
    ) -> None:
        """Keep the context; see `on_this_host`."""
        self._shell = shell
        self._log = log
        self._holder = holder
        self._note = note
        self._wait = wait
        self._machine = ""
        self._process: subprocess.Popen[str] | None = None
        self._ended = threading.Event()
        self.jobs = Jobs(shell, holder, note)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def hold(self, machine: Machine) -> None:
        """Take the lock on this master, unless it is held, and wait for what goes on there.

        Raises:
            BusyError: another run holds the lock.
            CommandError: the master cannot be reached.
        """
        if self._machine == machine.instance_id and self._process and self._process.poll() is None:
            return
        self._release()
        deadline = time.monotonic() + (WAIT_SECONDS if self._wait else 0)
        while other := self._try(machine):
            _wait(other, deadline, self._note)
        self._machine = machine.instance_id
        self.jobs.wait(machine)

    def _try(self, machine: Machine) -> Holder | None:
        """Take the lock; return who else holds it."""
        args = script_command(["hold-lock", SESSION_FILE, self._holder.text()])
        command = self._shell.command(machine, args, shared=False)
        self._log.write(f"$ hold-lock {SESSION_FILE} on {machine.name}")
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C on this terminal must not end it before this run has ended.
            start_new_session=True,
        )
        line = cast(IO[str], process.stdout).readline().strip()
        if line == "held":
            self._process = process
            self._ended = threading.Event()
            args_of_beat = (cast(IO[str], process.stdin), self._ended)
            threading.Thread(target=_beat, args=args_of_beat, daemon=True, name="lock").start()
            return None
        _, errors = process.communicate()
        state, _, text = line.partition(" ")
        if state == "locked":
            return Holder.read(text)
        self._log.write(errors)
        if process.returncode == SSH_FAILED:
            raise unreachable(machine, "taking the lock", errors, self._log)
        raise CommandError(
            f"{machine.name} does not give its lock: {errors.strip() or 'no output'}",
            log=self._log.path,
            code=process.returncode,
        )

    def _release(self) -> None:
        if self._process is None:
            return
        self._ended.set()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=5)  # hold-lock.sh ends with its input
        self._process.kill()
        self._process.communicate()
        self._process = None


class Jobs:
    """What runs on the Salt master for this run: one thing at a time, and none is lost."""

    def __init__(self, shell: Shell, holder: Holder, note: Note) -> None:
        """Keep the context; see `on_this_host`."""
        self._shell = shell
        self._holder = holder
        self._note = note

    def wait(self, machine: Machine) -> None:
        """Wait for what an interrupted run has left running there; see `run`."""
        self.run(machine, ["true"], task=NOTHING)

    def run(
        self,
        machine: Machine,
        args: Sequence[str],
        *,
        task: str,
        stdin: str | None = None,
        accept: Sequence[int] = (0,),
        timeout: float = 1800,
    ) -> str:
        """Run a command under the lock of the jobs and return its output.

        It goes on when this process ends. Before, it waits for one that still runs.

        Args:
            machine: the Salt master.
            args: the command.
            task: what it does, for those who wait for it and for errors.
            stdin: what it reads.
            accept: the exit codes that mean success.
            timeout: seconds until this process gives it up.

        Raises:
            BusyError: another command still runs after `WAIT_SECONDS`.
            Interrupted: by the operator.
            CommandError: see `run.run`.
        """
        holder = self._holder.doing(task)
        script = ["run-locked", JOB_FILE, str(POLL_SECONDS), holder.text(), *args]
        deadline = time.monotonic() + WAIT_SECONDS
        goes_on = "" if task == NOTHING else task
        while True:
            try:
                output = self._shell.script(
                    machine,
                    script,
                    what=task,
                    stdin=stdin,
                    accept=(*accept, LOCKED),
                    timeout=timeout,
                )
            except KeyboardInterrupt:
                if not goes_on:
                    raise
                raise Interrupted(
                    f"On {machine.name} goes on: {goes_on}.",
                    "Run the same command again: it waits for that and continues from there.",
                ) from None
            state, _, text = output.partition(" ")
            if state != "locked":
                return output
            other = Holder.read(text)
            goes_on = str(other)
            _wait(other, deadline, self._note, seconds=0)


def _wait(other: Holder, deadline: float, note: Note, seconds: float = POLL_SECONDS) -> None:
    """Wait a little for another holder; raise BusyError after the deadline."""
    if time.monotonic() >= deadline:
        raise BusyError(
            f"Another run changes this deployment: {other}.",
            "Wait until it has ended, or let this one wait for it: --wait",
        )
    note(f"waiting for {other}")
    time.sleep(seconds)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _beat(pipe: IO[str], ended: threading.Event) -> None:
    """Tell hold-lock.sh that this process lives."""
    with contextlib.suppress(OSError, ValueError):
        while not ended.wait(BEAT_SECONDS):
            pipe.write(".")
            pipe.flush()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
