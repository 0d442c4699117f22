"""Every machine: names, a firewall from pillar `endpoints`, SSH by key, security updates."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import lynis
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


# -- time ------------------------------------------------------------------------------------------


def test_clock_is_measured_by_amazons_server_and_no_other(machine: Machine) -> None:
    def sources() -> list[str]:
        listed = machine.run("chronyc", "-cn", "sources").stdout
        return [",".join(line.split(",")[1:3]) for line in listed.splitlines()]

    until(lambda: sources() == ["*,169.254.169.123"], "the server answers")


@pytest.mark.long
def test_wrong_clock_is_told(machine: Machine, fleet: Fleet) -> None:
    """The server says another time; the machine's clock, which is this host's, stays as it is."""

    def told() -> list[str]:
        found: list[str] = machine.salt("drift.found")
        return found

    try:
        fleet.clock.now = lambda: time.time() + 90
        machine.run("systemctl", "restart", "chrony")
        until(lambda: told() == ["the clock is 90.0 s slow"], "the clock is told", 60)
        assert abs(float(machine.run("date", "+%s").stdout) - time.time()) < 5
    finally:
        fleet.clock.now = time.time
        machine.run("systemctl", "restart", "chrony")
    assert told() == []  # a clock that was not measured yet


def test_nobody_is_served_by_udp(machine: Machine) -> None:
    """Neither the time nor anything else: an answer to a forged address could be larger."""
    listed = machine.run("ss", "--no-header", "--listening", "--udp", "--numeric").stdout or ""
    addresses = {line.split()[3].rpartition(":")[0] for line in listed.splitlines()}
    assert addresses <= {"127.0.0.11"}  # Docker's name server


# -- SSH -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A key that the login user and root have on the machine."""
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    public = path.with_suffix(".pub").read_text()
    homes = ("/home/admin", "/root")
    for home in homes:
        machine.put(f"{home}/.ssh/authorized_keys", public, mode=0o600)
        machine.run("chmod", "0700", f"{home}/.ssh")
    machine.run("chown", "-R", "admin:admin", "/home/admin/.ssh")
    yield path
    for home in homes:
        machine.run("rm", f"{home}/.ssh/authorized_keys")


def ssh(machine: Machine, key: Path, *options: str, user: str = "admin") -> str:
    """Log in from this host, which is the master, and return what both sides say."""
    done = subprocess.run(
        [
            *("ssh", "-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={key}.hosts"),
            *("-o", "BatchMode=yes", *options, f"{user}@{machine.address}", "echo", "I am in"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def test_login_user_alone_logs_in_with_the_key(machine: Machine, key: Path) -> None:
    assert "I am in" in ssh(machine, key)
    assert "Permission denied (publickey)" in ssh(machine, key, user="root")
    assert "Permission denied (publickey)" in ssh(machine, key, "-o", "PubkeyAuthentication=no")
    recorded = machine.run("journalctl", "--unit=ssh", "--output=cat", "--grep=Accepted key").stdout
    shown = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[1] in recorded


@pytest.mark.parametrize(
    ("option", "old"),
    [
        ("KexAlgorithms", "ecdh-sha2-nistp256"),
        ("KexAlgorithms", "diffie-hellman-group14-sha256"),
        ("Ciphers", "aes256-ctr"),
        ("Ciphers", "aes128-cbc"),
        ("MACs", "hmac-sha1"),
        ("MACs", "hmac-sha2-256"),
    ],
)
def test_old_algorithms_of_ssh_are_refused(
    machine: Machine, key: Path, option: str, old: str
) -> None:
    # A cipher that authenticates by itself needs no MAC.
    cipher = [] if option != "MACs" else ["-o", "Ciphers=aes256-ctr"]
    assert "no matching" in ssh(machine, key, *cipher, "-o", f"{option}={old}")


@pytest.mark.parametrize(
    "option", ["KexAlgorithms=curve25519-sha256", "Ciphers=aes128-gcm@openssh.com"]
)
def test_clients_of_some_years_ago_log_in(machine: Machine, key: Path, option: str) -> None:
    assert "I am in" in ssh(machine, key, "-o", option)


def test_machine_forwards_nothing(machine: Machine, key: Path) -> None:
    """Not even to itself; nor is an agent or a screen forwarded."""
    assert "prohibited" in ssh(machine, key, "-W", f"127.0.0.1:{SSH}")
    asked = ssh(machine, key, "-A", "-v")
    assert "I am in" in asked
    assert machine.run("sh", "-c", "ls -d /tmp/ssh-* 2>/dev/null").returncode != 0


# -- what an intruder finds ------------------------------------------------------------------------


def test_what_sudo_does_is_recorded(machine: Machine) -> None:
    done = machine.run("sudo", "-n", "/bin/false", "of-a-test", user="admin")
    assert (done.returncode, done.stderr) == (1, "")

    def recorded() -> str:
        return machine.run("journalctl", "--output=cat", "SYSLOG_IDENTIFIER=sudo").stdout or ""

    until(lambda: "of-a-test" in recorded(), "sudo's record", 20)
    (line,) = [each for each in recorded().splitlines() if "of-a-test" in each]
    assert line.split()[0] == "admin"
    assert "USER=root" in line
    assert line.endswith("COMMAND=/bin/false of-a-test")


def test_few_programs_have_rights_of_their_own(fleet: Fleet, machine: Machine) -> None:
    """An update of a package unpacks its programs with the package's modes, and keeps these."""
    find = ("find", "/", "-xdev", "-type", "f", "-perm", "/6000", "-user", "root")
    expected = {
        "/usr/bin/ssh-agent",  # of a group that owns nothing: so that nobody traces it
        "/usr/bin/sudo",
        "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",  # for the bus's own user only
        "/usr/sbin/unix_chkpwd",  # PAM's, for who asks for his or her own password
    }
    assert set(machine.run(*find).stdout.split()) == expected
    assert machine.run("su", "-c", "true", user="admin").returncode != 0
    assert machine.run("su", "-s", "/bin/true", "nobody").returncode == 0  # root needs no rights
    machine.run("chmod", "u+s", "/usr/bin/chfn")
    assert changed(machine.apply(test=True)) == ["setuid_|-base-setuid_|-base-setuid_|-absent"]
    fleet.converge(machine)
    assert set(machine.run(*find).stdout.split()) == expected


def test_no_program_makes_programs(machine: Machine) -> None:
    for name in ("cc", "gcc", "g++", "clang", "as", "ld", "make", "go", "rustc"):
        assert machine.run("which", name).returncode != 0, name


def test_nobody_writes_to_files_of_others(machine: Machine) -> None:
    find = ("find", "/", "-xdev", "-type", "f", "-perm", "-0002")
    assert (machine.run(*find).stdout or "") == ""
    shared = ("find", "/", "-xdev", "-type", "d", "-perm", "-0002", "!", "-perm", "-1000")
    assert (machine.run(*shared).stdout or "") == ""


def test_nothing_dumps_its_memory(machine: Machine) -> None:
    show = "ulimit -Sc; ulimit -Hc"
    told = machine.run("systemd-run", "--quiet", "--wait", "--pipe", "sh", "-c", show).stdout
    assert told.split() == ["0", "0"]
    pam = machine.run("sudo", "-n", "sh", "-c", show, user="admin").stdout
    assert pam.split()[-1] == "0"


def test_rules_of_audit_are_what_auditctl_reads(machine: Machine) -> None:
    """A container has no records of its own; the rules are on its disk all the same."""
    assert machine.run("systemctl", "is-active", "auditd").stdout.strip() == "inactive"
    rules = machine.run("cat", "/etc/audit/rules.d/60-stack.rules").stdout
    states = machine.apply(test=True)
    (told,) = [state for tag, state in states.items() if tag.startswith("kernel_|-base-audit_")]
    assert "a container has its host's kernel" in told["comment"]
    keys = set(re.findall(r"key=(\S+)", rules))
    assert keys >= {"identity", "sudoers", "ssh", "salt", "salt-keys", "time", "modules"}
    for path in re.findall(r"-F (?:path|dir)=(\S+)", rules):
        # The kernel refuses a folder that does not exist, and with it all rules behind it.
        assert machine.run("test", "-e", path).returncode == 0, path
    for calls in re.findall(r"-S (\S+)", rules):
        for arch in ("x86_64", "i386"):
            for call in calls.split(","):
                assert machine.run("ausyscall", arch, call, "--exact").returncode == 0, call


# -- updates ---------------------------------------------------------------------------------------


def test_updates_come_by_themselves(machine: Machine) -> None:
    timers = ("apt-daily.timer", "apt-daily-upgrade.timer")
    assert machine.run("systemctl", "is-active", *timers).stdout.split() == ["active"] * 2
    shown = machine.run("apt-config", "dump", "APT::Periodic").stdout
    assert 'Unattended-Upgrade "1"' in shown
    assert 'Update-Package-Lists "1"' in shown
    assert "trixie-security" in machine.run("apt-cache", "policy").stdout
    # At an hour that follows from the number of the machine, and no more at Debian's.
    times = machine.run("systemctl", "show", "--property=TimersCalendar", timers[1]).stdout
    assert re.findall(r"OnCalendar=\*-\*-\* (\S+)", times) == ["01:00:00"]


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


# -- what lynis finds ------------------------------------------------------------------------------


@pytest.mark.long
def test_lynis_suggests_nothing_that_has_no_answer(machine: Machine, spare: Machine) -> None:
    def audit(audited: Machine) -> lynis.Audit:
        return lynis.audit(lambda script: audited.run("sh", "-c", script).stdout)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(audit, (machine, spare)))
    print(found)
    assert min(each.index for each in found) >= lynis.LEAST
    # The deploy script, which these machines have not seen, links Salt's commands.
    without_commands = lynis.answered() | {"TOOL-5002"}
    assert frozenset().union(*(each.told for each in found)) <= without_commands
    for name in ("lynis", "/usr/share/lynis", "/etc/lynis"):
        assert machine.run("sh", "-c", f"command -v {name} || ls {name}").returncode != 0
