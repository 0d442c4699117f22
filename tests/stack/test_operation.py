"""The stack as its operator meets it: repeated, interrupted, damaged, looked into."""

from __future__ import annotations

import os
import re
import signal

import docker
import pytest

from localcloud import service
from stackctl import local
from wholestack import Stack

MEMORY_MIB = 1024
PEAK_SHARE = 0.8


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    printed = stack.up()
    assert "Nothing changed" in printed, printed


def test_every_machine_is_healthy(stack: Stack) -> None:
    rows = stack.rows()
    assert set(rows) == set(stack.deployment.machines())
    assert [name for name, row in rows.items() if not row["healthy"]] == []


def test_plain_salt_predicts_no_change(stack: Stack) -> None:
    printed = stack.ctl("salt", "--", "*", "state.highstate", "test=True", "--state-output=terse")
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
        assert not container.attrs["State"]["OOMKilled"], container.name
    used = {name: int(row["memory"].split()[0]) for name, row in stack.rows().items()}
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


def test_a_lost_machine_a_dead_minion_and_a_dead_api_are_repaired(stack: Stack) -> None:
    client = docker.from_env()
    lost = stack.rows()["web-2"]["address"]
    [container] = [
        one
        for one in client.containers.list(filters={"label": f"localcloud.cloud={local.cloud_name(stack.deployment)}"})
        if lost in str(one.attrs["NetworkSettings"]["Networks"])
    ]
    stack.sh("redis-1", "systemctl disable --now salt-minion")
    container.remove(force=True)
    pid = service.status(local.cloud_folder(stack.deployment)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    printed = stack.up()
    assert "launched web-2" in printed
    assert "repaired redis-1" in printed
    assert all(row["healthy"] for row in stack.rows().values())
    assert "Nothing changed" in stack.up()
