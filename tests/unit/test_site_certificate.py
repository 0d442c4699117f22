"""When the site's certificate is asked for, what becomes of it, and what is told about it.

tests/states/test_acme.py has a real CA, lego and HAProxy.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import itertools
import json
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from plainpillar import BASE_URL, ROOT, PlainPillar
from rendering import Chunk, Compiled, Compiler, missing_requisites, unknown_options
from saltmodules import load, load_file
from stackctl import certificates
from stackctl.catalogue import ACME_ACCOUNT, catalogue
from stackctl.certificates import Authority
from stackctl.deployment import Deployment

NAME = "airflow.example.org"
CA, OTHER = Authority.new("acme"), Authority.new("other")
SETTINGS = {
    "directory": "https://acme.example.org/directory",
    "email": "me@example.org",
    "ca_certificate": CA.certificate_pem,
}
ACME = "2026/11/28 02:07:04 "
LIMITED = (
    "acme: error: 429 :: POST :: https://acme.example.org/newOrder ::"
    " urn:ietf:params:acme:error:rateLimited :: too many certificates (5) already issued"
)
# Stands for lego: it notes how it was run, and gives what a test has laid out, or fails.
LEGO = """#!/bin/sh
echo "$@" >> {folder}/asked
for word; do case $word in --path=*) path=${{word#--path=}};; esac; done
cat "$path"/accounts/*/*/keys/*.key > {folder}/account
env > {folder}/environment
if test -e {folder}/output; then cat {folder}/output >&2; exit 1; fi
mkdir -p "$path/certificates"
cp {folder}/given.crt "$path/certificates/{name}.crt"
cp {folder}/given.key "$path/certificates/{name}.key"
"""
# Stands for systemctl: HAProxy loads what is there, or refuses it.
SYSTEMCTL = """#!/bin/sh
test "$*" = "reload haproxy" || exit 2
if test -e {folder}/refuses; then echo "Job for haproxy.service failed" >&2; exit 1; fi
echo >> {folder}/reloads
cp {folder}/kept/live/site.pem {folder}/loaded.pem
"""
Fields = Mapping[str, str]


@dataclass
class World:
    """A load balancer without HAProxy and without a CA.

    Attributes:
        program: the program, as a module.
        folder: where everything is.
        later: how much later it is than this host's clock says.
        drained: the server that HAProxy does not ask; empty: it asks all.
    """

    program: ModuleType
    folder: Path
    later: dt.timedelta = dt.timedelta()
    drained: str = ""

    def give(self, fields: Fields, chain: str = "") -> None:
        """Have the CA sign this."""
        (self.folder / "given.crt").write_text(fields["certificate"] + chain)
        (self.folder / "given.key").write_text(fields["private_key"])
        (self.folder / "output").unlink(missing_ok=True)

    def refuse(self, output: str) -> None:
        """Have lego fail with this."""
        (self.folder / "output").write_text(output)

    def look(self, **changed: Any) -> Any:
        """Look once, with some other settings."""
        config = {"name": NAME, "port": 443, **SETTINGS, **changed}
        return self.program.look(self.program.Config(**config), self.folder / "kept")

    def count(self, name: str) -> int:
        """Return how often the CA was `asked`, or how many `reloads` there were."""
        path = self.folder / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def live(self) -> Path:
        return self.folder / "kept/live/site.pem"

    def served(self, _config: Any) -> bytes | None:
        loaded = self.folder / "loaded.pem"
        if (self.folder / "stopped").exists():
            return None
        if not loaded.exists():
            return b"the secret's"
        end = "-----END CERTIFICATE-----\n"
        return ssl.PEM_cert_to_DER_cert(loaded.read_text().partition(end)[0] + end)


def signed(authority: Authority = CA, name: str = NAME) -> Fields:
    """Return a key and a certificate of a year."""
    return authority.server("site", [name])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    program = load_file(ROOT / "salt/haproxy/files/site_certificate.py")
    found = World(program, tmp_path)
    for name, text in (("lego", LEGO), ("systemctl", SYSTEMCTL)):
        script = tmp_path / name
        script.write_text(text.format(folder=tmp_path, name=NAME))
        script.chmod(0o755)
        monkeypatch.setattr(program, name.upper(), str(script))
    for folder in ("kept/live", "scratch"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "account.key").write_text("the account's key\n")

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return dt.datetime.now(tz) + found.later

    monkeypatch.setattr(program, "datetime", Clock)
    monkeypatch.setattr(program, "OPENSSL", shutil.which("openssl"))
    monkeypatch.setattr(program, "ACCOUNT", str(tmp_path / "account.key"))
    monkeypatch.setattr(program, "SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(program, "served", found.served)
    monkeypatch.setattr(program, "_drained", lambda: found.drained)
    found.give(signed())
    return found


def test_certificate_is_got_and_loaded(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    given = signed()
    world.give(given)
    state = world.look()
    assert (state.why, state.waits, state.directory) == ("", "", SETTINGS["directory"])
    assert not state.limited
    assert world.live.read_text() == given["certificate"] + given["private_key"]
    assert stat.S_IMODE(world.live.stat().st_mode) == 0o640
    assert world.count("reloads") == 1
    assert world.served(None) == ssl.PEM_cert_to_DER_cert(given["certificate"])
    (asked,) = (world.folder / "asked").read_text().splitlines()
    for word in ("--server=https://acme.example.org/directory", f"--domains={NAME}",
                 "--email=me@example.org", "--accept-tos", "--http "):  # fmt: skip
        assert word in asked
    assert asked.endswith(" run")
    assert (world.folder / "account").read_text() == "the account's key\n"
    assert "LEGO_CA_CERTIFICATES=" in (world.folder / "environment").read_text()
    assert list((world.folder / "scratch").iterdir()) == [], "a key is left"
    assert "PRIVATE" not in capsys.readouterr().out
    # And the next look does nothing.
    assert world.look() == state
    assert (world.count("asked"), world.count("reloads")) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "other.example.org"}, "is not for other.example.org"),
        ({"directory": "https://ca.example.net/directory"}, "is of another CA"),
    ],
)
def test_other_settings_need_another_certificate(
    world: World, capsys: pytest.CaptureFixture[str], changed: dict[str, str], why: str
) -> None:
    world.look()
    capsys.readouterr()
    world.refuse("x")
    world.look(**changed)
    assert why in capsys.readouterr().out
    assert world.count("asked") == 2


def test_other_address_for_mail_needs_none(world: World) -> None:
    world.look()
    world.look(email="you@example.org")
    assert world.count("asked") == 1


@pytest.mark.parametrize("damage", ["", "x", "cut"])
def test_certificate_that_cannot_be_used_is_replaced(world: World, damage: str) -> None:
    world.look()
    world.live.write_text(world.live.read_text()[:600] if damage == "cut" else damage)
    world.look()
    assert world.count("asked") == 2
    assert "PRIVATE KEY" in world.live.read_text()


@pytest.mark.parametrize("days", [6, 47, 90, 397])
def test_renewal_is_within_the_last_third(
    world: World, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", days)
    world.give(signed())
    world.look()
    life = dt.timedelta(days=days, hours=1)
    world.later = life * 0.65
    world.look()
    assert world.count("asked") == 1
    world.later = life * 0.71
    world.give(signed())
    world.look()
    assert (world.count("asked"), world.count("reloads")) == (2, 2)


def test_load_balancers_do_not_renew_at_the_same_moment(world: World) -> None:
    found = set()
    for _ in range(3):
        world.look()
        found.add(world.program.renewal(world.program.read_certificate(world.live)))
        world.live.unlink()
        world.give(signed())
    assert len({moment.replace(minute=0, second=0) for moment in found}) > 1


def test_failure_keeps_the_certificate_and_waits_longer_each_time(world: World) -> None:
    world.look()
    before = world.live.read_text()
    start = world.later = dt.timedelta(days=300)
    world.refuse(f'{ACME}Could not create client: get directory at "x": connection refused\n')
    waits: list[dt.timedelta] = []
    for count in range(1, 10):
        at = dt.datetime.now(dt.UTC) + world.later
        state = world.look()
        assert state.failures == count
        waits.append(world.program._time(state.next) - at)
        world.later += waits[-1] - dt.timedelta(seconds=10)
        assert world.look().failures == count, "too early"
        world.later += dt.timedelta(seconds=11)
    assert world.live.read_text() == before
    assert dt.timedelta(minutes=29) < waits[0] < dt.timedelta(minutes=34)
    assert all(a * 1.5 < b for a, b in itertools.pairwise(waits[:5]))
    assert dt.timedelta(hours=11) < waits[-1] < dt.timedelta(hours=14)
    since = world.program._time(state.since) - dt.datetime.now(dt.UTC)
    assert abs(since - start) < dt.timedelta(minutes=1)
    world.later += dt.timedelta(days=1)
    world.give(signed())
    state = world.look()
    assert (state.why, state.since, state.failures, state.next) == ("", "", 0, "")
    assert world.live.read_text() != before


def test_other_settings_are_tried_at_once_after_a_failure(world: World) -> None:
    world.refuse("x")
    assert world.look().failures == 1
    assert world.look(email="you@example.org").failures == 1
    assert world.count("asked") == 2


def test_wrong_clock_stops_no_renewal(world: World) -> None:
    world.later = dt.timedelta(days=1000)
    world.refuse("x")
    world.look()
    world.later = dt.timedelta()
    world.look()
    assert world.count("asked") == 2


@pytest.mark.parametrize(
    ("told", "hours"),
    [
        ("retry after {}: see https://letsencrypt.org/docs/rate-limits/", 30),
        ("Retry after {}", 30),
        ("", 24),
        ("retry after 2026-99-99 00:00:00 UTC", 24),
        ("retry after 2999-01-01 00:00:00 UTC", 8 * 24),
    ],
)
def test_ca_that_has_had_too_many_requests_says_until_when(
    world: World, told: str, hours: int
) -> None:
    now = dt.datetime.now(dt.UTC)
    world.refuse(f"{ACME}x:\n\t{LIMITED}, " + told.format(f"{now + dt.timedelta(hours=30):%F %T}"))
    state = world.look()
    wait = world.program._time(state.next) - now
    assert abs(wait - dt.timedelta(hours=hours)) < dt.timedelta(minutes=1)
    assert state.limited
    assert "it has had too many requests" in state.why
    world.later = wait - dt.timedelta(minutes=2)
    assert world.look().why == state.why
    assert world.count("asked") == 1
    world.later = wait + dt.timedelta(minutes=2)
    world.give(signed())
    assert world.look().why == ""


def test_certificate_that_no_client_would_take_is_refused(world: World) -> None:
    other, stranger = signed(name="other.example.org"), signed(OTHER)
    for given, why in (
        (other, "hostname mismatch"),
        (stranger, "unable to get local issuer certificate"),
        ({**signed(), "private_key": other["private_key"]}, "is not of the key"),
        ({**signed(), "certificate": ""}, "is not of the key"),
    ):
        world.give(given)
        assert why.lower() in world.look(email=f"{len(why)}@example.org").why.lower()
        assert not world.live.exists()
    assert world.count("reloads") == 0


def test_chain_of_a_private_ca_is_followed_to_its_end(world: World) -> None:
    """Pebble's directory has a certificate of another CA than the one that signs."""
    world.give(signed(OTHER), chain=OTHER.certificate_pem)
    assert world.look().why == ""
    world.live.unlink()
    world.give(signed(OTHER), chain=CA.certificate_pem)
    assert "issuer certificate" in world.look().why


def test_chain_of_a_public_ca_leads_to_a_root_of_the_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a CA for trials, such as Let's Encrypt's, changes nothing for visitors."""
    world.give(signed(OTHER), chain=OTHER.certificate_pem)
    assert "self-signed certificate in certificate chain" in world.look(ca_certificate="").why
    assert "LEGO_CA_CERTIFICATES" not in (world.folder / "environment").read_text()
    roots = world.folder / "roots.pem"
    roots.write_text(OTHER.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    world.later = dt.timedelta(days=1)
    assert world.look(ca_certificate="").why == ""


@pytest.mark.parametrize("had", [True, False])
def test_certificate_that_haproxy_refuses_is_taken_back(world: World, *, had: bool) -> None:
    if had:
        world.look()
    before = world.live.read_text() if had else None
    world.later = dt.timedelta(days=300 if had else 0)
    world.give(signed())
    (world.folder / "refuses").touch()
    state = world.look()
    assert "HAProxy does not take the certificate: Job for haproxy.service failed" in state.why
    assert (world.live.read_text() if had else None) == before
    assert world.live.exists() is had


def test_reload_that_brings_nothing_is_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.program, "RELOAD_SECONDS", 0)
    monkeypatch.setattr(world.program, "served", lambda _config: b"another")
    assert "serves another certificate" in world.look().why
    assert not world.live.exists()


def test_drained_server_is_not_brought_back_by_a_reload(world: World) -> None:
    world.drained = "app/web-1"
    state = world.look()
    assert state.waits == "HAProxy is not reloaded while app/web-1 is out of service"
    assert (state.why, world.count("reloads")) == ("", 0)
    world.drained = ""
    assert world.look().waits == ""
    assert (world.count("asked"), world.count("reloads")) == (1, 1)


@pytest.mark.parametrize(
    ("status", "found"), [("UP", ""), ("DRAIN", "app/web-1"), ("MAINT", "app/web-1"), ("", "")]
)
def test_drained_server_is_found_at_the_socket(
    monkeypatch: pytest.MonkeyPatch, status: str, found: str
) -> None:
    program = load_file(ROOT / "salt/haproxy/files/site_certificate.py")
    with tempfile.TemporaryDirectory(prefix="acme-") as folder:
        monkeypatch.setattr(program, "HAPROXY", f"{folder}/admin.sock")
        if not status:  # HAProxy does not run
            assert program._drained() == ""
            return

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"show stat\n"
                connection.sendall(f"# pxname,svname,status,\napp,web-1,{status},\n".encode())

        with socket.create_server(program.HAPROXY, family=socket.AF_UNIX) as server:
            thread = threading.Thread(target=answer)
            thread.start()
            assert program._drained() == found
            thread.join()


@pytest.mark.parametrize("refused", [True, False])
def test_exit_code_tells_whether_a_certificate_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch, *, refused: bool
) -> None:
    config = world.folder / "config.json"
    config.write_text(json.dumps({"name": NAME, "port": 443, **SETTINGS}))
    monkeypatch.setattr(world.program, "CONFIG", str(config))
    monkeypatch.setattr(world.program, "FOLDER", str(world.folder / "kept"))
    if refused:
        world.refuse("x")
    assert world.program.main() == int(refused)


def test_haproxy_that_does_not_run_loads_it_when_it_starts(world: World) -> None:
    (world.folder / "stopped").touch()
    state = world.look()
    assert (state.why, state.waits, world.count("reloads")) == ("", "", 0)
    assert world.live.exists()


def test_reload_that_was_lost_is_made_up_for(world: World) -> None:
    world.look()
    (world.folder / "loaded.pem").unlink()
    world.look()
    assert (world.count("asked"), world.count("reloads")) == (1, 2)


def test_what_lacks_on_the_machine_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.program, "ACCOUNT", "/nonexistent/account.key")
    assert world.look().why == "/nonexistent/account.key: No such file or directory"
    monkeypatch.undo()
    monkeypatch.setattr(world.program, "LEGO", "/nonexistent/lego")
    monkeypatch.setattr(world.program, "ACCOUNT", str(world.folder / "account.key"))
    monkeypatch.setattr(world.program, "SCRATCH", str(world.folder / "scratch"))
    assert "/nonexistent/lego: No such file" in world.look(email="you@example.org").why


def test_ca_that_does_not_finish_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "lego").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(world.program, "LEGO_SECONDS", 0.1)
    assert "acme.example.org has not finished within 0.1 s" in world.look().why


@pytest.mark.parametrize(
    ("output", "said", "cure"),
    [
        (
            (
                f"{ACME}[INFO] x\n{ACME}Could not create client: get directory at 'https://a/d':"
                ' Get "https://a/d": dial tcp 192.0.2.1:443: connect: connection refused\n'
            ),
            "connection refused",
            "what the CA says of its own state",
        ),
        (
            (
                f"{ACME}Could not create client: get directory at 'https://a/d': tls: failed to"
                " verify certificate: x509: certificate signed by unknown authority\n"
            ),
            "x509: certificate signed",
            "settings:acme:ca_certificate",
        ),
        (
            (
                f"{ACME}Could not obtain certificates:\n\terror: a domain had a problem:\n"
                "[x] acme: error: 400 :: urn:ietf:params:acme:error:connection :: Timeout\n"
            ),
            "error:connection :: Timeout",
            "anybody to reach port 80",
        ),
        (
            "[x] acme: error: 400 :: urn:ietf:params:acme:error:dns :: NXDOMAIN looking up A\n",
            "NXDOMAIN",
            "has to lead to the site's address in DNS",
        ),
        (
            "[x] acme: error: 403 :: urn:ietf:params:acme:error:unauthorized :: key\n",
            "error:unauthorized",
            "to have one account",
        ),
        ("acme: error: 403 :: urn:ietf:params:acme:error:caa :: no\n", "error:caa", "a CAA record"),
        (
            "acme: error: 400 :: urn:ietf:params:acme:error:rejectedIdentifier :: policy\n",
            "policy",
            "another name",
        ),
        (
            "acme: error: 400 :: urn:ietf:params:acme:error:invalidContact :: x\n",
            "invalidContact",
            "settings:acme:email",
        ),
        (
            "acme: error: 400 :: urn:ietf:params:acme:error:externalAccountRequired :: x\n",
            "externalAccountRequired",
            "take another CA",
        ),
        ("panic\n\x1b[31mred\x07\n", "?[31mred?", ""),
        ("", "lego says nothing", ""),
    ],
)
def test_failure_names_cause_and_cure(world: World, output: str, said: str, cure: str) -> None:
    world.refuse(output)
    why = world.look().why
    assert why.startswith("acme.example.org gives no certificate: ")
    assert said in why
    assert cure in why
    assert "\n" not in why
    assert not world.look().limited


def test_lost_state_costs_one_certificate(world: World) -> None:
    world.look()
    (world.folder / "kept/state.json").write_text("{")
    world.give(signed())
    world.look()
    world.look()
    assert world.count("asked") == 2


# -- what is told ----------------------------------------------------------------------------------


def module(salt: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    return load("_modules", "site_certificate", __salt__=salt or {})


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """`told(left, …)`: what is told with so many days left of 90; None: without a certificate."""
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "live").mkdir()

    def tell(left: int | None, **state: str) -> dict[str, str]:
        if left is not None:
            monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", left)
            monkeypatch.setattr(certificates, "BACKDATED", dt.timedelta(days=90 - left))
            (tmp_path / "live/site.pem").write_text(signed()["certificate"])
        (tmp_path / "state.json").write_text(json.dumps(state))
        return dict(module().told(str(tmp_path / "config.json"), str(tmp_path)))

    return tell


def test_machine_that_asks_no_ca_tells_nothing(tmp_path: Path) -> None:
    found = module().told(str(tmp_path / "config.json"), str(tmp_path))
    assert found == {"renewal": "", "problem": ""}


def test_end_of_the_certificate_is_told(told: Callable[..., dict[str, str]]) -> None:
    found = told(80)
    assert found["renewal"].startswith("certificate of acme.example.org until 20")
    assert found["renewal"].endswith(" UTC")
    assert found["problem"] == ""
    assert told(80, waits="web-1 is drained")["renewal"].endswith(" UTC; web-1 is drained")


def test_failure_is_a_notice_first_and_a_problem_near_the_end(
    told: Callable[..., dict[str, str]],
) -> None:
    failing = {"why": "the CA is down", "since": "yesterday", "next": "tomorrow"}
    words = "the CA is down; the next try is after tomorrow"
    found = told(16, **failing)
    assert found["renewal"].endswith(f"UTC; since yesterday it is not renewed: {words}")
    assert found["problem"] == ""
    found = told(14, **failing)
    assert (found["renewal"], found["problem"].endswith(f"UTC ends soon: {words}")) == ("", True)
    assert told(-1, **failing)["problem"].endswith(f"UTC has ended: {words}")
    assert "see journalctl -u site-certificate" in told(14)["problem"]
    assert told(14, waits="web-1 is drained")["problem"].endswith("ends soon: web-1 is drained")


def test_missing_certificate_is_a_problem_after_the_first_failure(
    told: Callable[..., dict[str, str]],
) -> None:
    text = "the site has no certificate of acme.example.org yet"
    assert told(None) == {"renewal": text, "problem": ""}
    problem = f"{text}: it is down; the next try is after 12"
    assert told(None, why="it is down", next="12") == {"renewal": "", "problem": problem}


@pytest.mark.parametrize("limited", [True, False])
def test_obtaining_by_hand_waits_for_no_failure_but_for_the_ca(
    tmp_path: Path, *, limited: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "live").mkdir()
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"why": "x", "next": "12", "limited": limited}))
    seen: list[str] = []
    done = {"retcode": 0, "stderr": "", "stdout": ""}

    def start(command: list[str], **options: Any) -> dict[str, Any]:
        assert options == {"python_shell": False, "ignore_retcode": True}
        assert command == ["systemctl", "start", "site-certificate.service"]
        seen.append(json.loads(state.read_text()).get("next"))
        if len(seen) == 2:
            state.write_text("{}")
            (tmp_path / "live/site.pem").write_text(signed()["certificate"])
        return done

    paths = (str(tmp_path / "config.json"), str(tmp_path))
    asked = module({"cmd.run_all": start})
    with pytest.raises(CommandExecutionError, match=r"the site has no certificate of .*: x"):
        asked.obtain(*paths)
    assert seen == (["12"] if limited else [""])
    assert asked.obtain(*paths).startswith("certificate of acme.example.org until ")
    done |= {"retcode": 1, "stderr": "Unit not found"}
    with pytest.raises(CommandExecutionError, match="Unit not found"):
        asked.obtain(*paths)


def test_obtaining_by_hand_fails_while_it_is_not_renewed(tmp_path: Path) -> None:
    """Also where there is a certificate; and where one ends soon that nobody has tried to renew."""
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "live").mkdir()
    done = {"retcode": 0, "stderr": "", "stdout": ""}
    asked = module({"cmd.run_all": lambda _command, **_: done})
    paths = (str(tmp_path / "config.json"), str(tmp_path))
    (tmp_path / "live/site.pem").write_text(signed()["certificate"])
    assert asked.obtain(*paths).endswith(" UTC"), "without a state, too"
    (tmp_path / "state.json").write_text(json.dumps({"why": "it is down"}))
    with pytest.raises(CommandExecutionError, match=r"it is not renewed: it is down"):
        asked.obtain(*paths)


def test_thumbprint_is_of_the_public_key() -> None:
    """As RFC 7638 has it, with the numbers that openssl tells."""
    key = catalogue(Deployment("test", ROOT), CA, "")[ACME_ACCOUNT]()["private_key"]
    command = ["openssl", "ec", "-pubout", "-outform", "DER"]
    public = subprocess.run(command, input=key.encode(), capture_output=True, check=True).stdout
    x, y = (_base64(part) for part in (public[-64:-32], public[-32:]))
    text = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    assert module().thumbprint(key) == _base64(hashlib.sha256(text.encode()).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("curve", ["secp384r1", ""])
def test_thumbprint_of_another_key_is_refused(curve: str) -> None:
    command = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout"]
    key = subprocess.check_output(command, text=True) if curve else "x"
    with pytest.raises(CommandExecutionError, match="the account's key"):
        module().thumbprint(key)


# -- the states ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compiler, Compiled, PlainPillar]:
    """A load balancer of a deployment with a CA."""
    pillar = PlainPillar(tmp_path_factory.mktemp("pillar"), acme=SETTINGS)
    compiler = Compiler("lb-1", tmp_path_factory.mktemp("minion"), pillar)
    return compiler, compiler.highstate(), pillar


def chunk(found: Compiled, name: str) -> Chunk:
    (one,) = (each for each in found.chunks if each["__id__"] == name)
    return one


def test_states_compile(compiled: tuple[Compiler, Compiled, PlainPillar]) -> None:
    _, found, _ = compiled
    assert found.errors == []
    assert list(missing_requisites(found.chunks)) == []
    assert [text for each in found.chunks for text in unknown_options(each)] == []


def test_key_of_the_account_is_in_one_private_file(
    compiled: tuple[Compiler, Compiled, PlainPillar],
) -> None:
    compiler, found, pillar = compiled
    account = chunk(found, "site-certificate-account")
    assert (account["mode"], account["show_changes"]) == ("0600", False)
    assert account["contents_pillar"] == "secrets:acme-account:private_key"
    key = pillar.secrets[ACME_ACCOUNT]["private_key"]
    rendered = compiler.render(chunk(found, "haproxy-config"))["data"]
    assert module().thumbprint(key) in rendered
    assert key.splitlines()[1] not in rendered + json.dumps(found.chunks)
    settings = chunk(found, "site-certificate-config")["dataset"]
    assert settings == {**SETTINGS, "name": BASE_URL.removeprefix("https://"), "port": 443}
