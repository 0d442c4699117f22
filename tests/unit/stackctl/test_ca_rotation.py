"""The CA is rotated in three phases, none of which begins before the last one is everywhere."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from stackctl import armour, ca_rotation, cli, initialise, secret_store, settings_file
from stackctl.ca_rotation import OVERDUE_DAYS, Answers, Trust, advance, current
from stackctl.certificates import Authority, certificates, fingerprint, signed_by
from stackctl.deployment import Deployment
from stackctl.errors import NotUpError, SecretsError
from stackctl.machines import Machine
from stackctl.roles import Role
from stackctl.run import Log
from stackctl.secret_store import SecretStore

ROOT = Path(__file__).parents[3]
URL = "https://127.0.0.1:8443"
# Secret -> a name in the certificate; of a client's there is none.
LEAVES = {
    "postgres-cluster-tls": "postgres-1",
    "redis-tls": "redis-1",
    "edge-tls": "localhost",
    "edge-client-tls": "",
    "logs-client-tls": "",
    "logs-tls": "logs.stack.internal",
    "metrics-tls": "metrics.stack.internal",
    "web-tls": "web.stack.internal",
}
SEAL = "sealed\n"
COMMENT = "# Decided by the operator."


@pytest.fixture(scope="module", autouse=True)
def without_gpg() -> Iterator[None]:
    """Keep what gpg would encrypt in plain text: it takes a tenth of a second for each field."""

    def gpg(_home: Path | None, args: list[str], stdin: str = "") -> str:
        if "--decrypt" in args:
            return stdin.removeprefix(SEAL)
        return f"{SEAL}{stdin}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret_store, "gpg", gpg)
        patch.setattr(armour, "fault", lambda _: "")
        patch.setattr(secret_store, "gpg_home", lambda: nullcontext(Path("/nonexistent")))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """An initialised deployment; only to be looked at."""
    root = tmp_path_factory.mktemp("checkout")
    for part in ("cloud.maps.d", "pillar/base"):
        shutil.copytree(ROOT / part, root / part)
    deployment = Deployment("local", root)
    initialise.initialise(deployment, URL)
    path = deployment.settings_path
    path.write_text(path.read_text().replace("  load_examples", f"  {COMMENT}\n  load_examples"))
    return deployment


def files(deployment: Deployment) -> dict[str, str]:
    """Return every file of the deployment's pillar with its content."""
    folder = deployment.pillar_dir
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def trusted(deployment: Deployment) -> list[str]:
    """Return the CAs of the settings, PEM."""
    found = certificates(deployment.settings()["ca_certificate"])
    return [each.public_bytes(Encoding.PEM).decode() for each in found]


def accepts(authorities: str, deployment: Deployment, secret: str) -> bool:
    """Return whether others that trust these CAs accept a secret's certificate."""
    if not (name := LEAVES[secret]):
        leaf = certificates(SecretStore(deployment).read(secret)["certificate"])[0]
        return any(signed_by(leaf, each) for each in certificates(authorities))
    store = Store(certificates(authorities))
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
    leaf = certificates(SecretStore(deployment).read(secret)["certificate"])[0]
    try:
        verifier.verify(leaf, [])
    except VerificationError:
        return False
    return True


def applied(deployment: Deployment) -> dict[str, Trust]:
    """Return what the machines of the map say when all have loaded the pillar as it is."""
    table, store = deployment.role_table(), SecretStore(deployment)
    machines = deployment.machines()
    cas = [fingerprint(each) for each in certificates(deployment.settings()["ca_certificate"])]
    answers = {}
    for name in machines:
        own = {
            path: fingerprint(certificates(store.read(secret)["certificate"])[0])
            for secret, paths in table.leaves_of(name, machines).items()
            for path in paths
        }
        trusts = table.trusts_of(name, machines)
        answers[name] = Trust(dict.fromkeys(trusts, cas), own, {})
    return answers


def go_on(deployment: Deployment, answers: Answers | None = None) -> list[str]:
    """Begin the next phase; without answers, on machines that have everything."""
    return advance(deployment, URL, applied(deployment) if answers is None else answers)


# -- the phases ------------------------------------------------------------------------------------


def test_both_are_trusted_before_the_new_one_signs_and_until_all_have_that(
    mine: Deployment,
) -> None:
    (old,) = trusted(mine)
    assert current(mine) is None
    first = go_on(mine)
    before, new = trusted(mine)
    assert before == old
    assert {accepts(old, mine, secret) for secret in LEAVES} == {True}
    assert {accepts(new, mine, secret) for secret in LEAVES} == {False}
    second = go_on(mine)
    assert trusted(mine) == [old, new]
    assert {accepts(old, mine, secret) for secret in LEAVES} == {False}
    assert {accepts(new, mine, secret) for secret in LEAVES} == {True}
    leaves = {secret: SecretStore(mine).read(secret) for secret in LEAVES}
    third = go_on(mine)
    assert trusted(mine) == [new]
    assert {secret: SecretStore(mine).read(secret) for secret in LEAVES} == leaves
    assert current(mine) is None
    assert [lines[0].partition(":")[0] for lines in (first, second, third)] == [
        "Phase 1 of 3",
        "Phase 2 of 3",
        "Phase 3 of 3",
    ]
    again = "After stackctl up, run: stackctl secrets rotate deployment-ca."
    assert first[1] == f"Made: deployment-ca, settings. {again}"
    named = ", ".join(sorted(["deployment-ca", *LEAVES]))
    made, _, then = second[1].removeprefix("Made: ").partition(". ")
    assert (", ".join(sorted(made.split(", "))), then) == (named, again)
    assert third[1] == "Made: settings. Run: stackctl up; it ends the rotation."


def test_key_of_a_ca_that_does_not_sign_is_not_kept(mine: Deployment) -> None:
    store = SecretStore(mine)
    old = store.read("deployment-ca")
    go_on(mine)
    both = store.read("deployment-ca")
    assert both["private_key"] == old["private_key"]
    go_on(mine)
    assert store.read("deployment-ca") == {"private_key": both["next_private_key"]}


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_other_runs_leave_a_phase_as_it_is(mine: Deployment, phases: int) -> None:
    for _ in range(phases):
        go_on(mine)
    before = files(mine)
    assert initialise.initialise(mine, URL) == []
    assert files(mine) == before
    assert initialise.initialise(mine, URL, frozenset({"redis-tls"})) == ["redis-tls"]
    signer = trusted(mine)[0 if phases in (1, 3) else 1]
    assert accepts(signer, mine, "redis-tls")


def test_what_the_operator_has_written_stays(mine: Deployment) -> None:
    before = {key: text for key, text in mine.settings().items() if key != "ca_certificate"}
    for _ in range(3):
        go_on(mine)
        assert COMMENT in mine.settings_path.read_text()
        now = {key: text for key, text in mine.settings().items() if key != "ca_certificate"}
        assert now == before


def test_certificate_of_a_public_ca_stays(mine: Deployment) -> None:
    brought = Authority.new("public").server("edge", ["airflow.example.org"])
    # A chain, as public CAs give it.
    brought["certificate"] += Authority.new("public").certificate_pem
    SecretStore(mine).write("edge-tls", brought)
    for _ in range(3):
        go_on(mine)
    assert SecretStore(mine).read("edge-tls") == brought
    assert accepts(trusted(mine)[0], mine, "redis-tls")


def test_pillar_of_an_account_is_to_be_committed(mine: Deployment) -> None:
    shutil.copytree(mine.pillar_dir, mine.root / "pillar/prod")
    shutil.copytree(mine.state_dir, mine.root / ".stack/prod")
    prod = Deployment("prod", mine.root)
    assert go_on(prod)[1].endswith(
        "Commit pillar/prod; then after stackctl up -d prod, run: stackctl secrets rotate"
        " deployment-ca -d prod."
    )


# -- what is refused -------------------------------------------------------------------------------


def less(answers: Mapping[str, Trust], path: str, name: str) -> Trust:
    """Return what a machine says when a file of its lacks the last CA."""
    had = answers[name].authorities
    return replace(answers[name], authorities={**had, path: had[path][:-1]})


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        ("web-2", "does not answer", "web-2 does not answer"),
        ("lb-1", "is stopped", "lb-1 is stopped"),
        ("redis-1", {"authorities": {}}, "/etc/redis/tls/ca.pem of redis-1 does not hold the CAs"),
        (
            "postgres-1",
            {"not_loaded": {"etcd": ["/etc/etcd/tls/ca.pem"]}},
            "etcd on postgres-1 has not loaded /etc/etcd/tls/ca.pem",
        ),
    ],
)
@pytest.mark.parametrize("phase", [1, 2])
def test_phase_that_has_not_reached_a_machine_is_not_left(
    mine: Deployment, phase: int, name: str, fault: str | dict[str, Any], reason: str
) -> None:
    for _ in range(phase):
        go_on(mine)
    answers: dict[str, Trust | str] = {**applied(mine)}
    whole = answers[name]
    assert isinstance(whole, Trust)
    answers[name] = fault if isinstance(fault, str) else replace(whole, **fault)
    before = files(mine)
    with pytest.raises(SecretsError) as refused:
        go_on(mine, answers)
    assert refused.value.what.startswith(f"Phase {phase} of the rotation has not reached every")
    assert reason in refused.value.what
    assert refused.value.hint == "Run: stackctl up; then this again."
    assert files(mine) == before


def test_every_file_that_trusts_counts(mine: Deployment) -> None:
    go_on(mine)
    answers = applied(mine)
    faults = 0
    for name, trust in answers.items():
        for path in trust.authorities:
            with pytest.raises(SecretsError, match=rf": {path} of {name} does not hold the CAs"):
                go_on(mine, {**answers, name: less(answers, path, name)})
            faults += 1
    # Of a load balancer, of two web machines, of PostgreSQL and of Redis.
    assert faults == 1 + 2 * 3 + 2 + 1
    everywhere = {name: replace(trust, authorities={}) for name, trust in answers.items()}
    with pytest.raises(SecretsError, match=r"does not hold the CAs of the settings \(and 9 more\)"):
        go_on(mine, everywhere)


def test_every_certificate_counts_before_the_old_ca_goes(mine: Deployment) -> None:
    go_on(mine)
    before = applied(mine)
    go_on(mine)
    answers = applied(mine)
    faults = []
    for name, trust in answers.items():
        for path in trust.certificates:
            stale = {**trust.certificates, path: before[name].certificates[path]}
            with pytest.raises(SecretsError, match=rf": {path} of {name} is not the certificate"):
                go_on(mine, {**answers, name: replace(trust, certificates=stale)})
            faults.append(path)
    assert sorted(faults) == [
        "/etc/etcd/tls/certificate.pem",
        "/etc/haproxy/client.pem",
        "/etc/haproxy/tls.pem",
        "/etc/nginx/tls/certificate.pem",
        "/etc/nginx/tls/certificate.pem",
        "/etc/postgresql/tls/certificate.pem",
        "/etc/redis/tls/certificate.pem",
    ]
    go_on(mine)


@pytest.mark.parametrize("phase", [1, 2])
def test_impatience_leads_nowhere(mine: Deployment, phase: int) -> None:
    """The machines are as they were before the phase."""
    for _ in range(phase - 1):
        go_on(mine)
    answers = applied(mine)
    go_on(mine, answers)
    before = files(mine)
    for _ in range(2):
        with pytest.raises(SecretsError, match=f"Phase {phase} of the rotation has not reached"):
            go_on(mine, answers)
    assert files(mine) == before


def test_spare_machine_holds_nothing(mine: Deployment) -> None:
    go_on(mine)
    with patch.object(Role, "serves", lambda _, minion_id: minion_id != "redis-9"):
        go_on(mine, {**applied(mine), "redis-9": Trust({}, {}, {})})
    assert current(mine).phase == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("redis-1", "/etc/node-exporter/tls.pem"),
        ("lb-1", "/etc/haproxy/metrics.pem"),
        ("salt-1", "/etc/journal-upload/client.pem"),
        ("monitor-1", "/etc/haproxy/logs.pem"),
    ],
)
def test_certificate_that_all_machines_share_is_asked_of_each(
    mine: Deployment, name: str, path: str
) -> None:
    """While the map has the machine whose role it is."""
    whole = replace(mine, map_name="production")
    go_on(mine)
    go_on(mine, applied(whole))
    there = applied(whole)
    held = {key: value for key, value in there[name].certificates.items() if key != path}
    lacking = {**there, name: replace(there[name], certificates=held)}
    with pytest.raises(
        SecretsError, match=f"{path} of {name} is not the certificate of the secret"
    ):
        go_on(mine, lacking)
    assert go_on(mine, there)[0].startswith("Phase 3")


def test_senders_of_logs_trust_both_before_the_new_one_signs(mine: Deployment) -> None:
    """Also on a machine that trusts the CA for nothing else."""
    go_on(mine)
    there = applied(replace(mine, map_name="production"))
    with pytest.raises(SecretsError, match=r"/etc/journal-upload/ca\.pem of salt-1 does not hold"):
        go_on(mine, {**there, "salt-1": replace(there["salt-1"], authorities={})})
    assert go_on(mine, there)[0].startswith("Phase 2")


def test_deployment_without_machines_has_nothing_to_wait_for(mine: Deployment) -> None:
    (old,) = trusted(mine)
    for _ in range(3):
        go_on(mine, {})
    (new,) = trusted(mine)
    assert new != old


def test_settings_with_three_cas_are_no_rotation(mine: Deployment) -> None:
    go_on(mine)
    text = mine.settings()["ca_certificate"] + Authority.new("local").certificate_pem
    settings_file.write(mine.settings_path, "ca_certificate", text)
    with pytest.raises(SecretsError, match=r"settings:ca_certificate .* holds 3 certificates"):
        current(mine)


def test_key_of_another_ca_is_refused(mine: Deployment) -> None:
    SecretStore(mine).write("deployment-ca", Authority.new("local").fields)
    before = files(mine)
    with pytest.raises(SecretsError, match="has no certificate of the key in the secret"):
        go_on(mine)
    assert files(mine) == before


# -- interruptions ---------------------------------------------------------------------------------


def interrupt(patch: pytest.MonkeyPatch, after: int) -> None:
    """Interrupt the run after so many files."""
    left = [after]

    def interrupted(write: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return write(*args)

        return run

    patch.setattr(SecretStore, "write", interrupted(SecretStore.write))
    patch.setattr(settings_file, "write", interrupted(settings_file.write))


@pytest.mark.parametrize(("phase", "after"), [(1, 0), (1, 1), *((2, n) for n in range(4)), (3, 0)])
@pytest.mark.parametrize("rollout", ["with up", "without"])
def test_interrupted_phase_is_completed(
    mine: Deployment, monkeypatch: pytest.MonkeyPatch, phase: int, after: int, rollout: str
) -> None:
    (old,) = trusted(mine)
    for _ in range(phase - 1):
        go_on(mine)
    machines = applied(mine)
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(KeyboardInterrupt):
            go_on(mine, machines)
    if rollout == "with up":
        initialise.initialise(mine, URL)  # as `up` of `local` does
        machines = applied(mine)
    for secret in LEAVES:
        assert accepts(mine.settings()["ca_certificate"], mine, secret)
    for _ in range(6):
        try:
            said = go_on(mine, machines)
        except SecretsError:
            said = [""]
        machines = applied(mine)
        if said[0].startswith("Phase 3"):
            break
    (new,) = trusted(mine)
    assert new != old
    for secret in LEAVES:
        assert accepts(new, mine, secret)
    assert initialise.initialise(mine, URL) == []


# -- what is told ----------------------------------------------------------------------------------


def test_rotation_says_since_when_it_is_half_done(mine: Deployment) -> None:
    go_on(mine)
    today = dt.datetime.now(dt.UTC)
    found = current(mine)
    assert found is not None
    assert str(found) == (
        f"the rotation of the deployment's CA is half done since {today.date().isoformat()}, in"
        " phase 1 of 3; after stackctl up, run: stackctl secrets rotate deployment-ca"
    )
    assert abs(found.begun - today) < dt.timedelta(minutes=1)
    assert not found.overdue
    assert replace(found, begun=today - dt.timedelta(days=OVERDUE_DAYS + 1)).overdue
    go_on(mine)
    again = current(mine)
    assert again is not None
    assert (again.phase, again.begun) == (2, found.begun)


def test_phase_is_known_without_a_key(mine: Deployment) -> None:
    go_on(mine)
    SecretStore(mine).private_key.unlink()
    found = current(mine)
    assert found is not None
    assert found.phase == 1


# -- the machines ----------------------------------------------------------------------------------


class MasterShell:
    """The master's shell, which gives one answer and keeps the question."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = answer
        self.question: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def trust(self, machine: Machine) -> None:
        assert machine.name == "salt-1"

    def script(self, _machine: Machine, args: list[str], **_: object) -> str:
        self.question = args
        return json.dumps(self.answer)


@pytest.fixture
def ask(mine: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the answers of machines in these states."""
    monkeypatch.setattr(ca_rotation, "enter", lambda _: nullcontext())
    monkeypatch.setattr(ca_rotation, "ec2_client", lambda _: "the API")

    def run(states: Mapping[str, str], said: Mapping[str, Any]) -> Answers:
        machines = {
            name: Machine(name, f"i-{name}", state, "10.20.1.4", "")
            for name, state in states.items()
        }
        shell = MasterShell(said)
        monkeypatch.setattr(ca_rotation, "list_machines", lambda *_: machines)
        monkeypatch.setattr(ca_rotation, "Shell", lambda *_: shell)
        answers = ca_rotation.ask(mine, log)
        if machines:
            assert shell.question[-3:] == ["list", ",".join(machines), "trust.told"]
        return answers

    return run


def test_every_machine_that_exists_is_asked(ask: Any) -> None:
    said = {"authorities": {"/a": ["f"]}, "certificates": {"/b": "g"}, "not_loaded": {}}
    states = {"salt-1": "running", "web-1": "running", "web-2": "running", "web-9": "stopped"}
    answers = {"salt-1": said, "web-1": "'trust.told' is not\n available."}
    assert ask(states, answers) == {
        "salt-1": Trust({"/a": ["f"]}, {"/b": "g"}, {}),
        "web-1": "answers: 'trust.told' is not available.",
        "web-2": "does not answer",
        "web-9": "is stopped",
    }
    assert ask({}, {}) == {}


def test_machines_are_asked_only_while_a_rotation_is_on(
    mine: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> Answers:
        raise NotUpError("The local cloud does not run.")

    monkeypatch.setattr(ca_rotation, "ask", down)
    ca_rotation.rotate(mine, URL, log)
    before = files(mine)
    with pytest.raises(NotUpError):
        ca_rotation.rotate(mine, URL, log)
    assert files(mine) == before


def test_verb_begins_a_phase_and_says_what_comes_next(
    mine: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine.root / "pyproject.toml").touch()
    monkeypatch.setattr(cli, "repository_root", lambda: mine.root)
    before = files(mine)
    assert cli.main(["secrets", "rotate", "redis-tls", "deployment-ca"]) == 1
    assert files(mine) == before
    capsys.readouterr()
    assert cli.main(["secrets", "rotate", "deployment-ca"]) == 0
    assert "run: stackctl secrets rotate deployment-ca." in capsys.readouterr().out
    monkeypatch.setattr(ca_rotation, "ask", lambda *_: {"web-1": "does not answer"})
    assert cli.main(["secrets", "rotate", "deployment-ca"]) == 1
    error = capsys.readouterr().err
    assert "has not reached every machine: web-1 does not answer." in error
