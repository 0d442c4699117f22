"""Three database servers: one machine joins after the other, and any of them may be lost."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handshake import CBC, shake_hands
from harness import Fleet, Machine, failed
from plainpillar import DEPLOYMENT, DOMAIN
from stackctl.certificates import Authority, certificates, fingerprint
from waiting import until

NAMES = ("postgres-1", "postgres-2", "postgres-3")
CONFIG = "/etc/patroni/config.yml"
DATA = "/var/lib/postgresql/17/main"
OLD_UNIT = "postgresql@17-main"
ROLE = DEPLOYMENT.role_table().roles["postgres"]
# Those that speak TLS: of etcd, Patroni, PostgreSQL and pgBackRest.
CLIENT, PEER, PATRONI, POSTGRES, PGBACKREST = 2379, 2380, 8008, 5432, 8432
JOURNAL = "/run/writes"

# Writes a row and reads it, by a connection of its own; tries three times, as Airflow does.
WRITER = """
import subprocess, time
number = 0
with open(journal, "w", buffering=1) as written:
    while True:
        write = f"INSERT INTO writes VALUES ({number}) ON CONFLICT DO NOTHING"
        read = f"SELECT n FROM writes WHERE n = {number}"
        for attempt in range(1, 4):
            ask = ["psql", "-XAtq", "-c", write, "-c", read, target]
            done = subprocess.run(ask, capture_output=True, text=True)
            good = done.returncode == 0 and done.stdout.strip() == str(number)
            print(time.time(), number, attempt, good, " ".join(done.stderr.split()), file=written)
            if good:
                break
            time.sleep(1)
        number += 1
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def first(fleet: Fleet) -> Machine:
    """The server of the small map, alone, with a row that is older than Patroni.

    Earlier releases had the cluster that Debian's package makes, and its service.
    """
    machine = fleet.machine("postgres-1")
    machine.run("apt-get", "update", "-qq")
    done = machine.run("apt-get", "install", "-qq", "--no-install-recommends", "postgresql-17")
    assert done.returncode == 0, done.stderr
    sql(machine, "CREATE TABLE ledger (n int PRIMARY KEY); INSERT INTO ledger VALUES (0)")
    return fleet.converged("postgres-1")


@pytest.fixture(scope="module")
def old_authority(fleet: Fleet) -> Iterator[Authority]:
    """The CA before a rotation, which other files find again."""
    with fleet.pillar.rotated() as authority:
        yield authority


@pytest.fixture(scope="module")
def servers(fleet: Fleet, first: Machine, old_authority: Authority) -> Iterator[dict[str, Machine]]:
    """Two more, each after the others know its address."""
    del old_authority
    for name in NAMES[1:]:
        fleet.publish_address(name)
    fleet.converge(first)
    yield {name: fleet.converged(name) for name in NAMES}
    for name in NAMES:
        fleet.retire(name)


def sql(machine: Machine, statement: str, database: str = "postgres") -> str:
    """Return the answer to the superuser on the machine itself."""
    done = machine.run("psql", "-XAtqc", statement, database, user="postgres")
    assert done.returncode == 0, done.stderr
    return (done.stdout or "").strip()


def members(machine: Machine) -> dict[str, dict[str, str]]:
    """Return name -> member, as Patroni's own command shows it."""
    done = machine.run("patronictl", "-c", CONFIG, "list", "--format=json", user="postgres")
    assert done.returncode == 0, done.stderr
    return {member["Member"]: member for member in json.loads(done.stdout)}


def leader(servers: dict[str, Machine], *lost: str) -> str:
    """Return which of the machines that are left is the primary; wait for one that writes."""
    asked = ("psql", "-XAtqc", "SELECT 1 WHERE NOT pg_is_in_recovery()")

    def writes() -> str:
        for name in servers.keys() - {*lost}:
            if (servers[name].run(*asked, user="postgres").stdout or "").strip():
                return name
        return ""

    return until(writes, "a primary writes", 60, every=0.2)


def well(servers: dict[str, Machine]) -> None:
    """Wait until all follow one leader, whose commits wait for one of the others.

    Before they wait, none of the others may take the leader's place.
    """
    wanted = [("Leader", "running"), *[("Quorum Standby", "streaming")] * 2]

    def all_follow() -> bool:
        found = members(servers[leader(servers)]).values()
        return sorted((each["Role"], each["State"]) for each in found) == wanted

    until(all_follow, "commits wait for one of two replicas", 120, every=1)


def test_new_machines_follow_and_hold_the_rows(servers: dict[str, Machine]) -> None:
    well(servers)
    assert leader(servers) == "postgres-1"
    for name in NAMES[1:]:
        assert sql(servers[name], "SELECT count(*) FROM ledger") == "1"
        assert servers[name].salt("etcd_member.voting") is True
        assert "backups.py fetch" in sql(servers[name], "SHOW restore_command")


def test_nothing_changes_in_another_highstate(fleet: Fleet, servers: dict[str, Machine]) -> None:
    for machine in servers.values():
        fleet.assert_idempotent(machine)


class Etcd(NamedTuple):
    """The member of etcd on a machine, asked by the program that moves the leader."""

    name: str
    machine: Machine

    def ask(self, path: str, question: dict[str, str]) -> dict[str, Any]:
        """Return an answer of its JSON gateway."""
        words = [self.name, DOMAIN, CLIENT, PATRONI, "/etc/postgresql/tls"]
        program = (
            "import sys; sys.path.insert(0, '/usr/local/lib/stack'); import etcd_leader, json;"
            f" machine = etcd_leader.Machine(*{words});"
            f" print(json.dumps(machine.etcd({path!r}, {question!r})))"
        )
        done = self.machine.run("/usr/bin/python3", "-c", program)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def id(self) -> str:
        return str(self.ask("/v3/maintenance/status", {})["header"]["member_id"])

    def leader(self) -> str:
        return str(self.ask("/v3/maintenance/status", {})["leader"])


def test_primary_leaves_etcd_to_others(servers: dict[str, Machine]) -> None:
    etcd = {name: Etcd(name, machine) for name, machine in servers.items()}
    primary = leader(servers)
    replica = next(name for name in NAMES if name != primary)
    own, timer = etcd[primary].id(), "etcd-leader.timer"
    servers[primary].run("systemctl", "stop", timer)
    try:
        for member in etcd.values():
            if member.id() == member.leader() != own:
                member.ask("/v3/maintenance/transfer-leadership", {"targetID": own})
        until(lambda: etcd[primary].leader() == own, "the primary's machine leads both", 10)
        servers[replica].run("systemctl", "start", "etcd-leader")
        assert etcd[primary].leader() == own, "a replica has no say"
        done = servers[primary].run("systemctl", "start", "etcd-leader")
        assert done.returncode == 0, servers[primary].run("journalctl", "-u", "etcd-leader").stdout
        elsewhere = etcd[primary].leader()
        assert elsewhere != own
        servers[primary].run("systemctl", "start", "etcd-leader")
        assert etcd[primary].leader() == elsewhere, "it stays there"
    finally:
        servers[primary].run("systemctl", "start", timer)


def test_status_tells_who_leads(servers: dict[str, Machine]) -> None:
    told = {name: machine.salt("role.status") for name, machine in servers.items()}
    assert {name: each["problem"] for name, each in told.items()} == dict.fromkeys(NAMES, "")
    leads = told["postgres-1"]["replication"]
    assert re.fullmatch(r"leads, timeline \d+, 2 follow, 0.0 MiB behind", leads), leads
    assert told["postgres-2"]["replication"] == "quorum standby, streaming, 0.0 MiB behind"


def test_replica_makes_the_backups(servers: dict[str, Machine]) -> None:
    """The leader is asked to begin and to end it, over TLS with the member's certificate."""
    assert servers["postgres-1"].salt("pgbackrest.backup") == "postgres-2 makes the backups"
    made = servers["postgres-2"].salt("pgbackrest.backup", seconds=120)
    assert made.startswith("made "), made
    assert made.endswith(" on postgres-2"), made
    told = {name: machine.salt("pgbackrest.told") for name, machine in servers.items()}
    assert told["postgres-1"]["problem"] == ""
    assert "last backup " in told["postgres-1"]["backups"]
    assert told["postgres-2"] == told["postgres-3"] == {"backups": "", "problem": ""}


def test_old_unit_does_not_come_back(servers: dict[str, Machine]) -> None:
    servers["postgres-1"].run("systemctl", "start", OLD_UNIT)
    assert servers["postgres-1"].run("systemctl", "is-active", OLD_UNIT).stdout.strip() != "active"
    assert leader(servers) == "postgres-1"


@pytest.mark.parametrize("port", [2379, 2380])
def test_etcd_refuses_who_has_no_certificate(servers: dict[str, Machine], port: int) -> None:
    url = f"https://postgres-1.{DOMAIN}:{port}/version"
    tls = "/etc/etcd/tls"
    ask = f"""
        import ssl, urllib.request
        def answer(certificate):
            context = ssl.create_default_context(cafile='{tls}/ca.pem')
            if certificate:
                context.load_cert_chain('{tls}/certificate.pem', '{tls}/key.pem')
            try:
                return urllib.request.urlopen('{url}', context=context, timeout=5).status
            except OSError as error:
                return str(error)
        result = [answer(True), answer(False)]
    """
    right, wrong = servers["postgres-2"].python(ask)
    assert right == 200
    assert "certificate required" in wrong


@pytest.mark.parametrize("port", [CLIENT, PEER, POSTGRES, PGBACKREST])
def test_older_tls_is_refused(servers: dict[str, Machine], port: int) -> None:
    client, host = servers["postgres-2"], f"postgres-1.{DOMAIN}"
    chain, _ = shake_hands(client, host, port)
    assert chain
    chain, refusal = shake_hands(client, host, port, ciphers="ECDHE+AESGCM")
    assert not chain
    assert "PROTOCOL_VERSION" in refusal.upper()


def test_patroni_refuses_weak_ciphers_of_older_tls(servers: dict[str, Machine]) -> None:
    client, host = servers["postgres-2"], f"postgres-1.{DOMAIN}"
    assert shake_hands(client, host, PATRONI, ciphers="ECDHE+AESGCM")[0]
    chain, refusal = shake_hands(client, host, PATRONI, ciphers=CBC)
    assert not chain
    assert "HANDSHAKE_FAILURE" in refusal.upper()


def test_patroni_changes_nothing_without_a_certificate(servers: dict[str, Machine]) -> None:
    base = f"https://postgres-1.{DOMAIN}:8008"
    ask = f"""
        import ssl, urllib.error, urllib.request
        context = ssl.create_default_context(cafile='/etc/etcd/tls/ca.pem')
        def status(path, data=None):
            try:
                request = urllib.request.Request('{base}' + path, data)
                return urllib.request.urlopen(request, context=context, timeout=5).status
            except urllib.error.HTTPError as error:
                return error.code
        result = [status('/primary'), status('/switchover', b'{{"leader": "postgres-1"}}')]
    """
    assert servers["postgres-2"].python(ask) == [200, 403]
    assert leader(servers) == "postgres-1"


def test_firewall_lets_web_machines_ask_who_leads_and_no_more(
    fleet: Fleet, servers: dict[str, Machine]
) -> None:
    web = fleet.machine("web-1")
    open_ports = [
        port
        for port in (5432, 8008, 2379, 2380, 8432)
        if web.can_reach(servers["postgres-2"].address, port)
    ]
    assert open_ports == [5432, 8008]


def test_replica_refuses_writes(servers: dict[str, Machine]) -> None:
    done = servers["postgres-2"].run(
        "psql", "-XAtqc", "INSERT INTO ledger VALUES (-1)", user="postgres"
    )
    assert "read-only transaction" in done.stderr


def test_switchover_takes_seconds(servers: dict[str, Machine]) -> None:
    begin = time.monotonic()
    assert servers["postgres-1"].salt("patroni.switch_over", "postgres-2") == "postgres-2"
    sql(servers["postgres-2"], "INSERT INTO ledger VALUES (1)")
    took = time.monotonic() - begin
    print(f"switchover: {took:.1f} s")
    assert took < 10
    well(servers)


def refusing(servers: dict[str, Machine], authority: Authority) -> list[int]:
    """Return the ports of postgres-1 that refuse a client whose certificate a CA has signed."""
    made = authority.server("postgres", ["client"], client=True)
    servers["postgres-2"].put("/root/client.pem", made["certificate"] + made["private_key"], 0o600)
    ports = (CLIENT, PEER, PATRONI, PGBACKREST)
    client, host = servers["postgres-2"], f"postgres-1.{DOMAIN}"
    return [port for port in ports if shake_hands(client, host, port, "/root/client.pem")[1]]


def told(machine: Machine) -> tuple[list[set[str]], list[str], dict[str, list[str]]]:
    """Return what `trust.told` says: the CAs of each file, each certificate, what is not loaded."""
    found = machine.salt("trust.told")
    assert list(found["authorities"]) == [*ROLE.trusts]
    assert list(found["certificates"]) == [*ROLE.certificate_paths]
    return (
        [set(each) for each in found["authorities"].values()],
        list(found["certificates"].values()),
        found["not_loaded"],
    )


class Attempt(NamedTuple):
    """One try of the client to write a row and to read it."""

    when: float
    number: int
    attempt: int
    good: bool
    error: str


@pytest.fixture
def writes(fleet: Fleet, servers: dict[str, Machine]) -> Iterator[Callable[[], list[Attempt]]]:
    """A client on a web machine that writes all the time, by its proxy: what it has tried."""
    web = fleet.machine("web-1")
    web.run("apt-get", "update", "-qq")
    done = web.run("apt-get", "install", "-qq", "--no-install-recommends", "postgresql-client")
    assert done.returncode == 0, done.stderr
    assert failed(web.apply("stores")) == []
    table = "DROP TABLE IF EXISTS writes; CREATE TABLE writes (n int PRIMARY KEY)"
    grant = "GRANT ALL ON writes TO airflow"
    sql(servers[leader(servers)], f"{table}; {grant}", "airflow")
    options = {
        "host": f"postgres.{DOMAIN}",
        "dbname": "airflow",
        "user": "airflow",
        "password": fleet.pillar.secrets["postgres-airflow"]["password"],
        "sslmode": "verify-full",
        "sslrootcert": "/etc/haproxy/ca.pem",
        "connect_timeout": "5",
    }
    target = " ".join(f"{name}={value}" for name, value in options.items())
    names = f"target, journal = {target!r}, {JOURNAL!r}\n"
    web.put("/root/writer.py", names + WRITER, 0o600)
    run = ("systemd-run", "--collect", "--unit=test-writer", "python3", "/root/writer.py")
    done = web.run(*run)
    assert done.returncode == 0, done.stderr

    def attempts() -> list[Attempt]:
        lines = web.run("cat", JOURNAL).stdout.splitlines()
        words = [line.split(maxsplit=4) for line in lines if line.count(" ") > 3]
        return [
            Attempt(float(when), int(number), int(attempt), good == "True", " ".join(error))
            for when, number, attempt, good, *error in words
        ]

    until(attempts, "the client writes", every=0.5)
    yield attempts
    web.run("systemctl", "stop", "test-writer")


def looked_through(servers: dict[str, Machine], tried: Sequence[Attempt], what: str) -> float:
    """Find every acknowledged row again, and none given up; return the longest time without one."""
    good = [each for each in tried if each.good]
    gap = max(later.when - sooner.when for sooner, later in pairwise(good))
    again = [each for each in tried if not each.good]
    print(
        f"{what}: {tried[-1].when - tried[0].when:.0f} s, {len(good)} writes,"
        f" {len(again)} tried again, longest time without one {gap:.1f} s"
    )
    for each in again:
        print(*each)
    assert [each for each in again if each.attempt == 3] == []
    kept = sql(servers[leader(servers)], "SELECT n FROM writes", "airflow")
    assert {each.number for each in good} <= {int(line) for line in kept.split()}
    return gap


@pytest.mark.long
def test_rotation_of_the_ca_stops_no_client(
    fleet: Fleet,
    servers: dict[str, Machine],
    writes: Callable[[], list[Attempt]],
    old_authority: Authority,
) -> None:
    """The three phases of `stackctl secrets rotate deployment-ca`, as the orchestration does."""
    old, new = old_authority, Authority.new(DEPLOYMENT.name)
    ports = [CLIENT, PEER, PATRONI, PGBACKREST]
    if leader(servers) == "postgres-1":  # HAProxy would lead to the first one by itself
        servers["postgres-1"].salt("patroni.switch_over", "postgres-2")

    def roll_out(trusted: Sequence[Authority], signer: Authority) -> None:
        """Apply a phase, and look at what each machine and each port has then."""
        fleet.pillar.trust(*trusted)
        for machine in servers.values():
            fleet.converge(machine)
        assert failed(fleet.machine("web-1").apply("stores")) == []
        cas = {fingerprint(certificates(each.certificate_pem)[0]) for each in trusted}
        leaf = certificates(fleet.pillar.secrets[ROLE.certificate]["certificate"])[0]
        for machine in servers.values():
            assert told(machine) == ([cas, cas], [fingerprint(leaf)] * 2, {})
        for port in (CLIENT, PEER, PATRONI, POSTGRES):
            chain, _ = shake_hands(servers["postgres-2"], f"postgres-1.{DOMAIN}", port)
            own = leaf.public_bytes(Encoding.PEM).decode()
            assert chain in ([own], [own, signer.certificate_pem]), port

    assert refusing(servers, new) == ports
    assert refusing(servers, old) == []
    # What a service has not loaded is told, and the next highstate has it loaded.
    servers["postgres-3"].put("/etc/etcd/tls/ca.pem", old.certificate_pem + new.certificate_pem)
    assert told(servers["postgres-3"])[2] == {"etcd": ["/etc/etcd/tls/ca.pem"]}
    roll_out((old, new), old)
    assert refusing(servers, new) == refusing(servers, old) == []
    fleet.pillar.sign(new)
    roll_out((old, new), new)
    assert refusing(servers, new) == refusing(servers, old) == []
    roll_out((new,), new)
    assert refusing(servers, new) == []
    assert refusing(servers, old) == ports
    well(servers)
    looked_through(servers, writes(), "rotation")


@pytest.mark.long
def test_nothing_changes_after_the_rotation(fleet: Fleet, servers: dict[str, Machine]) -> None:
    fleet.assert_idempotent(servers["postgres-1"])


def test_crashed_server_is_started_again(servers: dict[str, Machine]) -> None:
    name = leader(servers)
    begin = time.monotonic()
    servers[name].run("sh", "-c", f"kill -KILL $(head -1 {DATA}/postmaster.pid)")
    now = leader(servers)
    sql(servers[now], "INSERT INTO ledger VALUES (2)")
    took = time.monotonic() - begin
    print(f"postmaster killed: {took:.1f} s")
    assert took < 15
    well(servers)


def test_machine_that_is_lost_loses_no_commit_and_comes_back_as_a_replica(
    servers: dict[str, Machine],
) -> None:
    lost = leader(servers)
    sql(servers[lost], "INSERT INTO ledger VALUES (3)")
    begin = time.monotonic()
    servers[lost].cut_off()
    now = leader(servers, lost)
    sql(servers[now], "INSERT INTO ledger VALUES (4)")
    print(f"machine lost: {time.monotonic() - begin:.1f} s")
    assert sql(servers[now], "SELECT string_agg(n::text, ' ' ORDER BY n) FROM ledger") == (
        "0 1 2 3 4"
    )
    servers[lost].restart()
    well(servers)
    assert leader(servers) == now
    assert sql(servers[lost], "SELECT count(*) FROM ledger") == "5"


@pytest.mark.long
def test_replica_that_was_away_for_too_long_fetches_from_the_archive(
    servers: dict[str, Machine],
) -> None:
    """No server has any more what it needs next."""
    first = servers[leader(servers)]
    away = next(name for name in NAMES if servers[name] is not first)
    shared = first.salt("patroni.settings")
    parameters = shared["postgresql"]["parameters"] | {"wal_keep_size": "0"}
    short = shared | {"postgresql": shared["postgresql"] | {"parameters": parameters}}
    first.salt("patroni.configure", short)
    try:
        servers[away].run("systemctl", "stop", "patroni")
        needed = sql(first, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        slot = away.replace("-", "_")

        def is_gone() -> bool:
            sql(first, "UPDATE ledger SET n = n")
            first.salt("pgbackrest.flush")
            sql(
                first,
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                f" WHERE slot_name = '{slot}' AND NOT active",
            )
            sql(first, "CHECKPOINT")
            return bool(first.run("test", "-e", f"{DATA}/pg_wal/{needed}").returncode)

        until(is_gone, "the leader has the segment no more", 60, every=1)
        servers[away].run("systemctl", "start", "patroni")
        begin = time.monotonic()
        well(servers)
        print(f"away for too long: follows after {time.monotonic() - begin:.0f} s")
    finally:
        first.salt("patroni.configure", shared)
    said = servers[away].run("journalctl", "-u", "patroni", "--output=cat").stdout
    assert f"{needed} comes from the archive" in said
    rows = "SELECT count(*) FROM ledger"
    assert sql(servers[away], rows) == sql(first, rows)


@pytest.mark.long
def test_replaced_first_machine_copies_the_others(
    fleet: Fleet, servers: dict[str, Machine]
) -> None:
    """An empty postgres-1 would be the one to begin a cluster, if it did not ask."""
    if leader(servers) == "postgres-1":
        servers["postgres-2"].salt("patroni.switch_over", "postgres-2")
    fleet.retire("postgres-1")
    servers["postgres-1"] = fleet.converged("postgres-1")
    well(servers)
    assert sql(servers["postgres-1"], "SELECT count(*) FROM ledger") == "5"
    assert leader(servers) != "postgres-1"


# One version behind what the index has: the same files under a lower number.
OLDER = """
cd /var/tmp
apt-get -qq update
apt-get -qq download postgresql-17
dpkg-deb --raw-extract postgresql-17_*.deb older
sed -i 's/^Version: .*/Version: 17.0-0older1/' older/DEBIAN/control
dpkg-deb -Znone --build older older.deb >/dev/null
dpkg --install --force-downgrade older.deb >/dev/null
rm -rf older older.deb postgresql-17_*.deb
"""
VERSION = ("dpkg-query", "--show", "--showformat=${Version}", "postgresql-17")
# Debian's daily run, as if this release were one of security.
DAILY = """
conf=/etc/apt/apt.conf.d/99-test
echo 'Unattended-Upgrade::Origins-Pattern { "origin=Debian"; };' >$conf
unattended-upgrade --dry-run --debug 2>&1
rm $conf
"""


@pytest.mark.long
def test_upgrade_goes_from_server_to_server(
    fleet: Fleet,
    servers: dict[str, Machine],
    writes: Callable[[], list[Attempt]],
) -> None:
    """The followers first, then the one that leads, after a switchover; each reboots."""
    for machine in servers.values():
        done = machine.run("sh", "-ec", OLDER)
        assert done.returncode == 0, done.stderr
        assert machine.run(*VERSION).stdout == "17.0-0older1"
    daily = servers["postgres-2"].run("sh", "-c", DAILY).stdout.splitlines()
    assert "skipping blacklisted package postgresql-17" in daily
    withheld = servers["postgres-2"].salt("role.status")["withheld"]
    assert [each for each in withheld if each.startswith("postgresql-17 17.")]
    before = leader(servers)
    order = [*(name for name in NAMES if name != before), before]
    with ExitStack() as running:
        for machine in servers.values():
            running.enter_context(machine.boots_again())
        runs = fleet.orchestrate("orch.reboot", reboot=order, upgrade=True)
        again = fleet.orchestrate("orch.reboot", reboot=order, upgrade=True)
    assert not [run.failed for run in runs if run.failed], runs
    assert not [run.failed for run in again if run.failed], again
    for machine in servers.values():
        assert machine.run(*VERSION).stdout != "17.0-0older1"
        assert machine.salt("drift.outdated") == []
    now = leader(servers)
    assert now != before
    assert looked_through(servers, writes(), "upgrade") < 15
    well(servers)


def test_server_that_is_needed_is_not_rebooted(fleet: Fleet, servers: dict[str, Machine]) -> None:
    away, *others = sorted(NAMES, key=lambda name: name == leader(servers))
    ask = ("salt.cmd", "maintenance.refusals", json.dumps([away, *others]), "with_pillar=True")
    servers[away].run("systemctl", "stop", "patroni")
    try:
        refusals = fleet.master.salt_run_cli().run(*ask).data
    finally:
        servers[away].run("systemctl", "start", "patroni")
    assert refusals[away] == ""
    for name in others:
        assert refusals[name].startswith(f"without {name}, 2 of "), refusals
        assert f"{away}: " in refusals[name]
    well(servers)


def test_machine_leaves_before_it_is_removed(servers: dict[str, Machine]) -> None:
    if leader(servers) != "postgres-3":
        servers["postgres-1"].salt("patroni.switch_over", "postgres-3")
        well(servers)
    done = servers["postgres-3"].salt("patroni.leave", seconds=120)
    assert len(done) == 3, done
    now = leader(servers, "postgres-3")
    until(
        lambda: sorted(members(servers[now])) == ["postgres-1", "postgres-2"],
        "two members are left",
        60,
        every=1,
    )
    sql(servers[now], "INSERT INTO ledger VALUES (5)")
    assert servers[now].salt("etcd_member.forget", json.dumps(["postgres-3"])) == []


@pytest.mark.long
def test_last_server_begins_again(servers: dict[str, Machine]) -> None:
    """The runbook "Begin again with one database server"."""
    last = leader(servers, "postgres-3")
    (gone,) = {"postgres-1", "postgres-2"} - {last}
    servers[gone].cut_off()
    script = """
        systemctl stop patroni etcd
        echo ETCD_FORCE_NEW_CLUSTER=true >> /etc/etcd/initial.env
        systemctl start etcd
        sed -i /FORCE_NEW/d /etc/etcd/initial.env
        systemctl start patroni
    """
    done = servers[last].run("sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    assert leader(servers, "postgres-3", gone) == last
    sql(servers[last], "INSERT INTO ledger VALUES (6)")
    assert sql(servers[last], "SELECT count(*) FROM ledger") == "7"
