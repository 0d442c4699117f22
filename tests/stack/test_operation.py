"""The stack as its operator uses it: repeated, damaged, repaired and inspected."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import time
from importlib.metadata import distribution

import docker
import pytest

from localcloud import service
from localcloud.sizes import memory_left
from memory import oom_kills
from stackctl import local
from waiting import until
from wholestack import OF_A_CONNECTION, UP_SECONDS, Stack, add_connection, password_of, sql

MEMORY_MIB = memory_left("t2.micro", 1024)
PEAK_SHARE = 0.8


def test_second_up_changes_nothing(stack: Stack) -> None:
    printed = stack.up()
    assert "Nothing changed" in printed, printed


def test_every_machine_is_healthy_with_its_certificate(stack: Stack) -> None:
    rows = stack.healthy()
    assert set(rows) == set(stack.deployment.machines())
    assert {name for name, row in rows.items() if row["certificate"]} == {
        "lb-1",
        "postgres-1",
        "redis-1",
        "web-1",
        "web-2",
    }


def test_plain_salt_predicts_no_change(stack: Stack) -> None:
    highstate = ("*", "state.highstate", "test=True", "--state-output=terse", "--timeout=300")
    printed = stack.ctl("salt", "--", *highstate, timeout=600)
    succeeded = re.findall(r"Succeeded: (\d+)( \(unchanged=\d+\))?", printed)
    assert len(succeeded) == len(stack.deployment.machines())
    assert not any(unchanged for _, unchanged in succeeded), printed
    assert set(re.findall(r"Failed: +(\d+)", printed)) == {"0"}


def test_master_serves_the_commit_of_the_checkout(stack: Stack) -> None:
    head = os.popen(f"git -C {stack.deployment.root} rev-parse HEAD").read().strip()
    assert stack.sh("salt-1", "cat /srv/stack/current/REVISION").startswith(head)


def test_every_command_of_salt_runs_on_the_master(stack: Stack) -> None:
    scripts = distribution("salt").entry_points
    names = {one.name for one in scripts if one.group == "console_scripts"} - {"salt-pip"}
    line = f"for name in {' '.join(sorted(names))}; do $name --version || exit; done"
    printed = stack.sh("salt-1", line).splitlines()
    assert len(printed) == len(names)
    assert len({version.split()[1] for version in printed}) == 1, printed


def test_command_runs_as_root_on_the_machine_that_is_named(stack: Stack) -> None:
    line = "id --user; sed -n 's/^id: //p' /etc/salt/minion; exit 3"
    printed = stack.ctl("exec", "web-1", "--", line, accept=(3,))
    assert printed.split() == ["0", "web-1"]


def test_restarted_master_keeps_its_key_and_its_minions(stack: Stack) -> None:
    key = "sha256sum < /etc/salt/pki/master/master.pub"
    before = stack.sh("salt-1", key)
    stack.sh("salt-1", "systemctl restart salt-master")
    rows = stack.healthy()
    assert {row["salt"] for row in rows.values()} == {"answers"}
    assert stack.sh("salt-1", key) == before


@pytest.mark.long
def test_silent_machine_fails_the_orchestration_by_name(stack: Stack) -> None:
    stack.sh("web-2", "systemctl stop salt-minion")
    try:
        printed = stack.sh("salt-1", "salt-run state.orchestrate orch.deploy", accept=(1,))
    finally:
        stack.sh("web-2", "systemctl start salt-minion")
    assert "failed on minions: web-2" in printed
    stack.healthy()


def test_no_machine_runs_out_of_memory(stack: Stack) -> None:
    client = docker.from_env()
    for container in client.containers.list(
        filters={"label": f"localcloud.cloud={local.cloud_name(stack.deployment)}"}
    ):
        assert oom_kills(str(container.id)) == 0, container.name
    used = {name: int(row["memory"].split()[0]) for name, row in stack.healthy().items()}
    assert max(used.values()) < PEAK_SHARE * MEMORY_MIB, used


@pytest.mark.parametrize("machine", ["salt-1", "web-1", "postgres-1", "redis-1", "lb-1"])
def test_secrets_are_in_no_log_no_process_and_no_cache_of_salt(stack: Stack, machine: str) -> None:
    secrets = [
        stack.secret(secret, field)
        for secret, field in (
            ("postgres-airflow", "password"),
            ("postgres-owner", "password"),
            ("redis-airflow", "password"),
            ("airflow-admin", "password"),
            ("airflow-keys", "jwt_secret"),
        )
    ]
    # The patterns come from standard input: on a command line they would be in the process list.
    found = stack.sh(
        machine,
        "umask 077; trap 'rm -f /root/patterns' EXIT; cat > /root/patterns;"
        " [ -s /root/patterns ] || exit 1;"
        " journalctl --no-pager | grep -caFf /root/patterns;"
        " ps axww -o args= | grep -caFf /root/patterns;"
        " grep -rlaFf /root/patterns /var/cache/salt /var/log 2>/dev/null | wc -l",
        stdin="\n".join(secrets) + "\n",
    )
    assert found.split() == ["0", "0", "0"], f"journal, processes, caches and logs: {found}"


def lose(stack: Stack, *addresses: str) -> None:
    """Remove the machines with these addresses, as when their hosts are lost with their disks."""
    client = docker.from_env()
    for container in client.containers.list(
        filters={"label": f"localcloud.cloud={local.cloud_name(stack.deployment)}"}
    ):
        if {*addresses} & {
            network["IPAddress"]
            for network in container.attrs["NetworkSettings"]["Networks"].values()
        }:
            container.remove(force=True)


def minion(stack: Stack, machine: str) -> str:
    """Return what tells an installation of a minion from another: its key, and when it was made."""
    files = "/etc/salt/pki/minion/minion.pem /etc/salt/minion"
    return stack.sh(machine, f"cat {files} | sha256sum; stat -c %Y {files}")


def master_key(stack: Stack) -> str:
    return stack.sh("salt-1", "sha256sum < /etc/salt/pki/master/salt-1.pub")


def archived(stack: Stack) -> None:
    """Wait until all that is committed is in the bucket."""
    position = sql(stack, "SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")
    last = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
    began = time.monotonic()
    until(lambda: sql(stack, last)[:24] >= position, "the log is archived", 90, every=1)
    print(f"what is committed is in the bucket after {time.monotonic() - began:.0f} s")


@pytest.mark.long
def test_moment_is_restored_and_the_present_comes_back(stack: Stack) -> None:
    kept = add_connection(stack)
    moment = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    sql(stack, f"DELETE FROM connection WHERE conn_id = '{kept}'")
    assert "nobody can be asked" in stack.ctl("restore", moment, accept=(1,), errors=True)
    began = time.monotonic()
    printed = stack.ctl("restore", moment, "--yes", timeout=UP_SECONDS)
    print(f"a moment is restored in {time.monotonic() - began:.0f} s")
    assert password_of(stack, kept) == OF_A_CONNECTION
    assert re.search(r"comes back by: .*stackctl.* restore \S+ --timeline \d+", printed), printed
    stack.healthy()


@pytest.mark.long
def test_up_repairs_lost_master_lost_machine_and_dead_api(stack: Stack) -> None:
    # The new master has to learn host keys even of a machine whose first boot is long ago.
    stack.sh("salt-1", "salt-cloud --assume-yes --action stop redis-1")
    until(lambda: stack.rows()["redis-1"]["state"] == "stopped", "redis-1 is stopped", every=1)
    stack.sh("salt-1", "salt-cloud --assume-yes --action start redis-1")
    before = stack.healthy()
    kept = ("lb-1", "web-1", "redis-1")
    assert "Backed up: s3://" in stack.ctl("master", "backup")
    assert "backed up" in stack.rows()["salt-1"]["backups"]
    key, minions = master_key(stack), {name: minion(stack, name) for name in kept}
    connection = add_connection(stack)
    archived(stack)
    lost = ("salt-1", "web-2", "postgres-1")
    lose(stack, *(before[name]["address"] for name in lost))
    pid = service.status(local.cloud_folder(stack.deployment)).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    printed = stack.up()
    print(f"a lost master, web machine and database: {time.monotonic() - began:.0f} s")
    text = " ".join(printed.split())
    assert "salt-1 has the keys of the backup of" in text, printed
    assert all(f"launched {name}" in text for name in lost), printed
    assert "repaired" not in text, printed
    # The database begins from the bucket, and the keys of git open what is in it.
    assert password_of(stack, connection) == OF_A_CONNECTION
    assert master_key(stack) == key
    assert {name: minion(stack, name) for name in kept} == minions, "no minion is installed anew"
    after = stack.healthy()
    assert {name: after[name]["address"] for name in kept} == {
        name: before[name]["address"] for name in kept
    }
    assert after["salt-1"]["address"] == before["salt-1"]["address"], (
        "the other machines accept SSH from this address only"
    )
    assert "Nothing changed" in stack.up()


@pytest.mark.long
def test_master_without_its_keys_has_every_minion_installed_anew(stack: Stack) -> None:
    before = stack.healthy()
    kept = set(before) - {"salt-1"}
    key = master_key(stack)
    lose(stack, before["salt-1"]["address"])
    began = time.monotonic()
    printed = stack.ctl("up", "--master-backup", "none", timeout=UP_SECONDS)
    print(f"a lost master without a backup: {time.monotonic() - began:.0f} s")
    text = " ".join(printed.split())
    # The other minions trust only the lost master's key: they are repaired, not replaced.
    assert all(f"repaired {name}" in text for name in kept), printed
    assert master_key(stack) != key
    after = stack.healthy()
    assert {name: row["address"] for name, row in after.items()} == {
        name: row["address"] for name, row in before.items()
    }
