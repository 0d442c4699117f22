"""Every machine: names, a firewall from pillar `endpoints`, SSH by key, security updates."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from harness import SPARE, Fleet, Machine, address_plan, changed
from plainpillar import DOMAIN
from waiting import until

SSH = 22
REDIS = 6379
UNNAMED_PORT = 8000  # no endpoint has it


@pytest.fixture(scope="module")
def machine(converged: Callable[[str], Machine]) -> Machine:
    """A converged machine; all have the same base."""
    return converged("redis-1")


@pytest.fixture(scope="module")
def web(fleet: Fleet) -> Machine:
    """A client on a web machine; no state is applied to it."""
    return fleet.machine("web-1")


@pytest.fixture
def listener(machine: Machine) -> Iterator[Callable[[int], None]]:
    """`listener(port)`: start a server on the machine, for the length of a test."""
    units = []

    def listen(port: int) -> None:
        units.append(unit := f"test-listener-{port}")
        done = machine.run(
            "systemd-run", "--collect", f"--unit={unit}", "python3", "-m", "http.server", str(port)
        )
        assert done.returncode == 0, done.stderr
        until(lambda: machine.can_reach("127.0.0.1", port), f"{unit} listens")

    yield listen
    for unit in units:
        machine.run("systemctl", "stop", unit)


def test_machine_names_resolve(machine: Machine) -> None:
    for minion_id, address in address_plan().items():
        assert (
            machine.run("getent", "ahostsv4", f"{minion_id}.{DOMAIN}").stdout.split()[0] == address
        )


def test_service_names_resolve(machine: Machine) -> None:
    plan = address_plan()
    for role in ("postgres", "redis"):
        found = machine.run("getent", "ahostsv4", f"{role}.{DOMAIN}").stdout.splitlines()
        assert {line.split()[0] for line in found} == {plan[f"{role}-1"]}


def test_public_names_resolve(machine: Machine) -> None:
    assert machine.run("getent", "hosts", "deb.debian.org").returncode == 0


def test_firewall_drops_port_without_endpoint(
    machine: Machine, web: Machine, listener: Callable[[int], None]
) -> None:
    listener(UNNAMED_PORT)
    assert machine.can_reach(machine.address, UNNAMED_PORT)
    assert not web.can_reach(machine.address, UNNAMED_PORT)


def test_firewall_opens_port_to_clients_only(machine: Machine, web: Machine, fleet: Fleet) -> None:
    stranger = fleet.machine("postgres-1")
    assert web.can_reach(machine.address, REDIS)
    assert not stranger.can_reach(machine.address, REDIS)


@pytest.mark.parametrize("other", ["redis-1", "salt-1"])
def test_machine_that_lies_about_its_address_changes_nothing(
    machine: Machine, web: Machine, other: str
) -> None:
    """By all that a minion tells its master: Salt's mine, its grains, and what it sends by event.

    The machine whose address it claims would let it in, or every run would stop.
    """
    claimed = address_plan()[other]
    stored = web.salt("mine.send", "private_address", mine_function="test.echo", text=claimed)
    assert stored is True
    assert web.salt("mine.get", "web-1", "private_address") == {"web-1": claimed}
    grains = {"ipv4": [claimed], "fqdn_ip4": [claimed], "id": "lb-1"}
    web.salt("grains.setvals", grains=grains)
    try:
        assert changed(machine.apply(test=True)) == []
        assert machine.salt("pillar.get", "addresses:web-1", unmask=True) == web.address
    finally:
        for grain in ("ipv4", "fqdn_ip4", "id"):
            web.salt("grains.delkey", grain, force=True)
        web.salt("mine.flush")


def test_ssh_is_open_to_master_only(machine: Machine, web: Machine) -> None:
    assert not web.can_reach(machine.address, SSH)
    assert _ssh_methods(machine) == "publickey"


def _ssh_methods(machine: Machine) -> str:
    """Return the ways to log in that sshd offers this host, which is the master."""
    options = [
        "PreferredAuthentications=none",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    ]
    command = [
        "ssh",
        "-F",
        "none",
        *(f"-o{option}" for option in options),
        f"root@{machine.address}",
        "true",
    ]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode != 0
    return refused.stderr.rpartition("(")[2].partition(")")[0]


def test_root_login_is_disabled(machine: Machine) -> None:
    assert "permitrootlogin no" in machine.run("sshd", "-T").stdout.splitlines()


def test_firewall_restart_keeps_other_tables(machine: Machine, web: Machine) -> None:
    assert machine.run("nft", "add", "table", "ip", "other-program").returncode == 0
    assert machine.run("systemctl", "restart", "nftables").returncode == 0
    tables = machine.run("nft", "list", "tables").stdout
    assert "table ip other-program" in tables
    assert "table inet stack" in tables
    machine.run("nft", "delete", "table", "ip", "other-program")
    assert not web.can_reach(machine.address, SSH)


def test_invalid_rules_keep_the_old_firewall(machine: Machine, web: Machine) -> None:
    rules = machine.run("cat", "/etc/nftables.conf").stdout
    try:
        machine.put("/etc/nftables.conf", rules.replace("policy drop", "policy nonsense"))
        assert machine.run("systemctl", "reload", "nftables").returncode != 0
        assert not web.can_reach(machine.address, SSH)
    finally:
        machine.put("/etc/nftables.conf", rules)


def test_updates_come_from_debian_security_only(machine: Machine) -> None:
    report = machine.run("unattended-upgrade", "--dry-run", "--debug")
    origins = [
        line
        for line in (report.stdout + (report.stderr or "")).splitlines()
        if "Allowed origins are:" in line
    ]
    assert len(origins) == 1
    assert origins[0].count("origin=") == 1
    assert "label=Debian-Security" in origins[0]


def test_clock_shows_utc(machine: Machine) -> None:
    assert machine.run("date", "+%Z").stdout.strip() == "UTC"


# -- a machine that does not serve its role --------------------------------------------------------


@pytest.fixture(scope="module")
def spare(converged: Callable[[str], Machine]) -> Machine:
    """A machine of a role that no machine serves."""
    return converged(SPARE)


def test_spare_converges(fleet: Fleet, spare: Machine) -> None:
    fleet.assert_idempotent(spare)


def test_spare_tells_what_it_is_and_differs_in_nothing(spare: Machine) -> None:
    found = spare.salt("role.status")
    told = {key: found[key] for key in ("unit", "state", "problem", "certificate_end", "drift")}
    assert told == {
        "unit": "salt-minion", "state": "active", "problem": "", "certificate_end": "", "drift": [],
    }  # fmt: skip


def test_nobody_can_write_to_a_spare(spare: Machine, web: Machine) -> None:
    assert spare.run("which", "redis-server").returncode != 0
    assert spare.salt("pillar.get", "secrets") in ("", {})
    done = spare.run("systemd-run", "--collect", "python3", "-m", "http.server", str(REDIS))
    assert done.returncode == 0, done.stderr
    until(lambda: spare.can_reach("127.0.0.1", REDIS), "something listens there")
    assert not web.can_reach(spare.address, REDIS)
