"""What differs on a machine from what its states wrote: found, predicted, repaired or told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness import Fleet, Machine, States, changed, failed
from waiting import until

SSH = "/etc/ssh/sshd_config.d/00-stack.conf"
SSH_FIRST = "/etc/ssh/sshd_config.d/00-a.conf"
REDIS = "/etc/redis/redis.conf"
# Keeps one TLS connection to Redis open and uses it; ends when the connection does.
CONNECTION = """
import socket, ssl, sys, time
context = ssl._create_unverified_context()
with context.wrap_socket(socket.create_connection((sys.argv[1], 6379), 10)) as stream:
    while True:
        stream.sendall(b"PING\\r\\n")
        assert stream.recv(100)
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def redis(converged: Callable[[str], Machine]) -> Machine:
    """A machine whose services run."""
    return converged("redis-1")


@contextmanager
def edited(machine: Machine, path: str, line: str) -> Iterator[None]:
    """Add a line to a file by hand; put the file back as it was, with its times."""
    machine.run("cp", "-a", path, f"{path}.kept")
    machine.run("sh", "-c", f"echo '{line}' >> {path}")
    yield
    machine.run("mv", f"{path}.kept", path)


def ids(states: States, kind: str = "") -> set[str]:
    """Return the ids of the states of a kind that changed something, or would."""
    return {tag.split("_|-")[1] for tag in changed(states) if tag.startswith(kind)}


def status(machine: Machine) -> dict[str, Any]:
    """Return what `role.status` reports."""
    answer = machine.salt("role.status")
    assert isinstance(answer, dict), answer
    return answer


def test_converges(fleet: Fleet, redis: Machine) -> None:
    fleet.converge(redis)  # another test may have started a machine since
    fleet.assert_idempotent(redis)
    assert status(redis)["drift"] == []


def test_file_that_was_loaded_and_put_back_is_loaded_again(fleet: Fleet, redis: Machine) -> None:
    """The file is right again, with an old time, but the service runs with the other one."""
    with edited(redis, SSH, "MaxSessions 3"):
        assert redis.run("systemctl", "reload", "ssh").returncode == 0
    with edited(redis, REDIS, "maxclients 17"):
        assert redis.run("systemctl", "restart", "redis-server").returncode == 0
    expected = {"base-ssh-service", "redis-service"}
    assert ids(redis.apply(test=True), "service_|-") == expected
    assert ids(fleet.converge(redis), "service_|-") == expected
    assert changed(fleet.converge(redis)) == []


def test_restart_that_a_failed_run_has_lost_is_made(fleet: Fleet, redis: Machine) -> None:
    redis.run("rm", "/run/stack/loaded/redis-server.start")
    assert ids(fleet.converge(redis)) == {"redis-config-loaded", "redis-service"}
    assert changed(fleet.converge(redis)) == []


@pytest.mark.long
def test_service_of_an_earlier_release_loads_its_files_once(fleet: Fleet, redis: Machine) -> None:
    """Its unit has recorded nothing."""
    units = ("redis-server", "redis-sentinel", "ssh", "systemd-journald")
    redis.run("rm", *(f"/etc/systemd/system/{unit}.service.d/loaded.conf" for unit in units))
    redis.run("rm", "-r", "/run/stack")
    redis.run("systemctl", "daemon-reload")
    names = ("base-journal", "base-ssh", "redis-config", "redis-sentinel-config")
    expected = {f"{name}-loaded" for name in names} | {
        "base-journal-service",
        "base-ssh-service",
        "redis-service",
        "redis-sentinel-service",
    }
    assert ids(redis.apply(test=True)) == expected
    assert ids(fleet.converge(redis)) == expected
    assert changed(fleet.converge(redis)) == []


def test_file_times_say_nothing(fleet: Fleet, redis: Machine) -> None:
    """Nor does a clock that was ahead or behind when the files were written."""
    redis.run("touch", "--no-dereference", "--date=2001-01-01", REDIS)
    redis.run("touch", "--no-dereference", "--date=2051-01-01", SSH)
    assert changed(fleet.converge(redis)) == []


def test_ssh_options_are_refused_beside_a_file_that_sshd_cannot_read(redis: Machine) -> None:
    before = redis.run("cat", SSH).stdout
    try:
        redis.put("/etc/ssh/sshd_config.d/20-broken.conf", "NoSuchOption yes\n")
        redis.run("sh", "-c", f"echo 'MaxSessions 3' >> {SSH}")
        assert any("NoSuchOption" in comment for comment in failed(redis.apply("base")))
        assert redis.run("cat", SSH).stdout == f"{before}MaxSessions 3\n"
    finally:
        redis.run("rm", "/etc/ssh/sshd_config.d/20-broken.conf")
        redis.put(SSH, before)


def test_ssh_option_of_another_file_does_not_win_silently(redis: Machine) -> None:
    try:
        redis.put(SSH_FIRST, "PasswordAuthentication yes\nMatch user root\n  PermitRootLogin yes\n")
        comments = failed(redis.apply("base"))
        found = status(redis)["drift"]
    finally:
        redis.run("rm", SSH_FIRST)
    for option in ("passwordauthentication yes", "permitrootlogin yes"):
        assert any(f"sshd has {option} in place of no" in comment for comment in comments)
        assert f"sshd has {option} in place of no" in found


def test_file_by_hand_is_found_by_the_timer_and_told_until_it_is_right(
    fleet: Fleet, redis: Machine
) -> None:
    compare = ("systemctl", "start", "highstate-compare.service")
    assert redis.run("systemctl", "is-active", "highstate-compare.timer").returncode == 0
    with edited(redis, "/etc/issue.net", "by hand"):
        redis.run(*compare)
        assert status(redis)["drift"] == [], "a highstate has just run"
        redis.run("rm", "/var/lib/highstate/right")
        assert redis.run(*compare).returncode == 0, redis.run("journalctl", "-n30").stdout
        assert status(redis)["drift"] == ["the next highstate changes base-notice"]
        assert ids(fleet.converge(redis)) == {"base-notice"}
        assert status(redis)["drift"] == []
    # The file has been put back as the states want it.
    fleet.converge(redis)


def test_firewall_rules_by_hand_are_found_and_removed(fleet: Fleet, redis: Machine) -> None:
    redis.run("nft", "add", "rule", "inet", "stack", "input", "tcp", "dport", "8000", "accept")
    redis.run("nft", "add", "table", "ip", "other-program")
    problem = status(redis)["problem"]
    assert "a rule that nobody declared: tcp dport 8000 accept" in problem
    assert "a table that nobody declared: ip other-program" in problem
    assert ids(redis.apply(test=True)) == {"base-firewall-loaded"}
    assert ids(fleet.converge(redis)) == {"base-firewall-loaded"}
    assert status(redis)["problem"] == ""
    assert "other-program" not in redis.run("nft", "list", "tables").stdout


def test_unmanaged_things_are_told(redis: Machine) -> None:
    """The same machine tells nothing before and after."""
    override = "/etc/systemd/system/redis-server.service.d/override.conf"
    redis.run("systemctl", "mask", "fstrim.timer")  # systemd reads all units then
    redis.put(override, "[Service]\nNice=5\n")
    redis.put("/etc/cron.d/backup", "# by hand\n")
    redis.run("useradd", "--shell", "/bin/bash", "--groups", "sudo", "eve")
    redis.run("apt-mark", "hold", "redis-server")
    server = ("python3", "-m", "http.server", "8001")
    redis.run("systemd-run", "--collect", "--unit=by-hand", *server)
    until(lambda: redis.can_reach(redis.address, 8001), "the server listens")
    try:
        found = status(redis)["drift"]
    finally:
        redis.run("rm", override, "/etc/cron.d/backup")
        redis.run("userdel", "eve")
        redis.run("apt-mark", "unhold", "redis-server")
        redis.run("systemctl", "unmask", "fstrim.timer")
        redis.run("systemctl", "stop", "by-hand")
        redis.run("systemctl", "daemon-reload")
    assert found == [
        "/etc/cron.d/backup belongs to no package and no state",
        f"{override} belongs to no package and no state",
        "redis-server.service has files that systemd has not read",
        "fstrim.timer is masked",
        "the user eve has the shell /bin/bash",
        "the user eve is in the group sudo",
        "python3 listens on port 8001, which no endpoint names",
        "the package redis-server is on hold",
    ]
    assert status(redis)["drift"] == []


def test_minion_leaves_the_service_the_machine(redis: Machine) -> None:
    show = ("systemctl", "show", "--property=CPUWeight,IOWeight,MemoryHigh")
    assert set(redis.run(*show, "salt-minion").stdout.splitlines()) == {
        "CPUWeight=20",
        "IOWeight=20",
        "MemoryHigh=629145600",
    }
    assert "CPUWeight=[not set]" in redis.run(*show, "redis-server").stdout


def test_tmp_is_small(redis: Machine) -> None:
    size = redis.run("df", "--output=size", "--block-size=1M", "/tmp").stdout.split()[-1]
    assert size == "100"


@pytest.mark.long
def test_flushed_firewall_is_restored_and_a_reboot_changes_nothing(
    fleet: Fleet, redis: Machine
) -> None:
    """The flush takes the rules of Docker's DNS too, which only the reboot brings back."""
    web = fleet.machine("web-1")
    web.put("/opt/connection.py", CONNECTION)
    program = ("/opt/salt/bin/python", "/opt/connection.py", redis.address)
    web.run("systemd-run", "--unit=connection", *program)
    redis.run("nft", "flush", "ruleset")
    assert "the firewall is not loaded" in status(redis)["problem"]
    assert ids(redis.apply("base", test=True)) == {"base-firewall-loaded"}
    assert ids(redis.apply("base")) == {"base-firewall-loaded"}
    assert not web.can_reach(redis.address, 22)
    assert web.run("systemctl", "is-active", "connection").stdout.strip() == "active"
    web.run("systemctl", "stop", "connection")
    assert status(redis)["problem"] == ""
    redis.restart()
    until(lambda: redis.run("systemctl", "is-active", "redis-server").returncode == 0, "Redis runs")
    until(lambda: _answers(redis), "the minion is back")
    assert changed(fleet.converge(redis)) == []
    assert status(redis)["drift"] == []
    # The minion has read its settings at the start.
    log = redis.run("sh", "-c", "wc -c /var/log/salt/minion").stdout
    assert changed(fleet.converge(redis)) == []
    assert redis.run("sh", "-c", "wc -c /var/log/salt/minion").stdout == log


def _answers(machine: Machine) -> bool:
    try:
        return machine.salt("test.ping", seconds=5) is True
    except AssertionError:
        return False
