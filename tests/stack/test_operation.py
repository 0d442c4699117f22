"""The stack as its operator meets it: repeated, interrupted, damaged, looked into."""

from __future__ import annotations

import os
import re
import signal

import docker
import pytest

from localcloud import service
from memory import oom_kills
from stackctl import local
from waiting import until
from wholestack import Stack

MEMORY_MIB = 1024
PEAK_SHARE = 0.8


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    printed = stack.up()
    assert "Nothing changed" in printed, printed


def test_every_machine_is_healthy(stack: Stack) -> None:
    rows = stack.healthy()
    assert set(rows) == set(stack.deployment.machines())
    assert {name for name, row in rows.items() if row["certificate"]} == {
        "lb-1",
        "postgres-1",
        "redis-1",
    }


def test_plain_salt_predicts_no_change(stack: Stack) -> None:
    highstate = ("*", "state.highstate", "test=True", "--state-output=terse", "--timeout=300")
    printed = stack.ctl("salt", "--", *highstate, timeout=600)
    succeeded = re.findall(r"Succeeded: (\d+)( \(unchanged=\d+\))?", printed)
    assert len(succeeded) == len(stack.deployment.machines())
    assert not any(unchanged for _, unchanged in succeeded), printed
    assert set(re.findall(r"Failed: +(\d+)", printed)) == {"0"}


def test_the_master_tells_which_commit_it_runs(stack: Stack) -> None:
    head = os.popen(f"git -C {stack.deployment.root} rev-parse HEAD").read().strip()
    assert stack.sh("salt-1", "cat /srv/stack/current/REVISION").startswith(head)


def test_no_machine_is_short_of_memory(stack: Stack) -> None:
    client = docker.from_env()
    for container in client.containers.list(
        filters={"label": f"localcloud.cloud={local.cloud_name(stack.deployment)}"}
    ):
        assert oom_kills(str(container.id)) == 0, container.name
    used = {name: int(row["memory"].split()[0]) for name, row in stack.healthy().items()}
    assert max(used.values()) < PEAK_SHARE * MEMORY_MIB, used


@pytest.mark.parametrize("machine", ["salt-1", "web-1", "postgres-1", "redis-1", "lb-1"])
def test_no_secret_lies_where_it_should_not(stack: Stack, machine: str) -> None:
    secrets = [
        stack.secret(lock, leaf)
        for lock, leaf in (
            ("postgres-airflow", "password"),
            ("redis-airflow", "password"),
            ("airflow-admin", "password"),
            ("airflow-keys", "jwt_secret"),
        )
    ]
    # The patterns go in by standard input: on a command line the test itself would spread them.
    found = stack.sh(
        machine,
        "umask 077; trap 'rm -f /root/patterns' EXIT; cat > /root/patterns; [ -s /root/patterns ] || exit 1;"
        " journalctl --no-pager | grep -caFf /root/patterns;"
        " ps axww -o args= | grep -caFf /root/patterns;"
        " grep -rlFf /root/patterns /var/cache/salt/master/jobs /var/log 2>/dev/null | wc -l",
        stdin="\n".join(secrets) + "\n",
    )
    assert found.split() == ["0", "0", "0"], f"journal, processes, job cache and logs: {found}"


def test_a_lost_master_a_lost_machine_and_a_dead_api_are_repaired(stack: Stack) -> None:
    # The new master has to learn every machine's host keys, also of one whose first boot is long ago.
    stack.sh("salt-1", "salt-cloud --assume-yes --action stop redis-1")
    until(lambda: stack.rows()["redis-1"]["state"] == "stopped", "redis-1 is stopped", every=1)
    stack.sh("salt-1", "salt-cloud --assume-yes --action start redis-1")
    before = stack.healthy()
    lost = {before[name]["address"] for name in ("salt-1", "web-2")}
    client = docker.from_env()
    for container in client.containers.list(
        filters={"label": f"localcloud.cloud={local.cloud_name(stack.deployment)}"}
    ):
        if lost & {
            network["IPAddress"]
            for network in container.attrs["NetworkSettings"]["Networks"].values()
        }:
            container.remove(force=True)
    pid = service.status(local.cloud_folder(stack.deployment)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    printed = stack.up()
    kept = {"lb-1", "web-1", "postgres-1", "redis-1"}
    # The others trust the lost master's key only: each gets a new one, and stays what it is.
    told = " ".join(printed.split())
    assert all(f"repaired {name}" in told for name in kept), printed
    assert all(f"launched {name}" in told for name in ("salt-1", "web-2")), printed
    after = stack.healthy()
    assert {name: after[name]["address"] for name in kept} == {
        name: before[name]["address"] for name in kept
    }
    assert after["salt-1"]["address"] == before["salt-1"]["address"], (
        "nobody would let it in from another"
    )
    assert "Nothing changed" in stack.up()
