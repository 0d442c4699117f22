"""Salt on this host and on the master: which commands run, and how their answers are read."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from stackctl import salt
from stackctl.deployment import Deployment
from stackctl.errors import BusyError, CommandError, ConvergeError, LaunchError, UnreachableError
from stackctl.locks import Jobs
from stackctl.machines import Machine
from stackctl.run import Log
from stackctl.salt import Master, Operator, operator_configuration
from stackctl.ssh import Shell
from stackctl.states import Migration, StateRun
from stateresults import CHANGED, FAILED, GOOD, PREDICTED

ROOT = Path(__file__).parents[3]
MIGRATION = Migration("web-1", "airflow.migrate")
NAMES = ["web-1", "lb-1", "web-2"]
MASTER = Machine("salt-1", "i-1", "running", "10.20.1.10", "")


class AnsweringShell:
    """Gives one answer for each command, and keeps the commands."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.commands: list[list[str]] = []

    def run(self, machine: Machine, args: list[str], **_: Any) -> str:
        assert machine == MASTER
        self.commands.append(args)
        return self.answers.pop(0)

    def script(self, machine: Machine, args: list[str], **_: Any) -> str:
        answer = self.run(machine, args)
        if answer == "null":
            raise CommandError("the Salt master does not answer", code=124)
        return answer


def master(log: Log, *answers: Any) -> tuple[Master, AnsweringShell]:
    shell = AnsweringShell(
        *(answer if isinstance(answer, str) else json.dumps(answer) for answer in answers)
    )
    return Master(cast(Shell, shell), MASTER, log), shell


def step(
    number: int,
    name: str,
    ret: Any,
    *,
    result: bool = True,
    comment: str = "",
    out: str = "highstate",
) -> Any:
    """Return a step of an orchestration: of salt.state, or without `out` of salt.function."""
    changes = ({"out": out} if out else {}) | {"ret": ret} if ret else {}
    return {
        "__run_num__": number,
        "__id__": name,
        "result": result,
        "comment": comment,
        "changes": changes,
    }


# -- the master ------------------------------------------------------------------------------------


def test_answering_asks_silent_minions_again(log: Log) -> None:
    """Also when the master has not answered at all: it may have just started."""
    failed = "Traceback"
    salt_master, shell = master(
        log, None, {"web-1": True, "web-2": failed, "rogue-1": True}, {"web-2": True}
    )
    assert salt_master.answering(["web-1", "web-2"], time.monotonic() + 60) == {"web-1", "web-2"}
    both = ["web-1,web-2", "web-1,web-2", "web-2"]
    assert [command[5] for command in shell.commands] == both
    assert {command[-1] for command in shell.commands} == {"test.ping"}


def test_master_that_ssh_does_not_reach_is_no_silent_minion(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise UnreachableError("SSH has no connection to salt-1.")

    monkeypatch.setattr(AnsweringShell, "script", lost)
    with pytest.raises(UnreachableError):
        master(log)[0].answering(["web-1"], time.monotonic() - 1)


def test_answering_ends_at_deadline(log: Log) -> None:
    salt_master, shell = master(log, {"web-1": False}, {"web-1": True})
    assert salt_master.answering(["web-1"], time.monotonic() - 1) == set()
    assert len(shell.commands) == 1


def test_answering_fails_if_masters_own_minion_is_silent(log: Log) -> None:
    salt_master, _ = master(log, {"web-1": False, "salt-1": False})
    with pytest.raises(LaunchError, match=r"^salt-1 gets no answer from its own minion"):
        salt_master.answering(["web-1", "salt-1"], time.monotonic() - 1)


class RecordingJobs:
    """Keeps what would run under the lock of the jobs, and answers."""

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.ran: list[tuple[list[str], str, float]] = []
        self.read = ""

    def run(
        self,
        machine: Machine,
        args: list[str],
        *,
        task: str,
        timeout: float = 0,
        accept: tuple[int, ...] = (0,),
        stdin: str = "",
    ) -> str:
        assert machine == MASTER
        # The others report failures in their output.
        assert (1 in accept) == task.startswith("orchestration")
        self.read = stdin
        self.ran.append((args, task, timeout))
        return self.answer


def changing(log: Log, answer: Any = "") -> tuple[Master, RecordingJobs]:
    jobs = RecordingJobs(answer if isinstance(answer, str) else json.dumps(answer))
    return Master(cast(Shell, AnsweringShell()), MASTER, log, cast(Jobs, jobs)), jobs


def test_salt_cloud_on_master_asks_for_json(log: Log) -> None:
    salt_master, jobs = changing(log, "{}")
    assert salt_master.salt_cloud(["--destroy", "web 1"], 1) == "{}"
    options = ["--assume-yes", "--out=json", "--log-level=warning"]
    assert jobs.ran[0][:2] == (["salt-cloud", "--destroy", "web 1", *options], "salt-cloud")


def test_timeout_of_salt_cloud_grows_with_machines(log: Log) -> None:
    salt_master, jobs = changing(log)
    for machines in (1, 6):
        salt_master.salt_cloud(["--map", "small"], machines)
        assert jobs.ran[-1][2] == machines * salt.MACHINE_SECONDS
    assert salt.MACHINE_SECONDS > 900 + 1800, "the driver's waits"


def test_master_without_jobs_changes_nothing(log: Log) -> None:
    salt_master, shell = master(log)
    with pytest.raises(TypeError, match="lock of the jobs"):
        salt_master.salt_cloud(["--map", "small"], 6)
    assert shell.commands == []


RUNNING = {"jid": "20261126031207", "fun": "state.highstate", "pid": 31}


class StatesShell(AnsweringShell):
    """The master's shell, which tells which states run."""

    def script(self, machine: Machine, args: list[str], **_: Any) -> str:
        assert args[-2:] == ["saltutil.is_running", "state.*"]
        return self.run(machine, args)


def states_shell(log: Log, *answers: Any) -> Master:
    shell = StatesShell(*(json.dumps(answer) for answer in answers))
    return Master(cast(Shell, shell), MASTER, log)


def test_states_that_still_run_are_waited_for(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stackctl.salt.time.sleep", lambda _: None)
    notes: list[str] = []
    busy = {"web-1": [RUNNING], "lb-1": [], "web-2": "'saltutil' is not available"}
    states_shell(log, busy, busy, {"web-1": [], "lb-1": []}).wait_for_states(notes.append)
    text = "waiting for state.highstate on web-1 (job 20261126031207), which still runs"
    assert notes == [text, text]


def test_states_that_do_not_end_are_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salt, "STATES_SECONDS", -1)
    with pytest.raises(
        ConvergeError, match=r"^state\.highstate on web-1 \(job 20261126031207\) still runs\."
    ):
        states_shell(log, {"web-1": [RUNNING]}).wait_for_states(lambda _: None)


def test_states_that_run_are_refused_or_waited_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackctl.salt.time.sleep", lambda _: None)
    with pytest.raises(BusyError, match=r"^state\.highstate on web-1 .* still runs\. .*--wait"):
        states_shell(log, {"web-1": [RUNNING]}).require_quiet(lambda _: None, wait=False)
    states_shell(log, {"web-1": []}).require_quiet(lambda _: None, wait=False)
    states_shell(log, {"web-1": [RUNNING]}, {}).require_quiet(lambda _: None, wait=True)


def test_numbers_and_keys_are_read_on_the_master(log: Log) -> None:
    texts = ({"machine_counts": {"web": 3}}, {"machine_counts": None}, {"minions": ["web-1"]})
    salt_master, shell = master(log, *texts)
    assert salt_master.recorded_counts() == {"web": 3}
    assert salt_master.recorded_counts() == {}
    assert salt_master.accepted() == ["web-1"]
    assert shell.commands[0] == ["cat", "/etc/salt/cloud.conf.d/machines.conf"]
    assert shell.commands[2] == ["salt-key", "--out=json", "--list=accepted"]


def test_machines_are_retired_by_the_masters_program(log: Log) -> None:
    salt_master, jobs = changing(log)
    reports: list[str] = []
    salt_master.retire(["web-4", "web-3"], reports.append)
    program = ["/opt/salt/bin/python", "/usr/local/lib/scale_machines.py"]
    assert jobs.ran[0][:2] == ([*program, "retire", "web-4", "web-3"], "retire web-4 web-3")
    assert reports == ["draining web-4, web-3"]


def test_numbers_are_written_as_salt_cloud_reads_them(log: Log) -> None:
    salt_master, jobs = changing(log)
    salt_master.record_counts({"web": 3})
    assert json.loads(jobs.read) == {"machine_counts": {"web": 3}}
    assert jobs.ran[0][0][-2:] == ["write-counts", "/etc/salt/cloud.conf.d/machines.conf"]


class PredictingShell(AnsweringShell):
    """The master's shell, which answers each of the two questions, in whatever order they come."""

    def run(self, machine: Machine, args: list[str], **_: Any) -> str:
        assert machine == MASTER
        assert args[-1] == "test=True"
        self.commands.append(args)
        return self.answers["state.apply" in args]


def predicting(log: Log, machines: Any, database: Any) -> tuple[Master, PredictingShell]:
    shell = PredictingShell(json.dumps(machines), json.dumps(database))
    return Master(cast(Shell, shell), MASTER, log), shell


def test_sync_records_the_addresses_before_the_pillar_brings_them(log: Log) -> None:
    salt_master, shell = master(log, {}, {}, {}, {})
    salt_master.sync()
    done = [(command[1], *command[4:]) for command in shell.commands]
    assert done == [
        ("*", "saltutil.sync_modules"),
        ("*", "saltutil.sync_states"),
        (MASTER.name, "machine_addresses.record"),
        ("*", "saltutil.refresh_pillar", "wait=True", "timeout=60"),
    ]


def test_prediction_has_a_run_for_each_machine(log: Log) -> None:
    salt_master, _ = predicting(
        log,
        # web-3 is no longer in the map, and still runs.
        {"web-3": {"a": GOOD}, "web-2": {"a": GOOD}, "lb-1": {"a": PREDICTED}},
        {"web-1": {"a": GOOD}},
    )
    assert [(run.minion, len(run.changed)) for run in salt_master.predict(MIGRATION, NAMES)] == [
        ("lb-1", 1),
        ("web-2", 0),
        ("web-3", 0),
        ("web-1", 0),
    ]


def test_prediction_includes_migration(log: Log) -> None:
    admin = PREDICTED | {"__id__": "airflow-admin"}
    others = {"lb-1": {"a": GOOD}, "web-2": {"a": GOOD}}
    salt_master, shell = predicting(log, others, {"web-1": {"a": GOOD, "b": admin}})
    assert [run.changed for run in salt_master.predict(MIGRATION, NAMES)] == [
        (),
        (),
        ("airflow-admin",),
    ]
    asked = sorted(command[4:] for command in shell.commands)
    assert asked == [
        ["-C", "not web-1", "state.highstate", "test=True"],
        ["web-1", "state.apply", "airflow.migrate", "test=True"],
    ]


def test_migration_contains_the_highstate() -> None:
    tree = ROOT / "salt"
    top = yaml.safe_load((tree / "top.sls").read_text())["base"]
    included = re.search(
        r"^include:\n(?:  - .+\n)+", (tree / "airflow" / "migrate.sls").read_text(), re.MULTILINE
    )
    assert included
    assert set(yaml.safe_load(included[0])["include"]) == {*top["*"], *top["E@^web-[1-9][0-9]*$"]}


@pytest.mark.parametrize(
    ("machines", "database", "printed"),
    [
        (
            {"lb-1": {"a": GOOD}, "web-2": "Minion did not return. [Not connected]"},
            {"web-1": {"a": GOOD}},
            "web-2: Minion did not return",
        ),
        # What `salt --static` prints when web-2 does not answer.
        ({"lb-1": {"a": GOOD}}, {"web-1": {"a": GOOD}}, "web-2: no answer"),
        (
            {"lb-1": {"a": GOOD}, "web-2": {"a": GOOD}},
            {"web-1": {"a": FAILED}},
            "web-1: redis-package: no such package",
        ),
        ("No return received", {"web-1": {"a": GOOD}}, "lb-1: no answer"),
    ],
)
def test_failed_prediction_is_an_error(
    log: Log, machines: Any, database: Any, printed: str
) -> None:
    salt_master, _ = predicting(log, machines, database)
    with pytest.raises(ConvergeError, match=f"^{printed}"):
        salt_master.predict(MIGRATION, NAMES)


def test_orchestration_is_reported_before_it_runs(log: Log) -> None:
    salt_master, jobs = changing(log, {"data": {"salt-1_master": {}}})
    reported: list[tuple[str, int]] = []
    salt_master.orchestrate("orch.deploy", lambda name: reported.append((name, len(jobs.ran))))
    assert reported == [("orch.deploy", 0)]


def test_failed_orchestration_is_an_error(log: Log) -> None:
    steps = {"a": step(0, "deploy-stores", {"redis-1": {"a": CHANGED}})}
    salt_master, jobs = changing(
        log, {"data": {"salt-1_master": steps}, "outputter": "highstate", "retcode": 0}
    )
    assert [run.changed for run in salt_master.orchestrate("orch.deploy", lambda _: None)] == [
        ("redis-config",)
    ]
    command = ["salt-run", "--out=json", "state.orchestrate", "orch.deploy"]
    assert [job[:2] for job in jobs.ran] == [(command, "orchestration orch.deploy")]
    for answer in (
        {"data": {"salt-1_master": ["Rendering SLS 'orch.deploy' failed"]}, "retcode": 1},
        {"data": "Exception occurred in runner state.orchestrate", "retcode": 1},
        "",
    ):
        failing, _ = changing(log, answer)
        with pytest.raises(ConvergeError, match=r"^master: "):
            failing.orchestrate("orch.deploy", lambda _: None)


class BootingShell:
    """A shell on a machine whose sshd and minion are still starting."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.scripts: list[str] = []

    def trust(self, machine: Machine) -> None:
        assert machine == MASTER

    def script(self, _machine: Machine, args: list[str], **_: object) -> str:
        self.scripts.append(args[0])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_operator_waits_for_minion_of_master(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("stackctl.salt.time.sleep", pauses.append)
    refused = CommandError("SSH failed: Connection refused")

    def answering(deadline: float, *answers: str | Exception) -> set[str]:
        operator = Operator(deployment, cast(Shell, BootingShell(*answers)), log)
        return operator.answering({"salt-1": MASTER}, time.monotonic() + deadline)

    assert answering(60, refused, "stopped\n", "unasked\n") == {"salt-1"}
    assert len(pauses) == 2
    assert answering(-1, "stopped\n") == set()
    assert answering(-1, refused) == set()
    # Where the master runs, a minion that only runs is not enough: the master may refuse its key.
    assert answering(60, "starting\n", "ask\n", "{}", "ask\n", '{"salt-1": true}') == {"salt-1"}
    assert answering(-1, "ask\n", "{}") == set()


def test_minions_are_asked_on_the_machine_of_the_master() -> None:
    asked: list[tuple[list[str], str]] = []

    class AskedShell:
        def script(self, machine: Machine, args: list[str], *, what: str) -> str:
            assert machine == MASTER
            asked.append((args, what))
            return '{"web-1": true}'

    shell = cast(Shell, AskedShell())
    question = ["list", "web-1", "test.ping"]
    assert salt.ask_minions(shell, MASTER, question, 5) == {"web-1": True}
    salt.ask_minions(shell, MASTER, question, 60, silent=7)
    command = ["ask-minions", "/opt/salt/bin/python"]
    assert asked == [
        ([*command, "5", "5", *question], "asking the minions"),
        ([*command, "60", "7", *question], "asking the minions"),
    ]


class LoginShell:
    """A shell that logs in only where it has trusted the host key first."""

    def __init__(self) -> None:
        self.trusted: list[Machine] = []
        self.entered: list[tuple[str, Machine | None]] = []

    def trust(self, machine: Machine) -> None:
        self.trusted.append(machine)

    def run(
        self, machine: Machine, args: list[str], *, what: str, master: Machine | None = None
    ) -> str:
        if machine not in self.trusted:
            raise CommandError(f"{what} failed: Host key verification failed")
        assert args == ["true"]
        self.entered.append((machine.name, master))
        return ""


def test_machine_is_trusted_before_it_is_reached(deployment: Deployment, log: Log) -> None:
    web = Machine("web-1", "i-2", "running", "10.20.1.11", "")
    shell = LoginShell()
    Operator(deployment, cast(Shell, shell), log).reach(web)
    assert shell.entered == [("web-1", None)]
    shell = LoginShell()
    Master(cast(Shell, shell), MASTER, log).reach(web)
    assert shell.entered == [("web-1", MASTER)]


def test_operator_trusts_the_master_before_it_asks(deployment: Deployment, log: Log) -> None:
    class TrustingShell(BootingShell):
        trusted = False

        def trust(self, machine: Machine) -> None:
            super().trust(machine)
            self.trusted = True

        def script(self, _machine: Machine, args: list[str], **options: object) -> str:
            if not self.trusted:
                raise CommandError("Host key verification failed")
            return super().script(_machine, args, **options)

    operator = Operator(deployment, cast(Shell, TrustingShell("unasked", "unasked")), log)
    assert operator.answering({"salt-1": MASTER}, time.monotonic() - 1) == {"salt-1"}


# -- from this host --------------------------------------------------------------------------------


def test_operator_configuration_links_to_checkout(deployment: Deployment) -> None:
    folder = operator_configuration(deployment)
    assert operator_configuration(deployment) == folder
    minion = yaml.safe_load((folder / "minion").read_text())
    # The deployment's pillar stands in front of the base.
    assert minion["pillar_roots"]["base"] == [
        str(deployment.pillar_dir),
        str(deployment.root / "pillar" / "base"),
    ]
    assert (folder / "cloud.maps.d" / "small.map").is_file()
    written = [minion[name] for name in ("pki_dir", "cachedir", "sock_dir", "log_file")]
    assert all(Path(path).is_relative_to(deployment.state_dir) for path in written)


def test_operator_configuration_has_what_salt_cloud_needs(deployment: Deployment) -> None:
    folder = operator_configuration(deployment)
    assert (folder / "run").is_dir()
    assert folder.stat().st_mode & 0o777 == (folder / "run").stat().st_mode & 0o777 == 0o700
    for name in ("cloud.providers.d", "cloud.profiles.d", "cloud.maps.d", "cloud.deploy.d"):
        assert (folder / name).readlink() == deployment.root / name
    cloud = yaml.safe_load((folder / "cloud").read_text())
    assert cloud["private_key"] == str(deployment.ssh_key)
    assert cloud["ssh_interface"] == "private_ips"
    assert cloud["file_map"] == salt.file_map(deployment)
    # Salt asks for grains of the cloud at every command, which takes seconds.
    assert cloud["enable_cloud_grains"] is False
    assert cloud["minion"] == {"master": "127.0.0.1"}
    (deployment.root / "pillar" / "prod").mkdir()
    account = Deployment("prod", deployment.root)
    cloud = yaml.safe_load((operator_configuration(account) / "cloud").read_text())
    assert cloud["ssh_interface"] == "public_ips"


def test_deploy_script_gets_its_files_by_name(deployment: Deployment) -> None:
    assert sorted(salt.file_map(deployment).values()) == [
        "/opt/salt-deploy/requirements.txt",
        "/opt/salt-deploy/salt-minion.service",
        "/opt/salt-deploy/stack.conf",
    ]
    for path in salt.file_map(Deployment("local", ROOT)):
        assert Path(path).is_file()


class Commands:
    """Keeps the commands of this host and their options, and answers."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer if isinstance(answer, str) else json.dumps(answer)
        self.ran: list[list[str]] = []
        self.options: list[dict[str, Any]] = []

    def __call__(self, command: list[str], **options: Any) -> str:
        self.ran.append(command)
        self.options.append(options)
        return self.answer


@pytest.mark.parametrize("test", [None, False, True])
def test_states_on_this_host_are_predicted_only_if_asked(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch, test: bool | None
) -> None:
    commands = Commands({"local": {"a": GOOD, "b": CHANGED}})
    monkeypatch.setattr(salt, "run", commands)
    options = {} if test is None else {"test": test}
    found = salt.apply_locally(deployment, log, "aws", **options)
    assert found == StateRun("operator", 2, ("redis-config",), ())
    ((program, *args),) = commands.ran
    folder = str(deployment.state_dir / "salt")
    assert Path(program).name == "salt-call"
    assert args[:4] == ["--local", "--config-dir", folder, "--out=json"]
    assert args[4:] == ["state.apply", "aws", f"test={bool(test)}"]
    assert set(commands.options[0]["accept"]) == {0, 1, 2}, "failures are read from the output"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"local": {"a": FAILED}}, "operator: redis-package: no such package"),
        ({"local": ["Rendering SLS failed"]}, "operator: Rendering SLS failed"),
        ("", "operator: no answer"),
    ],
)
def test_failed_states_on_this_host_are_an_error(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch, answer: Any, problem: str
) -> None:
    monkeypatch.setattr(salt, "run", Commands(answer))
    with pytest.raises(ConvergeError, match=f"^{problem}"):
        salt.apply_locally(deployment, log, "aws")


def test_salt_cloud_on_this_host_returns_json(
    deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands({"salt-1": {}})
    monkeypatch.setattr(salt, "run", commands)
    operator = Operator(deployment, cast(Shell, None), log)
    assert operator.salt_cloud(["--profile", "salt", "salt-1"], 2) == '{"salt-1": {}}'
    ((program, *args),) = commands.ran
    assert Path(program).name == "salt-cloud"
    assert args == [
        *("--config-dir", str(deployment.state_dir / "salt"), "--profile", "salt", "salt-1"),
        *("--assume-yes", "--out=json", "--log-level=warning"),
    ]
    assert commands.options[0]["timeout"] == 2 * salt.MACHINE_SECONDS
