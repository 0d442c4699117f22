"""What a service that is taken over could still do to its machine."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lynis
from stackctl.account import enter
from stackctl.machines import ec2_client, find_machines
from stackctl.run import Log
from stackctl.ssh import Shell
from wholestack import Stack

EXPOSURE = 2.5
"""Of `systemd-analyze security`, from 0 to 10, at most."""
FREE = {
    "dbus.service": "Debian's: it starts services for whoever may",
    "salt-minion.service": "states change everything on a machine, as root",
    "ssh.service": "operators become root by it",
    "unattended-upgrades.service": "Debian's: it waits for upgrades, which change everything",
}
"""Services that do more, each with its reason."""
# A line for each request.
OF_REQUESTS = r" (haproxy|airflow|nginx|squid|sudo|postgres|salt-master)\["
# Of systemd itself, which Debian hardens; the terminal; and what writes to it for some minutes
# after a boot, and reads nothing.
_BASIS = ("systemd-", "user@", "getty@", "serial-getty@", "console-", "container-getty@")


def exposed(stack: Stack, machine: str) -> dict[str, float]:
    """Return the running services that may do more than most, with how much."""
    running = "systemctl list-units --type=service --state=running --plain --no-legend"
    listed = {line.split()[0] for line in stack.sh(machine, running).splitlines()}
    names = {name for name in listed if not name.startswith(_BASIS)}
    rated = json.loads(stack.sh(machine, "systemd-analyze security --json=short"))
    assert names <= {each["unit"] for each in rated}
    return {
        each["unit"]: float(each["exposure"])
        for each in rated
        if each["unit"] in names and float(each["exposure"]) > EXPOSURE
    }


def test_services_can_do_little_but_what_they_are_for(stack: Stack) -> None:
    found = {name: exposed(stack, name) for name in stack.containers()}
    print(found)
    strange = {name: set(each) - set(FREE) for name, each in found.items()}
    assert {name: units for name, units in strange.items() if units} == {}
    # No reason is kept for what needs none.
    assert set().union(*found.values()) == set(FREE)


def test_nothing_repeats_itself_in_the_journals(stack: Stack) -> None:
    """What a service says each second for ever drowns all else, and costs CPU and disk."""
    lines = (
        "journalctl --since=-300s --output=short --no-hostname --no-pager"
        f" | grep -vE '{OF_REQUESTS}' | cut -d' ' -f4- | sed 's/[0-9][0-9]*/0/g'"
        " | sort | uniq -c | sort -rn | head -n 3"
    )
    for machine in stack.containers():
        for line in stack.sh(machine, lines).splitlines():
            count, said = line.strip().split(maxsplit=1)
            assert int(count) < 200, f"{machine}: {said}"


def test_only_root_commands_machines(stack: Stack) -> None:
    ask = "salt --out=txt redis-1 test.ping"
    assert stack.sh("salt-1", ask).strip() == "redis-1: True"
    for user in ("admin", "nobody"):
        # The exit code is 0.
        refused = stack.sh("salt-1", f"runuser -u {user} -- {ask} 2>&1")
        assert refused.strip() == "Authentication error occurred.", user


@pytest.mark.long
def test_lynis_suggests_nothing_that_has_no_answer(stack: Stack) -> None:
    def audit(name: str) -> lynis.Audit:
        return lynis.audit(lambda script: stack.sh(name, script))

    # One of each role.
    names = [name for name in stack.containers() if name.endswith("-1")]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(audit, names), strict=True))
    print(found)
    low = {name: each.index for name, each in found.items() if each.index < lynis.LEAST}
    assert low == {}
    # No answer is kept for what nothing suggests.
    assert frozenset().union(*(each.told for each in found.values())) == lynis.answered()


def test_way_in_leads_to_ssh_alone(stack: Stack, tmp_path: Path) -> None:
    """The master forwards operators to the other machines' SSH; nobody else forwards anything."""
    with enter(stack.deployment):
        client = ec2_client(stack.deployment)
        machines = {each.name: each for each in find_machines(client, stack.deployment)}
    web, store = machines["web-1"].private_address, machines["postgres-1"].private_address

    def led(by: str, target: str) -> subprocess.CompletedProcess[str]:
        """Ask a machine's sshd for a connection to `target`, and say nothing there."""
        with Shell(stack.deployment, client, Log(tmp_path, "test")) as shell:
            ssh, *options, address, _ = shell.command(
                machines[by], [], master=machines["salt-1"], shared=False
            )
            return subprocess.run(
                [ssh, "-o", "LogLevel=INFO", *options, "-W", target, address],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

    assert led("salt-1", f"{web}:22").stdout.startswith("SSH-2.0-")
    for by, target in (
        ("salt-1", f"{web}:8080"),
        ("salt-1", "127.0.0.1:4506"),
        ("web-1", f"{store}:5432"),
    ):
        done = led(by, target)
        assert done.returncode != 0, (by, target)
        assert "prohibited" in done.stderr, (by, target, done.stderr)
