"""Each machine gets a verdict, whatever salt-cloud's exit code; no old machine is destroyed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
from rich.console import Console

from stackctl import cli, launch, salt_cloud, snapshot
from stackctl.deployment import Deployment
from stackctl.driver import DEPLOY_TAG
from stackctl.errors import CommandError, LaunchError, StackError
from stackctl.launch import Launcher
from stackctl.machines import Machine, find_machines
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt_cloud import Request
from stackctl.verdict import Result, Verdict

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

IMAGE = "ami-12c6146b"  # one of those that moto knows
NAMES = ["salt-1", "web-1", "web-2"]
DIED = "deploying web-2 (i-2) failed: the deploy script ended with 3: the mirror is down"


class Cloud:
    """An account, and a host on which salt-cloud does what a test wants."""

    def __init__(self, client: EC2Client, log: Log) -> None:
        self.client = client
        self.log = log
        self.silent: set[str] = set()
        self.refusing_ssh: set[str] = set()
        self.failing: dict[str, str] = {}
        self.ran: list[list[str]] = []
        self.counted: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.output: str | Exception = ""
        self.unreachable = False
        self.deadlines: dict[str, float] = {}

    def start(self, name: str, deploy: str = "done") -> str:
        tags: list[Any] = [
            {"Key": "project", "Value": "airflow-stack"},
            {"Key": "Name", "Value": name},
        ]
        tags.append({"Key": DEPLOY_TAG, "Value": deploy})
        answer = self.client.run_instances(
            ImageId=IMAGE,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        return answer["Instances"][0]["InstanceId"]

    def end(self, instance_id: str) -> None:
        self.client.terminate_instances(InstanceIds=[instance_id])

    def living(self) -> dict[str, str]:
        return {machine.name: machine.instance_id for machine in find_machines(self.client)}

    # -- a SaltCloudHost, with the driver's rules in short

    def salt_cloud(self, args: Sequence[str], machines: int) -> str:
        self.ran.append(list(args))
        self.counted.append(machines)
        if args[0] == "--destroy":
            for name in args[1:]:
                self.end(self.living()[name])
            return "{}"
        said: dict[str, Any] = {}
        found = {machine.name: machine for machine in find_machines(self.client)}
        for name in NAMES:
            machine = found.get(name)
            if machine and machine.deploy != "pending":
                said[name] = {"Message": "Instance already exists"}
                continue
            if name in self.failing:
                said[name] = {"Error": self.failing[name]}
                if not machine and "capacity" not in self.failing[name]:
                    self.start(name, "pending")
                continue
            if machine:
                tags: list[Any] = [{"Key": DEPLOY_TAG, "Value": "done"}]
                self.client.create_tags(Resources=[machine.instance_id], Tags=tags)
                self.client.start_instances(InstanceIds=[machine.instance_id])
                self.silent.discard(name)
            else:
                self.start(name)
            said[name] = {"deployed": True}
        self.meanwhile()
        if isinstance(self.output, Exception):
            raise self.output
        return self.output or json.dumps(said, indent=4)

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:
        self.deadlines |= dict.fromkeys(machines, deadline)
        if self.unreachable and self.ran and "salt-1" in machines:
            raise LaunchError("salt-1 does not hear its own minion.")
        return {name for name, one in machines.items() if one.deployed} - self.silent

    def reach(self, machine: Machine) -> None:
        if machine.name in self.refusing_ssh:
            raise CommandError(f"SSH to {machine.name} failed: Connection refused.")

    def apply(self, on_failure: launch.OnFailure = "keep") -> Result:
        console = Console(file=StringIO())
        progress = Progress(console, self.log)
        launcher = Launcher(
            self.client, progress, self.log, on_failure=on_failure, show=lambda _: None
        )
        return launcher.apply(Request(self, NAMES, ["--map", "small"]), lambda _: None)


@pytest.fixture
def cloud(client: EC2Client, log: Log) -> Cloud:
    """An account with a master and two web machines, all ready."""
    made = Cloud(client, log)
    for name in NAMES:
        made.start(name)
    return made


def outcomes(result: Result) -> dict[str, str]:
    return {one.machine: one.outcome for one in result.verdicts}


def verdict(result: Result, name: str) -> Verdict:
    return next(one for one in result.verdicts if one.machine == name)


# -- verdicts --------------------------------------------------------------------------------------


def test_nothing_is_run_where_all_are_well(cloud: Cloud, log: Log) -> None:
    result = cloud.apply()
    assert outcomes(result) == dict.fromkeys(NAMES, "kept")
    assert cloud.ran == []
    assert (result.changed, result.failed) == ([], [])
    result.require(log)


def test_a_missing_machine_is_launched(cloud: Cloud, log: Log) -> None:
    cloud.end(cloud.living()["web-2"])
    result = cloud.apply()
    assert outcomes(result) == {"salt-1": "kept", "web-1": "kept", "web-2": "launched"}
    one = verdict(result, "web-2")
    assert (one.before, one.after and one.after.instance_id) == (None, cloud.living()["web-2"])
    assert (one.deployed, one.reachable, one.answers, one.ready) == (True, True, True, True)
    assert cloud.ran == [["--map", "small"]]
    result.require(log)


def test_a_failed_deploy_falls_short_in_salt_clouds_words_and_is_repaired_by_the_next_run(
    cloud: Cloud, log: Log
) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    result = cloud.apply()
    one = verdict(result, "web-2")
    assert (one.outcome, one.deployed, one.answers, one.reason) == ("launched", False, False, DIED)
    with pytest.raises(LaunchError, match=r"^1 of 3 machines is not ready: web-2\. Run the same"):
        result.require(log)
    failed = cloud.living()["web-2"]
    assert outcomes(cloud.apply())["web-2"] == "kept"  # it fails again

    cloud.failing.clear()
    repaired = cloud.apply()
    assert outcomes(repaired) == {"salt-1": "kept", "web-1": "kept", "web-2": "repaired"}
    assert cloud.living()["web-2"] == failed
    assert not repaired.failed


@pytest.mark.parametrize("how", ["silent", "stopped"])
def test_a_deployed_machine_that_is_not_well_is_given_to_the_driver_again(
    cloud: Cloud, how: str
) -> None:
    instance = cloud.living()["web-1"]
    if how == "silent":
        cloud.silent.add("web-1")
    else:
        cloud.client.stop_instances(InstanceIds=[instance])
    result = cloud.apply()
    one = verdict(result, "web-1")
    assert (one.outcome, one.ready) == ("repaired", True)
    assert [machine and machine.instance_id for machine in (one.before, one.after)] == [
        instance,
        instance,
    ]


def test_a_machine_that_lets_nobody_in_is_told_and_not_waited_for(cloud: Cloud) -> None:
    cloud.refusing_ssh.add("web-1")
    one = verdict(cloud.apply(), "web-1")
    assert (one.outcome, one.reachable, one.answers) == ("kept", False, True)
    assert one.reason == "SSH to web-1 failed: Connection refused"
    cloud.silent.add("web-1")
    assert verdict(cloud.apply(), "web-1").reason == "its minion does not answer"
    assert cloud.ran == []
    assert all(machine.deployed for machine in find_machines(cloud.client))


def test_a_machine_whose_first_deploy_never_ended_is_tried_though_nobody_gets_in_yet(
    cloud: Cloud,
) -> None:
    cloud.end(cloud.living()["web-1"])
    cloud.start("web-1", "pending")
    cloud.refusing_ssh.add("web-1")
    cloud.meanwhile = cloud.refusing_ssh.clear
    assert outcomes(cloud.apply())["web-1"] == "repaired"


def test_a_machine_that_cannot_be_had_is_absent(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = "no capacity\n  in eu-west-1a"
    one = verdict(cloud.apply(), "web-2")
    assert (one.outcome, one.after, one.reason) == ("absent", None, "no capacity in eu-west-1a")


def test_a_machine_that_was_lost_meanwhile_is_absent_or_replaced(cloud: Cloud) -> None:
    old = cloud.living()["web-1"]
    cloud.silent.add("web-1")
    cloud.meanwhile = lambda: cloud.end(old)
    assert verdict(cloud.apply(), "web-1").outcome == "absent"

    lost = cloud.living()["web-2"]

    def replace() -> None:
        cloud.end(lost)
        cloud.start("web-2")

    cloud.meanwhile = replace
    one = verdict(cloud.apply(), "web-2")
    assert (one.outcome, one.ready) == ("replaced", True)
    new = cloud.living()["web-2"]
    assert new != lost
    assert [machine and machine.instance_id for machine in (one.before, one.after)] == [lost, new]


def test_one_name_twice_falls_short(cloud: Cloud) -> None:
    ids = {cloud.living()["web-1"], cloud.start("web-1")}
    result = cloud.apply("destroy")
    one = verdict(result, "web-1")
    assert one.outcome == "twice"
    assert all(instance in one.reason for instance in ids)
    assert [other.machine for other in result.failed] == ["web-1"]
    assert cloud.ran == []


def test_a_twin_that_the_run_made_falls_short_and_neither_is_destroyed(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.meanwhile = lambda: cloud.start("web-1")
    assert outcomes(cloud.apply("destroy")) == {
        "salt-1": "kept",
        "web-1": "twice",
        "web-2": "launched",
    }
    assert len(find_machines(cloud.client)) == 4


def test_of_twins_the_one_that_is_left_is_no_new_machine(cloud: Cloud) -> None:
    cloud.start("web-1")
    cloud.end(cloud.living()["web-2"])
    ended = cloud.living()["web-1"]
    cloud.meanwhile = lambda: cloud.end(ended)
    assert outcomes(cloud.apply()) == {"salt-1": "kept", "web-1": "kept", "web-2": "launched"}


def test_a_machine_that_the_map_does_not_name_falls_short_only_if_the_run_made_it(
    cloud: Cloud,
) -> None:
    cloud.start("web-8")
    assert not cloud.apply().failed
    cloud.end(cloud.living()["web-2"])
    cloud.meanwhile = lambda: cloud.start("web-9")
    result = cloud.apply("destroy")
    assert [(one.machine, one.outcome) for one in result.failed] == [("web-9", "unexpected")]
    assert "web-9" in cloud.living()


# -- a slow minion, a slow master ------------------------------------------------------------------


def test_every_minion_has_time_to_answer_after_the_run_too(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(monotonic=lambda: 0.5))
    cloud.end(cloud.living()["web-2"])
    assert not cloud.apply().failed
    known, new = 0.5 + snapshot.KNOWN_SECONDS, 0.5 + snapshot.NEW_SECONDS
    assert cloud.deadlines == {"salt-1": known, "web-1": known, "web-2": new}


def test_a_master_that_hears_nobody_fails_the_run_and_no_machine(cloud: Cloud, log: Log) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.unreachable = True
    result = cloud.apply("destroy")
    assert not result.failed
    assert outcomes(result) == {"salt-1": "kept", "web-1": "kept", "web-2": "launched"}
    assert {one.machine for one in result.verdicts if one.answers} == {"web-2"}, (
        "it was heard before"
    )
    with pytest.raises(
        LaunchError, match=r"^salt-1 does not hear its own minion\. Run the same command again"
    ):
        result.require(log)
    assert "web-2" in cloud.living()


def test_a_machine_that_failed_is_told_and_destroyed_though_the_master_hears_nobody(
    cloud: Cloud, log: Log
) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    cloud.unreachable = True
    result = cloud.apply("destroy")
    assert verdict(result, "web-2").outcome == "destroyed"
    assert verdict(result, "web-2").reason.startswith(DIED)
    told = r"^salt-1 does not hear its own minion\. 1 of 3 machines is not ready: web-2\."
    with pytest.raises(LaunchError, match=told):
        result.require(log)


def test_what_nobody_hears_is_not_called_repaired(cloud: Cloud) -> None:
    cloud.silent.add("web-1")
    cloud.unreachable = True
    cloud.meanwhile = lambda: cloud.silent.add("web-1")
    assert outcomes(cloud.apply())["web-1"] == "kept"


# -- what salt-cloud says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [CommandError("salt-cloud failed: Unable to locate credentials."), None]
)
def test_what_stops_salt_cloud_fails_the_run_though_every_machine_is_well(
    cloud: Cloud, log: Log, error: Exception | None
) -> None:
    cloud.silent.add("web-1")
    cloud.output = error or "Traceback (most recent call last): out of [memory]"
    result = cloud.apply()
    assert not result.failed
    told = (
        r"Unable to locate credentials\. Run"
        if error
        else r"printed 'Traceback .*: out of \[memory\]' in place of JSON\. Run"
    )
    with pytest.raises(LaunchError, match=told):
        result.require(log)


def test_the_answer_stands_behind_what_a_deploy_script_printed() -> None:
    answer = {"web-1": {"deployed": True, "tags": {}}, "web-2": {"Error": "{\nno"}}
    noise = 'salt-minion deploy: {\n{"web-1": 1}\n{\n'
    assert salt_cloud.read_output(noise + json.dumps(answer, indent=4) + "\n") == answer
    assert salt_cloud.read_output("{}\n") == {}


@pytest.mark.parametrize(
    ("output", "quoted"),
    [("", "printed nothing"), ("No nodes\ndefined", "'No nodes defined'"), ('{\n    "web-1": {', "'{ \"web-1\": {'"),
     ("x" * 300 + " the end", "'… x*the end'")],
)  # fmt: skip
def test_an_answer_that_is_no_json_is_quoted(output: str, quoted: str) -> None:
    with pytest.raises(LaunchError) as caught:
        salt_cloud.read_output(output)
    begin, _, end = quoted.partition("*")
    assert begin in str(caught.value)
    assert end in str(caught.value)
    assert len(str(caught.value)) < 300


def test_several_that_fall_short_are_named(log: Log) -> None:
    short = [Verdict(name, "absent", None, None, reason="none") for name in NAMES[1:]]
    with pytest.raises(
        LaunchError, match=r"^2 of 2 machines are not ready: web-1, web-2\. .* Log: "
    ):
        Result(tuple(short)).require(log)


# -- destroying ------------------------------------------------------------------------------------


def test_what_the_run_launched_and_falls_short_is_destroyed(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    cloud.meanwhile = lambda: cloud.client.modify_instance_attribute(  # as postgres-1 is launched
        InstanceId=cloud.living()["web-2"], DisableApiTermination={"Value": True}
    )
    result = cloud.apply("destroy")
    one = verdict(result, "web-2")
    assert (one.outcome, one.after, one.deployed) == ("destroyed", None, False)
    assert one.reason == f"{DIED}; then it was destroyed, and its key with it"
    assert cloud.ran == [["--map", "small"], ["--destroy", "web-2"]]
    assert cloud.counted == [1, 1]
    assert sorted(cloud.living()) == ["salt-1", "web-1"]
    assert len(cloud.client.describe_volumes()["Volumes"]) == 2, "its disk went with it"


def test_what_was_there_before_is_never_destroyed(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    pending = cloud.start("web-2", "pending")
    cloud.failing["web-2"] = DIED
    cloud.refusing_ssh.add("web-1")
    result = cloud.apply("destroy")
    assert [(one.machine, one.outcome) for one in result.failed] == [
        ("web-1", "kept"),
        ("web-2", "kept"),
    ]
    assert cloud.living()["web-2"] == pending
    assert cloud.ran == [["--map", "small"]]


def test_what_had_another_name_before_is_not_destroyed_either(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = "no capacity"
    old = cloud.start("web-9", "pending")
    tags: list[Any] = [{"Key": "Name", "Value": "web-2"}]
    cloud.meanwhile = lambda: cloud.client.create_tags(Resources=[old], Tags=tags)
    assert [(one.machine, one.outcome) for one in cloud.apply("destroy").failed] == [
        ("web-2", "launched")
    ]
    assert cloud.living()["web-2"] == old


@pytest.mark.parametrize("error", [CommandError("salt-cloud failed: Connection reset"), None])
def test_a_machine_that_could_not_be_destroyed_is_still_there_in_the_table(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    run = cloud.salt_cloud

    def refused(args: Sequence[str], machines: int) -> str:
        if args[0] != "--destroy":
            return run(args, machines)
        if error:
            raise error
        return "{}"

    monkeypatch.setattr(cloud, "salt_cloud", refused)
    one = verdict(cloud.apply("destroy"), "web-2")
    assert (one.outcome, one.after is None) == ("launched", False)
    told = "salt-cloud failed: Connection reset" if error else "it still runs"
    assert one.reason == f"{DIED}; destroying it failed: {told}"


# -- looking first ---------------------------------------------------------------------------------


def test_a_plan_says_what_would_be_done_and_changes_nothing(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.silent.add("web-1")
    before = find_machines(cloud.client)
    result = launch.plan(cloud.client, cloud, NAMES)
    assert outcomes(result) == {"salt-1": "kept", "web-1": "to repair", "web-2": "to launch"}
    assert [one.reason for one in result.verdicts] == [
        "",
        "its minion does not answer",
        "it does not exist",
    ]
    assert find_machines(cloud.client) == before
    assert cloud.ran == []


def test_a_plan_promises_nothing_that_salt_cloud_cannot_do(cloud: Cloud) -> None:
    cloud.silent.add("web-1")
    cloud.refusing_ssh.add("web-1")
    cloud.start("web-2")
    result = launch.plan(cloud.client, cloud, NAMES)
    assert outcomes(result) == {"salt-1": "kept", "web-1": "kept", "web-2": "twice"}
    assert [one.machine for one in result.failed] == ["web-1", "web-2"]


# -- the verb --------------------------------------------------------------------------------------


class Shell:
    """The way in, which nobody takes."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def trust(self, machine: Machine) -> None:
        assert machine.name == "salt-1"


class Master(Cloud):
    """The account's side as the verb makes it: it has a map as well."""

    machine = Machine("salt-1", "i-1", "running", "10.20.1.10", "")
    map_text = ""

    def command(self, args: Sequence[str], **_: object) -> str:
        assert args == ["cat", "/etc/salt/cloud.maps.d/small.map"]
        return self.map_text


@pytest.fixture
def master(
    client: EC2Client, deployment: Deployment, log: Log, monkeypatch: pytest.MonkeyPatch
) -> Master:
    """A stack of three machines, as `stackctl launch` meets it."""
    deployment.map_path.write_text("salt: [salt-1]\nweb: [web-1, web-2]\n")
    made = Master(client, log)
    made.map_text = deployment.map_path.read_text()
    for name in NAMES:
        made.start(name)
    monkeypatch.setattr(cli, "repository_root", lambda: deployment.root)
    monkeypatch.setattr(cli, "enter", lambda _: nullcontext())
    monkeypatch.setattr(cli, "Shell", Shell)
    monkeypatch.setattr(cli, "Master", lambda *_: made)
    return made


def test_the_verb_prints_a_table_and_exits_with_0_where_all_is_well(
    master: Master, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["launch"]) == 0
    told = capsys.readouterr()
    assert told.out.count("kept") == len(NAMES)
    assert "stackctl up" not in told.out
    assert told.err == ""
    master.end(master.living()["web-2"])
    assert cli.main(["launch", "--serial"]) == 0
    assert "stackctl up applies it" in capsys.readouterr().out
    assert master.ran == [["--map", "/etc/salt/cloud.maps.d/small.map"]]


@pytest.mark.parametrize("options", [[], ["--on-failure", "keep"], ["--on-failure", "destroy"]])
def test_the_verb_exits_with_1_where_one_falls_short(
    master: Master, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    master.end(master.living()["web-2"])
    master.failing["web-2"] = DIED
    assert cli.main(["launch", *options]) == 1
    told = capsys.readouterr()
    assert f"web-2: {DIED}" in told.out
    assert master.living()["web-1"] in told.out, "an id is not cut off"
    assert "error: 1 of 3 machines is not ready: web-2." in told.err
    assert ("destroyed" in told.out) == ("destroy" in options) == ("web-2" not in master.living())
    assert master.ran[0] == ["--map", "/etc/salt/cloud.maps.d/small.map", "--parallel"]


def test_programs_read_json_and_nothing_else(
    master: Master, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = master.living()["web-2"]
    master.end(instance)
    master.failing["web-2"] = DIED
    assert cli.main(["launch", "--json"]) == 1
    found = {one["machine"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["web-2"] == {
        "machine": "web-2",
        "outcome": "launched",
        "before": None,
        "after": {"id": master.living()["web-2"], "state": "running"},
        "deployed": False,
        "reachable": True,
        "answers": False,
        "ready": False,
        "reason": DIED,
    }
    assert (
        found["web-1"]["before"]
        == found["web-1"]["after"]
        == {"id": master.living()["web-1"], "state": "running"}
    )
    assert found["web-1"]["ready"] is True


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_dry_run_of_the_verb_exits_with_0(
    master: Master, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    master.end(master.living()["web-2"])
    assert cli.main(["launch", "--dry-run", *form]) == 0
    assert "to launch" in capsys.readouterr().out
    assert master.ran == []


def test_a_master_with_another_map_is_not_asked_to_apply_it(
    master: Master, capsys: pytest.CaptureFixture[str]
) -> None:
    master.map_text += "redis: [redis-1]\n"
    assert cli.main(["launch"]) == 1
    assert (
        "small.map on salt-1 differs from the one here. Bring it there: stackctl up"
        in capsys.readouterr().err
    )
    assert master.ran == []


def test_what_apply_raises_is_no_verdict(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def ill(*_: object) -> set[str]:
        raise LaunchError("salt-1 does not hear its own minion.")

    monkeypatch.setattr(cloud, "answering", ill)
    with pytest.raises(StackError, match="does not hear its own minion"):
        cloud.apply("destroy")
    assert cloud.ran == []
