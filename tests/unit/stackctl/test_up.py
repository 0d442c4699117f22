"""`up` applies nothing when the machines predict no change, and otherwise runs everything."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
import yaml
from rich.console import Console

from stackctl import (
    billing,
    ca_rotation,
    credentials,
    host_keys,
    limits,
    packages,
    preflight,
    salt,
    site,
    ssh_rotation,
    tree,
    up,
    volumes,
)
from stackctl.deployment import Deployment
from stackctl.errors import (
    BusyError,
    ConvergeError,
    LaunchError,
    PreflightError,
    SecretsError,
    StackError,
    UnreachableError,
)
from stackctl.locks import Holder
from stackctl.machines import Machine
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt import Master
from stackctl.secret_store import SecretStore
from stackctl.states import Migration, StateRun
from stackctl.verdict import Result, Verdict

MACHINES = ("salt-1", "lb-1", "web-1")


class FakeMaster:
    """A master with given predictions, which keeps its calls."""

    def __init__(self, predicted: list[StateRun] | ConvergeError) -> None:
        self.predicted = predicted
        self.did: list[str] = []

    def sync(self) -> None:
        self.did.append("sync")

    def predict(self, migration: Migration, machines: Collection[str]) -> list[StateRun]:
        assert migration.machine == "web-1"
        assert machines == MACHINES
        self.did.append("predict")
        if isinstance(self.predicted, ConvergeError):
            raise self.predicted
        return self.predicted

    def wait_for_states(self, _note: object) -> None:
        self.did.append("wait")

    def note_converged(self) -> None:
        self.did.append("note")

    def orchestrate(
        self, name: str, report: Callable[[str], None], _pillar: object = None
    ) -> list[StateRun]:
        report(name)
        self.did.append(name)
        return [StateRun("web-1", 9, ("airflow-admin",), ())]


@pytest.fixture
def progress(log: Log) -> Progress:
    """Steps that nobody sees."""
    return Progress(Console(file=StringIO()), log)


def converge(
    progress: Progress,
    master: FakeMaster,
    *,
    pushed: bool = False,
    predict: Collection[str] = MACHINES,
) -> list[str]:
    migration = Migration("web-1", "airflow.migrate")
    up.converge(cast(Master, master), migration, progress, pushed=pushed, predict=predict)
    return master.did


UNCHANGED = StateRun("web-1", 9, (), ())
ROTATED = StateRun("web-1", 9, ("airflow-admin",), ())


def test_prediction_without_changes_applies_nothing(progress: Progress) -> None:
    assert converge(progress, FakeMaster([UNCHANGED])) == ["predict", "note"]
    assert progress.changes == 0


@pytest.mark.parametrize(
    "predicted", [[UNCHANGED, ROTATED], ConvergeError("web-1: airflow-database: it is behind.")]
)
def test_predicted_or_unpredictable_change_is_applied(
    progress: Progress, log: Log, predicted: list[StateRun] | ConvergeError
) -> None:
    assert converge(progress, FakeMaster(predicted)) == ["predict", "wait", "orch.deploy", "note"]
    assert progress.changes == 1
    told = ("comparing every machine", "orchestration deploy", "== states: 1 change ")
    assert all(line in log.path.read_text() for line in told)


def test_new_tree_is_synced_before_prediction(progress: Progress) -> None:
    assert converge(progress, FakeMaster([UNCHANGED]), pushed=True) == ["sync", "predict", "note"]


def test_new_machines_skip_prediction(progress: Progress) -> None:
    assert converge(progress, FakeMaster([UNCHANGED]), predict=()) == [
        "wait",
        "orch.deploy",
        "note",
    ]


def test_up_renames_pillar_keys_of_real_deployment(checkout: Path, log: Log) -> None:
    prod = Deployment("prod", checkout)
    with_every_secret(prod)
    file = prod.pillar_dir / "secrets" / "redis-airflow.sls"
    file.write_text("#!yaml|gpg\nsecrets:\n  redis_airflow:\n    password: |\n      ciphertext\n")
    screen = StringIO()
    up.prepare_secrets(prod, Progress(Console(file=screen, width=120), log), {})
    assert "  redis-airflow:\n    password: |\n      ciphertext\n" in file.read_text()
    assert "renamed 1 pillar keys" in screen.getvalue()
    assert "secrets: commit pillar/prod: redis-airflow" in screen.getvalue()
    again = Progress(Console(file=StringIO()), log)
    up.prepare_secrets(prod, again, {})
    assert again.changes == 0


def with_every_secret(deployment: Deployment) -> None:
    """Give a deployment settings and a file for every secret that a machine reads."""
    store = SecretStore(deployment)
    store.folder.mkdir(parents=True)
    texts = dict.fromkeys(("ca_certificate", "ssh_public_key"), "text")
    decided = {
        "deployment": deployment.name,
        "base_url": "https://airflow.example.org",
        "load_examples": True,
        "operator_cidrs": ["198.51.100.7/32"],
    }
    deployment.settings_path.write_text(yaml.safe_dump({"settings": decided | texts}))
    for secret in store.missing():
        (store.folder / f"{secret}.sls").touch()


def test_up_names_secret_that_real_deployment_lacks(checkout: Path, log: Log) -> None:
    prod = Deployment("prod", checkout)
    with_every_secret(prod)
    (prod.pillar_dir / "secrets" / "postgres-owner.sls").unlink()
    with pytest.raises(
        SecretsError,
        match=r"pillar/prod lacks secrets that the machines read: postgres-owner\."
        r".*stackctl secrets init -d prod",
    ):
        up.prepare_secrets(prod, Progress(Console(file=StringIO()), log), {})


def test_up_says_that_a_rotation_of_the_ca_goes_on(checkout: Path, log: Log) -> None:
    deployment = Deployment("local", checkout)
    screen = StringIO()
    progress = Progress(Console(file=screen, width=200), log)
    up.prepare_secrets(deployment, progress, {})
    assert "rotation" not in screen.getvalue()
    ca_rotation.advance(deployment, "https://127.0.0.1:8443", {})
    up.prepare_secrets(deployment, progress, {})
    assert "in phase 1 of 3; after stackctl up, run: stackctl secrets rotate deployment-ca" in (
        " ".join(screen.getvalue().split())
    )


def test_up_needs_the_settings_of_a_real_deployment(checkout: Path, log: Log) -> None:
    prod = Deployment("prod", checkout)
    with_every_secret(prod)
    prod.settings_path.unlink()
    with pytest.raises(StackError, match=r"^pillar/prod/settings\.sls does not exist"):
        up.prepare_secrets(prod, Progress(Console(file=StringIO()), log), {})


def test_up_makes_secret_that_local_lacks(checkout: Path, log: Log) -> None:
    deployment = Deployment("local", checkout)
    up.prepare_secrets(deployment, Progress(Console(file=StringIO()), log), {})
    file = deployment.pillar_dir / "secrets" / "postgres-owner.sls"
    file.unlink()
    screen = StringIO()
    again = Progress(Console(file=screen), log)
    up.prepare_secrets(deployment, again, {})
    assert file.is_file()
    assert again.changes == 1
    assert "secrets            made 1 " in screen.getvalue()
    up.prepare_secrets(deployment, again, {})
    assert again.changes == 1
    assert "secrets            unchanged " in screen.getvalue()


def test_up_stops_for_secrets_that_no_machine_could_read(checkout: Path, log: Log) -> None:
    """What only the key tells, and not the form of the file."""
    deployment, other = Deployment("local", checkout), Deployment("other", checkout)
    progress = Progress(Console(file=(screen := StringIO()), width=200), log)
    up.prepare_secrets(deployment, progress, {})
    up.check_secrets(deployment, progress)
    assert "warning" not in screen.getvalue()
    store, stranger = SecretStore(deployment), SecretStore(other)
    store.write("redis-check", {"password": "short"})
    up.check_secrets(deployment, progress)
    told = " ".join(screen.getvalue().split())
    assert "secrets/redis-check.sls: password has to be" in told
    assert "See stackctl secrets check" in told
    stranger.create_key()
    stranger.write("redis-check", {"password": "hunter2"})
    shutil.copy(stranger.path("redis-check"), store.folder)
    with pytest.raises(SecretsError, match=r"redis-check\.sls: password cannot be decrypted"):
        up.check_secrets(deployment, progress)


def test_up_goes_on_without_a_secret_that_no_machine_reads(checkout: Path, log: Log) -> None:
    deployment = Deployment("local", checkout)
    progress = Progress(Console(file=(screen := StringIO()), width=200), log)
    up.prepare_secrets(deployment, progress, {})
    SecretStore(deployment).path("deployment-ca").unlink()
    up.check_secrets(deployment, progress)
    assert "deployment-ca.sls: it does not exist" in " ".join(screen.getvalue().split())


class Shell:
    """A shell to a master whose console may show no host keys."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def trust(self, machine: Machine, timeout: float) -> None:
        assert machine.name == "salt-1"
        assert timeout < 60
        if self.error:
            raise self.error


class Session:
    """A lock on the master, which may be held."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.held: list[str] = []

    def hold(self, machine: Machine) -> None:
        if self.error:
            raise self.error
        self.held.append(machine.name)


@pytest.mark.parametrize(
    ("states", "shell", "session", "held"),
    [
        (["running"], None, None, ["salt-1"]),
        (["stopped"], None, None, []),
        ([], None, None, []),
        (["running", "running"], None, None, []),
        (["running"], LaunchError("no host keys"), None, []),
        (["running"], None, UnreachableError("no route"), []),
    ],
)
def test_master_that_can_be_reached_is_locked_before_it_is_changed(
    deployment: Deployment,
    log: Log,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    states: list[str],
    shell: Exception | None,
    session: Exception | None,
    held: list[str],
) -> None:
    machines = [Machine("salt-1", "i-1", state, "10.20.1.250", "") for state in states]
    monkeypatch.setattr(up, "find_machines", lambda *_: machines)
    lock = Session(session)
    run = up.Run(deployment, progress, log, Holder.this("up"), wait=False)
    up._hold_early(run, cast(Any, None), cast(Any, Shell(shell)), cast(Any, lock))
    assert lock.held == held


def test_lock_of_another_run_stops_this_one(
    deployment: Deployment, log: Log, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [Machine("salt-1", "i-1", "running", "10.20.1.250", "")]
    monkeypatch.setattr(up, "find_machines", lambda *_: machines)
    run = up.Run(deployment, progress, log, Holder.this("up"), wait=False)
    busy = cast(Any, Session(BusyError("Another run changes this deployment.")))
    with pytest.raises(BusyError):
        up._hold_early(run, cast(Any, None), cast(Any, Shell(None)), busy)


class MasterShell:
    """The master's shell, which says whether its state was applied with its present key."""

    def __init__(self, ready: str) -> None:
        self.ready = ready

    def script(self, _machine: Machine, args: list[str], **_: object) -> str:
        assert args[0] == "master-is-ready"
        return self.ready


@pytest.mark.parametrize(
    ("pushed", "ready", "applied"),
    [(False, "yes\n", False), (False, "", True), (True, "yes\n", True)],
)
def test_state_of_master_is_applied_for_a_new_tree_and_for_a_new_key(
    deployment: Deployment,
    log: Log,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    pushed: bool,
    ready: str,
    applied: bool,
) -> None:
    jobs: list[list[str]] = []

    class Jobs:
        def run(self, _machine: Machine, args: list[str], **_: object) -> str:
            jobs.append(args)
            return '{"local": {"a": {"result": true, "changes": {}}}}'

    monkeypatch.setattr(tree, "push", lambda *_: (pushed, "abc"))
    monkeypatch.setattr(tree, "untracked_warning", lambda *_: "")
    run = up.Run(deployment, progress, log, Holder.this("up"), wait=False)
    machines = up.Machines(run, cast(Any, MasterShell(ready)), cast(Any, Jobs()))
    master = Machine("salt-1", "i-1", "running", "10.20.1.250", "")
    assert machines.start_master(master, {}) == (pushed, applied)
    assert len(jobs) == applied
    assert progress.changes == pushed


@pytest.mark.parametrize(
    ("found", "problem"),
    [('{"local": {"a": {"result": false, "comment": "no space"}}}', "a: no space"), ("", "no ans")],
)
def test_failed_state_of_the_master_is_an_error(
    deployment: Deployment, log: Log, progress: Progress, found: str, problem: str
) -> None:
    class Jobs:
        def run(self, _machine: Machine, _args: list[str], **options: Any) -> str:
            assert 2 in options["accept"], "failures are read from the output"
            config = yaml.safe_load(options["stdin"])
            assert (config["id"], config["file_client"]) == ("salt-1", "local")
            assert config["pillar_roots"]["base"][0] == "/srv/stack/pillar/local"
            return found

    run = up.Run(deployment, progress, log, Holder.this("up"), wait=False)
    machines = up.Machines(run, cast(Any, None), cast(Any, Jobs()))
    with pytest.raises(ConvergeError, match=f"^salt-1: {problem}"):
        machines._bootstrap_master(Machine("salt-1", "i-1", "running", "10.20.1.250", ""))


# -- the whole run ---------------------------------------------------------------------------------


class Account:
    """An account with an API that runs or not."""

    def __init__(self, *, runs: bool = True) -> None:
        self.running = runs
        self.files = {"config": "[default]"}
        self.checked = 0

    def check(self) -> None:
        self.checked += 1

    def runs(self) -> bool:
        return self.running

    def pending(self) -> list[str]:
        return ["start the API"]

    def start(self, _progress: Progress) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}

    def environment(self) -> dict[str, str]:
        return {}

    def settings(self) -> dict[str, object]:
        return {}

    def master_files(self, environment: dict[str, str]) -> dict[str, str]:
        assert environment == {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        return self.files


@pytest.mark.parametrize(
    ("runs", "existing", "steps"),
    [
        (False, [], []),
        (True, ["salt-1", "web-1"], ["launch lb-1", "warning: the quota is unknown"]),
        (
            True,
            ["salt-1", "web-1", "lb-1"],
            [
                "warning: the quota is unknown",
                "compare every machine with the tree, and converge what differs",
            ],
        ),
    ],
)
def test_plan_has_the_steps_that_are_missing(
    deployment: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    runs: bool,
    existing: list[str],
    steps: list[str],
) -> None:
    account = Account(runs=runs)
    deployment.map_path.write_text("salt: [salt-1]\nlb: [lb-1]\nweb: [web-1]\n")
    monkeypatch.setattr(up, "open_account", lambda _: account)
    monkeypatch.setattr(up, "enter", lambda _: nullcontext())
    monkeypatch.setattr(up, "list_machines", lambda *_: dict.fromkeys(existing))
    monkeypatch.setattr(up, "find_machines", lambda *_: [])
    monkeypatch.setattr(limits, "check", lambda *_: ["the quota is unknown"])
    monkeypatch.setattr(preflight, "check_programs", lambda: None)
    planned = up.plan(deployment)
    assert planned == [
        "deployment local, map small: salt-1, lb-1, web-1 in eu-west-1",
        "start the API",
        *steps,
    ]
    assert account.checked == 1


def test_plan_tells_what_would_be_removed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*deployment.machines(), "web-4", "web-3", "postgres-2", "salt-2", "cache-1"]
    monkeypatch.setattr(up, "open_account", lambda _: Account())
    monkeypatch.setattr(up, "enter", lambda _: nullcontext())
    monkeypatch.setattr(up, "list_machines", lambda *_: dict.fromkeys(names))
    monkeypatch.setattr(up, "find_machines", lambda *_: [])
    monkeypatch.setattr(limits, "check", lambda *_: [])
    monkeypatch.setattr(preflight, "check_programs", lambda: None)
    holding = (
        "postgres-2, which may hold data (Airflow's metadata): only stackctl up --with-data removes"
        " them"
    )
    web = ["drain and destroy web-4", "drain and destroy web-3"]
    stay = "web-4, web-3, which stay until stackctl up --map small removes them"
    for removal, steps in (
        ("nothing", [f"warning: small.map does not name {holding}; {stay}"]),
        ("surplus", [*web, f"warning: small.map does not name {holding}"]),
        ("with-data", ["drain and destroy postgres-2", *web]),
    ):
        planned = up.plan(deployment, cast(Any, removal))
        assert [line for line in planned if "destroy" in line or "warning" in line] == steps


def test_plan_asks_the_account(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise PreflightError("The quota is too small.")

    monkeypatch.setattr(up, "open_account", lambda _: Account())
    monkeypatch.setattr(up, "enter", lambda _: nullcontext())
    monkeypatch.setattr(up, "list_machines", lambda *_: {})
    monkeypatch.setattr(up, "find_machines", lambda *_: [])
    monkeypatch.setattr(preflight, "check_programs", lambda: None)
    monkeypatch.setattr(limits, "check", refuse)
    with pytest.raises(PreflightError, match="quota is too small"):
        up.plan(deployment)


class Run:
    """Everything below `up`, of which each part says when it was called."""

    def __init__(self, deployment: Deployment, patch: pytest.MonkeyPatch) -> None:
        self.deployment = deployment
        self.did: list[str] = []
        self.options: dict[str, Any] = {}
        self.account = Account()
        self.missing: list[str] = []
        self.unknown: list[str] = []
        self.too_small = False
        self.other: BusyError | None = None
        self.changed = False
        self.ready = "yes"
        self.pushed = False
        self.launched: list[Verdict] = []
        self.predicts: Collection[str] = ()
        self.master = Machine("salt-1", "i-1", "running", "10.20.1.250", "")
        deployment.pillar_dir.mkdir(exist_ok=True)
        deployment.settings_path.write_text("settings: {base_url: 'https://example.org'}\n")
        kept = StateRun("operator", 3, (), ())
        for module, name, value in (
            (up, "open_account", lambda _: self.account),
            (preflight, "check_programs", lambda: None),
            (preflight, "missing_packages", lambda: self.missing),
            (packages, "install", lambda names, _: self.say(f"install {' '.join(names)}")),
            (up, "prepare_secrets", lambda *_: self.say("secrets")),
            (up, "check_secrets", lambda *_: None),
            (salt, "apply_locally", lambda *_: self.say(f"aws at {self.endpoint()}", kept)),
            (up, "ec2_client", lambda _: self.say("client")),
            (up, "find_machines", lambda *_: [self.master]),
            (volumes, "differences", lambda *_: []),
            (host_keys, "publish", self.publish),
            (billing, "find_machines", lambda *_: [self.master]),
            (limits, "check", self.limits),
            (up, "Launcher", self.launcher),
            (up, "Shell", lambda *_: self),
            (up, "Session", self.session),
            (up, "AccountLock", self.account_lock),
            (ssh_rotation, "follow_store", lambda *_: self.say("key", self.changed)),
            (tree, "push", lambda *_: self.say("push", (self.pushed, "abc" * 9))),
            (tree, "untracked_warning", lambda *_: "new.sls"),
            (up, "converge", self.converge),
            (site, "require_healthy", lambda _: self.say("site")),
        ):
            patch.setattr(module, name, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)

    def limits(self, deployment: Deployment, _client: object) -> list[str]:
        assert list(deployment.machines()) == list(self.deployment.machines())
        if self.too_small:
            raise PreflightError("The quota is too small.")
        self.say("limits")
        return self.unknown

    def say(self, what: str, answer: Any = None) -> Any:
        self.did.append(what)
        return answer

    def endpoint(self) -> str:
        return os.environ["AWS_ENDPOINT_URL"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.say("end")

    # -- the launcher

    def launcher(self, *_: object, **options: Any) -> Self:
        self.options |= options
        return self

    def step(self, title: str, request: Any, new: Collection[str] = ()) -> Result:
        self.say(f"launch {title}: {' '.join(request.args)}{' (new)' if new else ''}")
        if title == "machines":
            assert request.names == list(self.deployment.machines())
            return Result(tuple(self.launched))
        assert request.names == ["salt-1"]
        return Result((Verdict("salt-1", "kept", self.master, self.master),))

    def publish(self, _: object, machines: list[Machine], known: object) -> None:
        assert (machines, known) == ([self.master], self.known_keys())
        self.say("publish")

    # -- the session and the shell

    @property
    def jobs(self) -> Self:
        return self

    def session(self, *_: object, wait: bool, **__: object) -> Self:
        self.options["wait"] = wait
        return self

    def hold(self, machine: Machine) -> None:
        self.say(f"hold {machine.name}")

    @contextmanager
    def account_lock(self, *_: object, wait: bool) -> Iterator[SimpleNamespace]:
        assert wait == self.options["wait"]
        if self.other:
            raise self.other
        self.say("lock")
        yield SimpleNamespace(release=lambda: self.say("unlock"))

    def trust(self, *_: object, **__: object) -> None: ...

    def known_keys(self) -> dict[str, list[str]]:
        return {"i-1": ["ssh-ed25519 AAAA"]}

    def script(self, machine: Machine, args: list[str], **options: Any) -> str:
        assert machine == self.master
        if args[0] == "unpack-private":
            with tarfile.open(fileobj=io.BytesIO(options["stdin"])) as archive:
                self.say(f"~/.aws has {' '.join(archive.getnames())}")
        return self.ready

    def run(self, *_: object, **__: object) -> str:
        self.say("bootstrap")
        state = {"__id__": "salt-master", "result": True, "changes": {"pid": 1}}
        return json.dumps({"local": {"a": state}})

    def converge(self, _master: object, migration: Migration, *_: object, **options: Any) -> None:
        assert migration.machine == "web-1"
        self.say("converge")
        self.options |= options


@pytest.fixture
def whole(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in which nothing has to be done."""
    return Run(deployment, monkeypatch)


def test_run_without_changes_looks_at_everything(whole: Run, progress: Progress, log: Log) -> None:
    result = up.up(whole.deployment, progress, log)
    assert result == up.Result("https://example.org", changed=False)
    assert whole.did == [
        "secrets",
        "client",
        "limits",
        "lock",
        "hold salt-1",
        "aws at http://127.0.0.1:1",
        "publish",
        "key",
        "launch salt-1: --profile salt salt-1",
        "hold salt-1",
        "unlock",
        "push",
        "~/.aws has config",
        "launch machines: --map /etc/salt/cloud.maps.d/small.map --parallel",
        "converge",
        "end",
        "end",
        "site",
    ]
    assert whole.options["on_failure"] == "keep"
    assert whole.options["wait"] is False
    assert whole.options["pushed"] is False
    assert whole.options["predict"] == tuple(whole.deployment.machines())
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_other_run_stops_this_one_before_anything_is_made(
    whole: Run, progress: Progress, log: Log
) -> None:
    whole.other = BusyError("Another run changes this deployment: ann.")
    with pytest.raises(BusyError, match="ann"):
        up.up(whole.deployment, progress, log)
    assert [what for what in whole.did if what != "end"] == ["secrets", "client", "limits"]


def test_new_tree_has_the_masters_minion_connected(
    whole: Run, progress: Progress, log: Log
) -> None:
    whole.pushed = True
    whole.account.files = {}
    assert up.up(whole.deployment, progress, log, on_failure="destroy", wait=True).changed
    push = whole.did.index("push")
    assert whole.did[push + 1 : push + 3] == [
        "bootstrap",
        "launch salt-1's minion: --profile salt salt-1 (new)",
    ]
    assert whole.options["pushed"] is True
    assert (whole.options["on_failure"], whole.options["wait"]) == ("destroy", True)


def test_new_machines_are_not_asked_for_a_prediction(
    whole: Run, progress: Progress, log: Log
) -> None:
    machine = Machine("web-1", "i-2", "running", "10.20.1.9", "")
    whole.launched = [Verdict("web-1", "launched", None, machine)]
    up.up(whole.deployment, progress, log)
    assert whole.options["predict"] == ()


def test_account_that_refuses_stops_the_run_before_anything_is_made(
    whole: Run, progress: Progress, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole.too_small = True
    monkeypatch.setattr(up, "ec2_client", lambda _: SimpleNamespace(meta=Meta))
    with pytest.raises(PreflightError, match=r"^The quota is too small\. 1 instance runs: salt-1"):
        up.up(whole.deployment, progress, log)
    assert [what for what in whole.did if what != "end"] == ["secrets"]


def test_what_the_account_does_not_say_is_a_warning(whole: Run, log: Log) -> None:
    whole.unknown = ["the quota is unknown", "the plan is unknown"]
    screen = StringIO()
    up.up(whole.deployment, Progress(Console(file=screen, width=200), log), log)
    assert "! AWS account: the quota is unknown; the plan is unknown" in screen.getvalue()


def test_end_of_credentials_is_told_for_a_real_account(
    whole: Run, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "warning", lambda: "the AWS credentials end in 9 minutes")
    screen = StringIO()
    up.up(whole.deployment, Progress(Console(file=screen, width=200), log), log)
    assert "9 minutes" not in screen.getvalue()  # the local cloud's have no end
    prod = Deployment("prod", whole.deployment.root)
    prod.pillar_dir.mkdir()
    prod.settings_path.write_text("settings: {base_url: 'https://example.org'}\n")
    up.up(prod, Progress(Console(file=screen, width=200), log), log)
    assert "! AWS account: the AWS credentials end in 9 minutes" in screen.getvalue()


def test_failed_launch_says_what_runs(
    whole: Run, progress: Progress, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LaunchError("1 of 6 machines is not ready: web-1.", "Try again.")

    monkeypatch.setattr(whole, "step", fail)
    monkeypatch.setattr(up, "ec2_client", lambda _: SimpleNamespace(meta=Meta))
    with pytest.raises(LaunchError) as caught:
        up.up(whole.deployment, progress, log)
    assert str(caught.value) == (
        "1 of 6 machines is not ready: web-1. Try again. 1 instance runs: salt-1; stackctl down"
        " removes it, stackctl up goes on."
    )


class Meta:
    """What `billing` needs of a client."""

    region_name = "eu-west-1"


def test_missing_programs_are_installed_first(whole: Run, progress: Progress, log: Log) -> None:
    whole.missing = ["gnupg", "git"]
    assert up.up(whole.deployment, progress, log).changed
    assert whole.did[0] == "install gnupg git"


@pytest.mark.parametrize(
    ("removal", "retired"),
    [
        ("nothing", []),
        ("surplus", ["retire lb-2 web-3"]),
        ("with-data", ["retire lb-2 redis-2 web-3 with data"]),
    ],
)
def test_machines_that_the_map_does_not_name_go_when_all_others_run(
    whole: Run, log: Log, monkeypatch: pytest.MonkeyPatch, removal: Any, retired: list[str]
) -> None:
    class Master:
        def accepted(self) -> list[str]:
            return ["web-3"]  # its machine is gone since an interrupted run

        def wait_for_states(self, _: object) -> None:
            whole.say("wait")

        def retire(self, names: Sequence[str], _: object, *, with_data: bool) -> None:
            whole.say(f"retire {' '.join(names)}{' with data' if with_data else ''}")

    found = [
        whole.master,
        *(Machine(name, name, "running", "", "") for name in ("lb-2", "redis-2")),
    ]
    monkeypatch.setattr(salt, "Master", lambda *_: Master())
    monkeypatch.setattr(up, "find_machines", lambda *_: found)
    monkeypatch.setattr(host_keys, "publish", lambda *_: None)
    screen = StringIO()
    progress = Progress(Console(file=screen, width=250), log)
    assert up.up(whole.deployment, progress, log, removal=removal).changed == bool(retired)
    launched = next(i for i, did in enumerate(whole.did) if did.startswith("launch machines"))
    done = whole.did[launched + 1 : whole.did.index("converge")]
    assert done == (["wait", *retired] if retired else [])
    assert whole.options["predict"] == (() if retired else tuple(whole.deployment.machines()))
    if removal != "with-data":
        assert "redis-2, which may hold data (Celery's queue and" in screen.getvalue()
    assert ("lb-2, which stay until stackctl up --map small" in screen.getvalue()) == (not retired)


def test_map_is_remembered_and_told(whole: Run, log: Log) -> None:
    screen = StringIO()
    progress = Progress(Console(file=screen, width=200), log)
    before = whole.deployment.settings_path.read_text()
    up.remember_map(whole.deployment, progress)
    assert whole.deployment.settings_path.read_text() == before
    up.remember_map(Deployment("local", whole.deployment.root, "production"), progress)
    assert progress.changes == 1
    again = Deployment("local", whole.deployment.root)
    assert (again.map_name, again.settings()["map"]) == ("production", "production")
    assert len(again.machines()) == 13
    up.remember_map(again, progress)
    back = Deployment("local", whole.deployment.root, "small")
    up.remember_map(back, progress)
    assert Deployment("local", whole.deployment.root).map_name == "small"
    lines = screen.getvalue()
    assert "map: small: 6 machines" in lines.replace("  ", " ") or "small: 6 machines" in lines
    assert "small -> production: 13 machines" in lines


def test_map_of_a_real_deployment_has_to_be_committed(prod: Deployment, log: Log) -> None:
    screen = StringIO()
    progress = Progress(Console(file=screen, width=200), log)
    up.remember_map(Deployment("prod", prod.root, "production"), progress)
    assert "commit pillar/prod/settings.sls" in screen.getvalue()


def test_rotated_key_is_a_change(whole: Run, progress: Progress, log: Log) -> None:
    whole.changed = True
    assert up.up(whole.deployment, progress, log).changed


def test_changes_are_counted_in_words() -> None:
    assert [up._count(number) for number in (0, 1, 2)] == ["0 changes", "1 change", "2 changes"]


def test_detail_of_the_master_is_its_revision(deployment: Deployment, whole: Run, log: Log) -> None:
    screen = StringIO()
    progress = Progress(Console(file=screen, width=200), log)
    up.up(deployment, progress, log)
    assert "revision abcabcabcabc " in screen.getvalue()
    assert "Salt master: new.sls" in screen.getvalue()
