"""Each machine gets a verdict, whatever salt-cloud's exit code; no old machine is destroyed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from plainpillar import ROOT
from saltext.ec2.tags import DEPLOY_TAG
from stackctl import cli, launch, limits, salt_cloud, snapshot
from stackctl.deployment import Deployment
from stackctl.errors import CommandError, LaunchError, PreflightError, StackError
from stackctl.launch import Launcher
from stackctl.machines import Machine, find_machines
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt_cloud import Request
from stackctl.verdict import Result, Verdict

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

DEPLOYMENT = Deployment("local", ROOT)
IMAGE = "ami-12c6146b"  # one of those that moto knows
NAMES = ["salt-1", "web-1", "web-2"]
DIED = "deploying web-2 (i-2) failed: the deploy script ended with 3: the mirror is down"


class Cloud:
    """An account, and a host on which salt-cloud does what a test wants."""

    def __init__(self, client: EC2Client, log: Log) -> None:
        self.client = client
        self.log = log
        self.deployment = DEPLOYMENT
        self.silent: set[str] = set()
        self.refusing_ssh: set[str] = set()
        self.failing: dict[str, str] = {}
        self.ran: list[list[str]] = []
        self.counted: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.output: str | Exception = ""
        self.unreachable = False
        self.deadlines: dict[str, float] = {}
        self.reports: list[str] = []

    def start(self, name: str, deploy: str = "done") -> str:
        tags: list[Any] = [
            {"Key": "project", "Value": "airflow-stack"},
            {"Key": "deployment", "Value": DEPLOYMENT.name},
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
        return {
            machine.name: machine.instance_id
            for machine in find_machines(self.client, self.deployment)
        }

    # -- a SaltCloudHost, with the driver's rules in short

    def salt_cloud(self, args: Sequence[str], machines: int) -> str:
        self.ran.append(list(args))
        self.counted.append(machines)
        if args[0] == "--destroy":
            for name in args[1:]:
                self.end(self.living()[name])
            return "{}"
        answers: dict[str, Any] = {}
        found = {machine.name: machine for machine in find_machines(self.client, self.deployment)}
        for name in NAMES:
            machine = found.get(name)
            if machine and machine.deploy != "pending":
                answers[name] = {"Message": "Instance already exists"}
                continue
            if name in self.failing:
                answers[name] = {"Error": self.failing[name]}
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
            answers[name] = {"deployed": True}
        self.meanwhile()
        if isinstance(self.output, Exception):
            raise self.output
        return self.output or json.dumps(answers, indent=4)

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:
        self.deadlines |= dict.fromkeys(machines, deadline)
        if self.unreachable and self.ran and "salt-1" in machines:
            raise LaunchError("salt-1 gets no answer from its own minion.")
        return {name for name, machine in machines.items() if machine.deployed} - self.silent

    def reach(self, machine: Machine) -> None:
        if machine.name in self.refusing_ssh:
            raise CommandError(f"SSH to {machine.name} failed: Connection refused.")

    def apply(self, on_failure: launch.OnFailure = "keep") -> Result:
        console = Console(file=StringIO())
        progress = Progress(console, self.log)
        launcher = Launcher(
            self.client, progress, self.log, on_failure=on_failure, show=lambda _: None
        )
        return launcher.apply(Request(self, NAMES, ["--map", "small"]), self.reports.append)


@pytest.fixture
def cloud(client: EC2Client, log: Log) -> Cloud:
    """An account with a master and two web machines, all ready."""
    made = Cloud(client, log)
    for name in NAMES:
        made.start(name)
    return made


def outcomes(result: Result) -> dict[str, str]:
    return {verdict.machine: verdict.outcome for verdict in result.verdicts}


def verdict_on(result: Result, name: str) -> Verdict:
    return next(verdict for verdict in result.verdicts if verdict.machine == name)


# -- verdicts --------------------------------------------------------------------------------------


def test_ready_machines_need_no_run(cloud: Cloud, log: Log) -> None:
    result = cloud.apply()
    assert outcomes(result) == dict.fromkeys(NAMES, "kept")
    assert cloud.ran == []
    assert (result.changed, result.failed) == ([], [])
    result.require(log)


def test_missing_machine_is_launched(cloud: Cloud, log: Log) -> None:
    cloud.end(cloud.living()["web-2"])
    result = cloud.apply()
    assert outcomes(result) == {"salt-1": "kept", "web-1": "kept", "web-2": "launched"}
    verdict = verdict_on(result, "web-2")
    assert (verdict.before, verdict.after and verdict.after.instance_id) == (
        None,
        cloud.living()["web-2"],
    )
    assert (verdict.deployed, verdict.reachable, verdict.answers, verdict.ready) == (
        True,
        True,
        True,
        True,
    )
    assert cloud.ran == [["--map", "small"]]
    result.require(log)


def test_failed_deploy_has_reason_of_salt_cloud_and_is_repaired_later(
    cloud: Cloud, log: Log
) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    result = cloud.apply()
    verdict = verdict_on(result, "web-2")
    assert (verdict.outcome, verdict.deployed, verdict.answers, verdict.reason) == (
        "launched",
        False,
        False,
        DIED,
    )
    with pytest.raises(LaunchError, match=r"^1 of 3 machines is not ready: web-2\. Run the same"):
        result.require(log)
    failed = cloud.living()["web-2"]
    assert outcomes(cloud.apply())["web-2"] == "kept"  # it fails again

    cloud.failing.clear()
    repaired = cloud.apply()
    assert outcomes(repaired) == {"salt-1": "kept", "web-1": "kept", "web-2": "repaired"}
    assert cloud.living()["web-2"] == failed
    assert not repaired.failed


def test_deployed_machine_with_silent_minion_is_repaired(cloud: Cloud) -> None:
    instance = cloud.living()["web-1"]
    cloud.silent.add("web-1")
    result = cloud.apply()
    verdict = verdict_on(result, "web-1")
    assert (verdict.outcome, verdict.ready) == ("repaired", True)
    assert [machine and machine.instance_id for machine in (verdict.before, verdict.after)] == [
        instance,
        instance,
    ]


def test_stopped_machine_is_only_started(cloud: Cloud) -> None:
    instance = cloud.living()["web-1"]
    cloud.client.stop_instances(InstanceIds=[instance])
    verdict = verdict_on(cloud.apply(), "web-1")
    assert (verdict.outcome, verdict.ready) == ("started", True)
    assert verdict.before
    assert verdict.after
    assert (verdict.before.state, verdict.after.state) == ("stopped", "running")
    assert verdict.after.instance_id == instance
    assert cloud.ran == [], "its minion has its key, and nothing is installed again"
    assert cloud.reports == ["starting web-1"]


def test_started_machine_has_time_to_boot(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(monotonic=lambda: 0.5))
    cloud.client.stop_instances(InstanceIds=[cloud.living()["web-1"]])
    cloud.apply()
    assert cloud.deadlines["web-1"] == 0.5 + snapshot.NEW_SECONDS
    assert cloud.deadlines["web-2"] == 0.5 + snapshot.KNOWN_SECONDS


def test_started_machine_whose_minion_stays_silent_is_repaired(cloud: Cloud) -> None:
    cloud.client.stop_instances(InstanceIds=[cloud.living()["web-1"]])
    cloud.silent.add("web-1")
    verdict = verdict_on(cloud.apply(), "web-1")
    assert (verdict.outcome, verdict.ready) == ("repaired", True)
    assert cloud.counted == [1]


def test_machine_that_ec2_does_not_start_has_reason_of_salt_cloud(
    cloud: Cloud, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.client.stop_instances(InstanceIds=[cloud.living()["web-1"]])
    cloud.failing["web-1"] = "no capacity in eu-west-1a"
    answer: Any = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "none left"}}

    def refuse(**_: object) -> None:
        raise ClientError(answer, "StartInstances")

    monkeypatch.setattr(cloud.client, "start_instances", refuse)
    verdict = verdict_on(cloud.apply(), "web-1")
    assert (verdict.outcome, verdict.reason) == ("kept", "no capacity in eu-west-1a")
    assert "starting web-1: " in log.path.read_text()


def test_machine_with_ssh_error_is_reported_and_not_repaired(cloud: Cloud) -> None:
    cloud.refusing_ssh.add("web-1")
    verdict = verdict_on(cloud.apply(), "web-1")
    assert (verdict.outcome, verdict.reachable, verdict.answers) == ("kept", False, True)
    assert verdict.reason == "SSH to web-1 failed: Connection refused"
    cloud.silent.add("web-1")
    assert verdict_on(cloud.apply(), "web-1").reason == "its minion does not answer"
    assert cloud.ran == []
    assert all(machine.deployed for machine in find_machines(cloud.client, cloud.deployment))


def test_machine_with_unfinished_deploy_is_repaired_despite_ssh_error(
    cloud: Cloud,
) -> None:
    cloud.end(cloud.living()["web-1"])
    cloud.start("web-1", "pending")
    cloud.refusing_ssh.add("web-1")
    cloud.meanwhile = cloud.refusing_ssh.clear
    assert outcomes(cloud.apply())["web-1"] == "repaired"


def test_machine_without_capacity_is_absent(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = "no capacity\n  in eu-west-1a"
    verdict = verdict_on(cloud.apply(), "web-2")
    assert (verdict.outcome, verdict.after, verdict.reason) == (
        "absent",
        None,
        "no capacity in eu-west-1a",
    )


def test_machine_lost_during_run_is_absent_or_replaced(cloud: Cloud) -> None:
    old = cloud.living()["web-1"]
    cloud.silent.add("web-1")
    cloud.meanwhile = lambda: cloud.end(old)
    assert verdict_on(cloud.apply(), "web-1").outcome == "absent"

    lost = cloud.living()["web-2"]

    def replace() -> None:
        cloud.end(lost)
        cloud.start("web-2")

    cloud.meanwhile = replace
    verdict = verdict_on(cloud.apply(), "web-2")
    assert (verdict.outcome, verdict.ready) == ("replaced", True)
    new = cloud.living()["web-2"]
    assert new != lost
    assert [machine and machine.instance_id for machine in (verdict.before, verdict.after)] == [
        lost,
        new,
    ]


def test_two_machines_of_a_name_are_not_ready(cloud: Cloud) -> None:
    ids = {cloud.living()["web-1"], cloud.start("web-1")}
    result = cloud.apply("destroy")
    verdict = verdict_on(result, "web-1")
    assert verdict.outcome == "twice"
    assert all(instance in verdict.reason for instance in ids)
    assert [other.machine for other in result.failed] == ["web-1"]
    assert cloud.ran == []


def test_second_machine_of_a_name_is_not_destroyed(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.meanwhile = lambda: cloud.start("web-1")
    assert outcomes(cloud.apply("destroy")) == {
        "salt-1": "kept",
        "web-1": "twice",
        "web-2": "launched",
    }
    assert len(find_machines(cloud.client, cloud.deployment)) == 4


def test_remaining_machine_of_two_counts_as_kept(cloud: Cloud) -> None:
    cloud.start("web-1")
    cloud.end(cloud.living()["web-2"])
    ended = cloud.living()["web-1"]
    cloud.meanwhile = lambda: cloud.end(ended)
    assert outcomes(cloud.apply()) == {"salt-1": "kept", "web-1": "kept", "web-2": "launched"}


def test_unmapped_machine_is_unexpected_only_if_it_is_new(
    cloud: Cloud,
) -> None:
    cloud.start("web-8")
    assert not cloud.apply().failed
    cloud.end(cloud.living()["web-2"])
    cloud.meanwhile = lambda: cloud.start("web-9")
    result = cloud.apply("destroy")
    assert [(verdict.machine, verdict.outcome) for verdict in result.failed] == [
        ("web-9", "unexpected")
    ]
    assert "web-9" in cloud.living()


# -- a slow minion, a slow master ------------------------------------------------------------------


def test_minions_have_time_to_answer_after_run(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(monotonic=lambda: 0.5))
    cloud.end(cloud.living()["web-2"])
    assert not cloud.apply().failed
    known, new = 0.5 + snapshot.KNOWN_SECONDS, 0.5 + snapshot.NEW_SECONDS
    assert cloud.deadlines == {"salt-1": known, "web-1": known, "web-2": new}


def test_unreachable_minions_fail_the_run_and_no_machine(cloud: Cloud, log: Log) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.unreachable = True
    result = cloud.apply("destroy")
    assert not result.failed
    assert outcomes(result) == {"salt-1": "kept", "web-1": "kept", "web-2": "launched"}
    assert {verdict.machine for verdict in result.verdicts if verdict.answers} == {"web-2"}, (
        "the installed minion was asked before the master failed"
    )
    with pytest.raises(
        LaunchError,
        match=r"^salt-1 gets no answer from its own minion\. Run the same command again",
    ):
        result.require(log)
    assert "web-2" in cloud.living()


def test_failed_machine_is_destroyed_despite_unreachable_minions(cloud: Cloud, log: Log) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    cloud.unreachable = True
    result = cloud.apply("destroy")
    assert verdict_on(result, "web-2").outcome == "destroyed"
    assert verdict_on(result, "web-2").reason.startswith(DIED)
    printed = r"^salt-1 gets no answer from its own minion\. 1 of 3 machines is not ready: web-2\."
    with pytest.raises(LaunchError, match=printed):
        result.require(log)


def test_unreachable_machine_is_not_called_repaired(cloud: Cloud) -> None:
    cloud.silent.add("web-1")
    cloud.unreachable = True
    cloud.meanwhile = lambda: cloud.silent.add("web-1")
    assert outcomes(cloud.apply())["web-1"] == "kept"


# -- what salt-cloud says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [CommandError("salt-cloud failed: Unable to locate credentials."), None]
)
def test_error_of_salt_cloud_fails_the_run_with_ready_machines(
    cloud: Cloud, log: Log, error: Exception | None
) -> None:
    cloud.silent.add("web-1")
    cloud.output = error or "Traceback (most recent call last): out of [memory]"
    result = cloud.apply()
    assert not result.failed
    printed = (
        r"Unable to locate credentials\. Run"
        if error
        else r"printed 'Traceback .*: out of \[memory\]' in place of JSON\. Run"
    )
    with pytest.raises(LaunchError, match=printed):
        result.require(log)


def test_read_output_skips_output_of_deploy_script() -> None:
    answer = {"web-1": {"deployed": True, "tags": {}}, "web-2": {"Error": "{\nno"}}
    noise = 'salt-minion deploy: {\n{"web-1": 1}\n{\n'
    assert salt_cloud.read_output(noise + json.dumps(answer, indent=4) + "\n") == answer
    assert salt_cloud.read_output("{}\n") == {}


@pytest.mark.parametrize(
    ("output", "quoted"),
    [
        ("", "printed nothing"),
        ("No nodes\ndefined", "'No nodes defined'"),
        ('{\n    "web-1": {', "'{ \"web-1\": {'"),
        ("x" * 300 + " the end", "'… x*the end'"),
    ],
)
def test_read_output_quotes_what_is_no_json(output: str, quoted: str) -> None:
    with pytest.raises(LaunchError) as caught:
        salt_cloud.read_output(output)
    begin, _, end = quoted.partition("*")
    assert begin in str(caught.value)
    assert end in str(caught.value)
    assert len(str(caught.value)) < 300


def test_verdict_knows_nothing_until_it_is_told() -> None:
    verdict = Verdict("web-1", "absent", None, None)
    assert (verdict.reachable, verdict.answers, verdict.ready) == (False, False, True)
    assert verdict.as_dict()["before"] is verdict.as_dict()["after"] is None


def test_result_has_the_machines_that_exist() -> None:
    machine = Machine("web-1", "i-1", "running", "10.20.1.11", "")
    verdicts = (Verdict("web-1", "kept", None, machine), Verdict("web-2", "absent", machine, None))
    assert Result(verdicts).machines == {"web-1": machine}


def test_result_names_every_machine_that_is_not_ready(log: Log) -> None:
    short = [Verdict(name, "absent", None, None, reason="none") for name in NAMES[1:]]
    with pytest.raises(
        LaunchError, match=r"^2 of 2 machines are not ready: web-1, web-2\. .* Log: "
    ):
        Result(tuple(short)).require(log)


# -- destroying ------------------------------------------------------------------------------------


def test_destroy_removes_launched_machine_that_is_not_ready(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    cloud.meanwhile = lambda: cloud.client.modify_instance_attribute(  # as postgres-1 is launched
        InstanceId=cloud.living()["web-2"], DisableApiTermination={"Value": True}
    )
    result = cloud.apply("destroy")
    verdict = verdict_on(result, "web-2")
    assert (verdict.outcome, verdict.after, verdict.deployed) == ("destroyed", None, False)
    assert verdict.reason == f"{DIED}; then it was destroyed, and its key with it"
    assert cloud.ran == [["--map", "small"], ["--destroy", "web-2"]]
    assert cloud.counted == [1, 1]
    assert cloud.reports == [
        "salt-cloud launches or repairs web-2",
        "waiting for the minions",
        "destroying web-2",
    ]
    assert sorted(cloud.living()) == ["salt-1", "web-1"]
    assert len(cloud.client.describe_volumes()["Volumes"]) == 2, "its disk went with it"


def test_destroyed_machine_takes_its_root_disk_and_no_other(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = DIED
    disks: dict[str, str] = {}

    def keep_the_disks() -> None:  # as the profile of postgres-1 asks for it
        (page,) = cloud.client.describe_instances(InstanceIds=[cloud.living()["web-2"]])[
            "Reservations"
        ]
        instance = page["Instances"][0]
        (root,) = instance["BlockDeviceMappings"]
        assert root["DeviceName"] == instance["RootDeviceName"]
        zone = instance["Placement"]["AvailabilityZone"]
        data = cloud.client.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        cloud.client.attach_volume(
            Device="/dev/sdf", InstanceId=instance["InstanceId"], VolumeId=data
        )
        for device in (root["DeviceName"], "/dev/sdf"):
            cloud.client.modify_instance_attribute(
                InstanceId=instance["InstanceId"],
                BlockDeviceMappings=[{"DeviceName": device, "Ebs": {"DeleteOnTermination": False}}],
            )
        disks.update(root=root["Ebs"]["VolumeId"], data=data)

    cloud.meanwhile = keep_the_disks
    assert verdict_on(cloud.apply("destroy"), "web-2").outcome == "destroyed"
    remaining = {volume["VolumeId"] for volume in cloud.client.describe_volumes()["Volumes"]}
    assert disks["root"] not in remaining
    assert disks["data"] in remaining
    cloud.client.delete_volume(VolumeId=disks["data"])


def test_destroy_keeps_machines_that_existed_before(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    pending = cloud.start("web-2", "pending")
    cloud.failing["web-2"] = DIED
    cloud.refusing_ssh.add("web-1")
    result = cloud.apply("destroy")
    assert [(verdict.machine, verdict.outcome) for verdict in result.failed] == [
        ("web-1", "kept"),
        ("web-2", "kept"),
    ]
    assert cloud.living()["web-2"] == pending
    assert cloud.ran == [["--map", "small"]]


def test_destroy_keeps_renamed_machine(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.failing["web-2"] = "no capacity"
    old = cloud.start("web-9", "pending")
    tags: list[Any] = [{"Key": "Name", "Value": "web-2"}]
    cloud.meanwhile = lambda: cloud.client.create_tags(Resources=[old], Tags=tags)
    assert [(verdict.machine, verdict.outcome) for verdict in cloud.apply("destroy").failed] == [
        ("web-2", "launched")
    ]
    assert cloud.living()["web-2"] == old


@pytest.mark.parametrize("error", [CommandError("salt-cloud failed: Connection reset"), None])
def test_machine_that_cannot_be_destroyed_keeps_its_verdict(
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
    verdict = verdict_on(cloud.apply("destroy"), "web-2")
    assert (verdict.outcome, verdict.after is None) == ("launched", False)
    printed = "salt-cloud failed: Connection reset" if error else "it still runs"
    assert verdict.reason == f"{DIED}; destroying it failed: {printed}"


# -- looking first ---------------------------------------------------------------------------------


def test_plan_names_steps_and_changes_nothing(cloud: Cloud) -> None:
    cloud.end(cloud.living()["web-2"])
    cloud.silent.add("web-1")
    before = find_machines(cloud.client, cloud.deployment)
    result = launch.plan(cloud.client, cloud, NAMES)
    assert outcomes(result) == {"salt-1": "kept", "web-1": "to repair", "web-2": "to launch"}
    assert [verdict.reason for verdict in result.verdicts] == [
        "",
        "its minion does not answer",
        "it does not exist",
    ]
    assert find_machines(cloud.client, cloud.deployment) == before
    assert cloud.ran == []


def test_plan_omits_what_salt_cloud_cannot_repair(cloud: Cloud) -> None:
    cloud.silent.add("web-1")
    cloud.refusing_ssh.add("web-1")
    cloud.start("web-2")
    result = launch.plan(cloud.client, cloud, NAMES)
    assert outcomes(result) == {"salt-1": "kept", "web-1": "kept", "web-2": "twice"}
    assert [verdict.machine for verdict in result.failed] == ["web-1", "web-2"]


# -- the verb --------------------------------------------------------------------------------------


class Shell:
    """A shell in which nothing runs."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def trust(self, machine: Machine) -> None:
        assert machine.name == "salt-1"


class Session:
    """The lock on the master, which is free."""

    jobs = None
    held: ClassVar[list[str]] = []

    def __init__(self, *_: object, **__: object) -> None:
        self.held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def hold(self, machine: Machine) -> None:
        self.held.append(machine.name)


class Master(Cloud):
    """The master as the verb makes it, with the map on it."""

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
    monkeypatch.setattr(cli, "Session", Session)
    monkeypatch.setattr(cli, "Master", lambda *_: made)
    monkeypatch.setattr(limits, "check", lambda *_: [])  # its services are not moto's
    return made


def test_verb_prints_table_and_exits_with_0_if_all_are_ready(
    master: Master, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["launch"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("kept") == len(NAMES)
    assert "stackctl up" not in printed.out
    assert printed.err == ""
    assert Session.held == ["salt-1"]
    master.end(master.living()["web-2"])
    assert cli.main(["launch", "--serial"]) == 0
    assert "stackctl up applies it" in capsys.readouterr().out
    assert master.ran == [["--map", "/etc/salt/cloud.maps.d/small.map"]]


def test_verb_asks_the_account_first(
    master: Master, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> list[str]:
        raise PreflightError("The quota is too small.")

    master.end(master.living()["web-2"])
    monkeypatch.setattr(limits, "check", refuse)
    assert cli.main(["launch"]) == 1
    assert master.ran == []
    printed = capsys.readouterr().err
    assert printed == (
        "error: The quota is too small. 2 instances run: salt-1, web-1; stackctl down removes"
        " them, stackctl up goes on.\n"
    )
    monkeypatch.setattr(limits, "check", lambda *_: ["the quota is unknown"])
    assert cli.main(["launch"]) == 0
    assert "warning: the quota is unknown" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--on-failure", "keep"], ["--on-failure", "destroy"]])
def test_verb_exits_with_1_if_a_machine_is_not_ready(
    master: Master, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    master.end(master.living()["web-2"])
    master.failing["web-2"] = DIED
    assert cli.main(["launch", *options]) == 1
    printed = capsys.readouterr()
    assert f"web-2: {DIED}" in printed.out
    assert master.living()["web-1"] in printed.out, "an id is not cut off"
    assert "error: 1 of 3 machines is not ready: web-2." in printed.err
    assert (
        ("destroyed" in printed.out) == ("destroy" in options) == ("web-2" not in master.living())
    )
    assert master.ran[0] == ["--map", "/etc/salt/cloud.maps.d/small.map", "--parallel"]


def test_json_option_prints_only_json(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    instance = master.living()["web-2"]
    master.end(instance)
    master.failing["web-2"] = DIED
    assert cli.main(["launch", "--json"]) == 1
    found = {row["machine"]: row for row in json.loads(capsys.readouterr().out)}
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
def test_dry_run_exits_with_0(
    master: Master, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    master.end(master.living()["web-2"])
    master.client.stop_instances(InstanceIds=[master.living()["web-1"]])
    assert cli.main(["launch", "--dry-run", *form]) == 0
    printed = capsys.readouterr().out
    assert "to launch" in printed
    assert "to start" in printed
    assert Session.held == [], "what changes nothing takes no lock"
    assert master.ran == []


def test_master_with_another_map_is_refused(
    master: Master, capsys: pytest.CaptureFixture[str]
) -> None:
    master.map_text += "redis: [redis-1]\n"
    assert cli.main(["launch"]) == 1
    assert (
        "small.map on salt-1 differs from the one here. Bring it there: stackctl up"
        in capsys.readouterr().err
    )
    assert master.ran == []


def test_unreachable_minions_before_run_are_an_error(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> set[str]:
        raise LaunchError("salt-1 gets no answer from its own minion.")

    monkeypatch.setattr(cloud, "answering", fail)
    with pytest.raises(StackError, match="gets no answer from its own minion"):
        cloud.apply("destroy")
    assert cloud.ran == []
