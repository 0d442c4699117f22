"""Every machine comes back by itself, soft and hard, alone and all at once.

Nothing but `stackctl status` runs between a restart and its check, which changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from docker.models.containers import Container

from localcloud import service
from stackctl import local, locks
from stackctl.account import enter
from stackctl.deployment import Deployment, repository_root
from stackctl.machines import ec2_client, list_machines
from stackctl.status import SILENT_SECONDS
from waiting import until
from wholestack import UP_SECONDS, Stack, is_green

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

BACK_SECONDS = 90
QUICK_SECONDS = SILENT_SECONDS + 8  # for one frozen machine, and for what else this host does


RUNNING_JOB = f"flock --nonblock {locks.JOB_FILE} true || cat {locks.JOB_FILE}"


@pytest.fixture
def ec2(stack: Stack) -> Iterator[EC2Client]:
    """The EC2 API."""
    with enter(stack.deployment):
        yield ec2_client(stack.deployment)


def ids(client: EC2Client, *names: str) -> list[str]:
    machines = list_machines(client, Deployment("local", repository_root()))
    return [machines[name].instance_id for name in names]


def boots(stack: Stack, names: list[str]) -> dict[str, str]:
    """Return when the machines were started, by name."""
    started = stack.containers()
    return {name: str(started[name].attrs["State"]["StartedAt"]) for name in names}


def is_back(stack: Stack, seconds: float = BACK_SECONDS) -> None:
    """Wait until all is green; fail with what is not."""
    last: dict[str, Any] = {}

    def all_green() -> bool:
        last.clear()
        last.update(stack.rows())
        return bool(last) and all(is_green(row) for row in last.values())

    try:
        until(all_green, "all is green", seconds, every=1)
    except AssertionError:
        red = {name: row for name, row in last.items() if not is_green(row)}
        raise AssertionError(f"not green after {seconds} s: {json.dumps(red, indent=1)}") from None


def restarted(stack: Stack, names: list[str], restart: Callable[[], object]) -> None:
    """Restart machines, wait until each has, and then until all is green."""
    before = boots(stack, names)
    restart()

    def all_new() -> bool:
        now = boots(stack, names)
        return all(now[name] != before[name] for name in names)

    until(all_new, f"{', '.join(names)} have restarted", 60, every=0.5)
    is_back(stack)


def kill_and_start(stack: Stack, client: EC2Client, names: list[str]) -> None:
    """Take the power from machines, and start them through the API."""
    found, before = stack.containers(), boots(stack, names)
    for name in names:
        found[name].kill()

    def noticed() -> bool:
        machines, now = list_machines(client, stack.deployment), boots(stack, names)
        # The master may have started one already.
        return all(machines[name].state == "stopped" or now[name] != before[name] for name in names)

    until(noticed, "the API has noticed", 30, every=0.5)
    client.start_instances(InstanceIds=ids(client, *names))


@pytest.mark.long
def test_each_machine_is_back_after_a_soft_restart(stack: Stack, ec2: EC2Client) -> None:
    is_back(stack)
    for name in stack.deployment.machines():
        restarted(stack, [name], partial(ec2.reboot_instances, InstanceIds=ids(ec2, name)))


@pytest.mark.long
def test_master_is_back_after_a_hard_restart(stack: Stack, ec2: EC2Client) -> None:
    restarted(stack, ["salt-1"], lambda: kill_and_start(stack, ec2, ["salt-1"]))


@pytest.mark.long
def test_other_machines_are_back_after_a_hard_restart(stack: Stack, ec2: EC2Client) -> None:
    names = [name for name in stack.deployment.machines() if name != "salt-1"]
    restarted(stack, names, lambda: kill_and_start(stack, ec2, names))


def test_all_machines_are_back_after_a_restart_at_once(stack: Stack, ec2: EC2Client) -> None:
    names = list(stack.deployment.machines())
    restarted(stack, names, lambda: kill_and_start(stack, ec2, names))
    assert "Nothing changed" in stack.up()


@pytest.mark.long
def test_machine_that_ends_by_itself_is_named_and_started_again(stack: Stack) -> None:
    timer = "start-ended-machines.timer"
    stack.sh("salt-1", f"systemctl stop {timer}")
    try:
        stack.sh("redis-1", "systemctl poweroff", accept=(0, 1, 255))
        until(lambda: stack.rows()["redis-1"]["state"] == "stopped", "it has ended", every=1)
        assert "Client.InstanceInitiatedShutdown" in stack.rows()["redis-1"]["reason"]
    finally:
        stack.sh("salt-1", f"systemctl start {timer}")
    # A timer that has run before goes on where it was: this need not wait for its two minutes.
    due = stack.sh("salt-1", f"systemctl show --property=NextElapseUSecMonotonic {timer}")
    assert re.search(r"=.*\d", due), due
    stack.sh("salt-1", f"systemctl start {timer.replace('.timer', '.service')}")
    is_back(stack)
    assert "started redis-1" in stack.sh("salt-1", "journalctl --no-pager -u start-ended-machines")


def test_stopped_master_is_named_and_only_started(stack: Stack, ec2: EC2Client) -> None:
    stopped = ids(ec2, "salt-1")
    ec2.stop_instances(InstanceIds=stopped)
    until(
        lambda: list_machines(ec2, stack.deployment)["salt-1"].state == "stopped",
        "salt-1 is stopped",
        every=1,
    )
    for verb in (["salt", "--", "*", "test.ping"], ["exec", "web-1", "--", "true"]):
        done = ctl(stack, *verb)
        assert done.returncode == 1
        said = " ".join(done.stderr.split())
        assert said.startswith("error: salt-1, the Salt master, is stopped, says EC2: "), said
        assert said.endswith("This starts it: stackctl up"), said
    rows = stack.rows()
    assert rows["salt-1"]["site"] == "healthy", "the site needs no master"
    assert rows["web-1"]["errors"][0].startswith("No machine could be asked. salt-1")
    printed = stack.up()
    assert "started salt-1" in printed, printed
    assert "repaired" not in printed, printed
    is_back(stack)


# -- status ----------------------------------------------------------------------------------------


def ctl(stack: Stack, *args: str) -> subprocess.CompletedProcess[str]:
    """Run stackctl."""
    command = [sys.executable, "-m", "stackctl", *args]
    root = stack.deployment.root
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, timeout=UP_SECONDS
    )


@contextmanager
def frozen(container: Container) -> Iterator[None]:
    """Freeze a machine during the block."""
    container.pause()
    try:
        yield
    finally:
        container.unpause()


@pytest.mark.parametrize("name", ["web-2", "salt-1"])
def test_status_with_a_frozen_machine_is_quick_and_red(stack: Stack, name: str) -> None:
    with frozen(stack.containers()[name]):
        began = time.monotonic()
        done = ctl(stack, "status", "--json")
        took = time.monotonic() - began
    assert done.returncode == 1
    rows = {row["machine"]: row for row in json.loads(done.stdout)}
    assert not rows[name]["healthy"]
    assert rows[name]["salt"] == ("unknown" if name == "salt-1" else "silent")
    if name != "salt-1":
        assert [other for other, row in rows.items() if not row["healthy"]] == [name]
    assert took < QUICK_SECONDS, f"{took:.1f} s"
    is_back(stack)


@pytest.mark.long
def test_status_without_the_api_tells_the_state_of_the_site(stack: Stack) -> None:
    is_back(stack)
    pid = service.status(local.cloud_folder(stack.deployment)).pid
    assert pid is not None
    try:
        for number in (signal.SIGSTOP, signal.SIGKILL):  # it hangs, it is gone
            os.kill(pid, number)
            done = ctl(stack, "status", "--json")
            assert done.returncode == 1
            rows = json.loads(done.stdout)
            assert {(row["state"], row["site"]) for row in rows} == {("unknown", "healthy")}
            assert {row["salt"] for row in rows} == {"answers"}
            assert rows[0]["errors"][0].startswith("EC2: ")
    finally:  # `up` replaces one that hangs, so that later tests have an API
        stack.up()
    is_back(stack)


# -- two runs, and an interrupted one --------------------------------------------------------------


def started(stack: Stack, *args: str, output: int | TextIO) -> subprocess.Popen[str]:
    """Start stackctl in a process group of its own, as a terminal's shell does.

    What a script starts in the background ignores Ctrl-C, and so would all that it starts.
    """
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "stackctl", *args],
        cwd=stack.deployment.root,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def orchestrating(stack: Stack) -> Iterator[subprocess.Popen[str]]:
    """Run `up` with something to do, and enter the block when its orchestration has begun."""
    stack.sh("redis-1", "echo >> /etc/redis/redis.conf")
    process = started(stack, "up", output=subprocess.PIPE)
    try:
        until(
            lambda: "orchestration" in stack.sh("salt-1", RUNNING_JOB),
            "the orchestration has begun",
            300,
            every=1,
        )
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.long
def test_second_run_waits_for_the_first_and_for_what_goes_on_after_it(
    stack: Stack, tmp_path: Path
) -> None:
    with orchestrating(stack) as first, (tmp_path / "waiting").open("w+") as said:
        refused = ctl(stack, "up")
        assert refused.returncode == 1
        told = " ".join(refused.stderr.split())
        assert "Another run changes this deployment: `stackctl up` of " in told, told
        assert f"(pid {first.pid})" in told, told
        second = started(stack, "up", "--wait", output=said)
        until(lambda: "waiting for `stackctl up` of " in Path(said.name).read_text(), "it waits")
        # Ctrl-C on a terminal reaches stackctl and its ssh.
        os.killpg(first.pid, signal.SIGINT)
        printed, _ = first.communicate(timeout=60)
        assert first.returncode == 130
        last = " ".join(printed.split())
        assert "Interrupted. On salt-1 goes on: orchestration orch.deploy. Run the same" in last
        assert second.wait(UP_SECONDS) == 0, Path(said.name).read_text()
        again = " ".join(Path(said.name).read_text().split())
        assert ": orchestration orch.deploy" in again, again
    assert "Nothing changed" in stack.up()


@pytest.mark.long
def test_killed_salt_run_leaves_states_that_are_waited_for(stack: Stack) -> None:
    with orchestrating(stack) as process:
        until(
            lambda: "state." in stack.ctl("salt", "--", "*", "saltutil.is_running", "state.*"),
            "a machine applies states",
            60,
        )
        process.kill()
        stack.sh("salt-1", "pkill -9 -f '[s]tate.orchestrate'", accept=(0, 1))
        stack.up()
    assert "Nothing changed" in stack.up()
