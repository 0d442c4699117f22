"""A launch that AWS refuses in the middle: what it says, what runs, and that a rerun goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import StringIO
from typing import Any

import pytest
from botocore.exceptions import ClientError
from rich.console import Console

import awsenvironment
from localcloud import catalog, faults
from localcloud.limits import Limits
from memorycloud import Running
from saltext.ec2.tags import DEPLOY_TAG
from stackctl import billing, cli
from stackctl.deployment import Deployment
from stackctl.errors import AwsError, BusyError, ConvergeError, LaunchError, StackError
from stackctl.launch import Launcher
from stackctl.machines import Machine, ec2_client
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.salt_cloud import Request

NAMES = ["salt-1", "lb-1", "postgres-1", "redis-1", "web-1", "web-2"]
ZONE = {"eu-west-1a": ("t2.micro",)}


class Host:
    """A host whose salt-cloud launches what is missing, and reports errors as the driver does."""

    def __init__(self, client: Any, deployment: Deployment, subnet: str) -> None:
        self.client, self.deployment, self.subnet = client, deployment, subnet

    def salt_cloud(self, args: Sequence[str], machines: int) -> str:  # noqa: ARG002
        answers: dict[str, Any] = {}
        pages = self.client.describe_instances()["Reservations"]
        found = {tag["Value"] for group in pages for tag in group["Instances"][0]["Tags"]}
        for name in NAMES:
            if name in found:
                continue
            tags = {"Name": name, DEPLOY_TAG: "done", **self.deployment.owner()}
            listed = [{"Key": key, "Value": value} for key, value in tags.items()]
            try:
                self.client.run_instances(
                    ImageId=catalog.IMAGE_ID, InstanceType="t2.micro", MinCount=1, MaxCount=1,
                    SubnetId=self.subnet,
                    TagSpecifications=[{"ResourceType": "instance", "Tags": listed}],
                )  # fmt: skip
            except ClientError as error:
                found_error = error.response["Error"]
                text = f"RunInstances: {found_error['Code']}: {found_error['Message'].rstrip('.')}"
                answers[name] = {"Error": f"launching {name} failed: {text}; run the same command"}
            else:
                answers[name] = {"deployed": True}
        return json.dumps(answers, indent=4)

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:  # noqa: ARG002
        return set(machines)

    def reach(self, machine: Machine) -> None: ...


@pytest.fixture
def prod(deployment: Deployment) -> Deployment:
    """A deployment in a real account."""
    return Deployment("prod", deployment.root)


@pytest.fixture
def client(in_cloud: Running, prod: Deployment) -> Any:
    """A client that does not wait long before it gives up."""
    return ec2_client(prod)


@pytest.fixture
def host(client: Any, prod: Deployment) -> Host:
    """Where salt-cloud runs."""
    vpc = client.create_vpc(CidrBlock="10.44.0.0/16")["Vpc"]["VpcId"]
    made = client.create_subnet(VpcId=vpc, CidrBlock="10.44.1.0/24", AvailabilityZone="eu-west-1a")
    return Host(client, prod, made["Subnet"]["SubnetId"])


def launch(deployment: Deployment, host: Host, log: Log, cloud: Running) -> None:
    """Have the machines of the map launched, as `up` does."""
    host.deployment = deployment
    progress = Progress(Console(file=StringIO()), log)
    launcher = Launcher(host.client, progress, log, show=lambda _: None)
    with billing.told(deployment, host.client):
        launcher.step("machines", Request(host, NAMES, ["--map"]))
    cloud.settle()


def injecting(cloud: Running, given: Any) -> AbstractContextManager[Any]:
    if isinstance(given, Limits):
        return cloud.faults.limit(given)
    return cloud.faults.inject(given) if given else nullcontext()


REFUSED = {
    "quota": (Limits(vcpus=5), 5, "The account's quota of vCPUs is used up: end other instances"),
    "plan": (Limits(plan="FREE"), 0, "The account is on AWS's Free plan, which has no instances"),
    "verification": (Limits(pending_verification=True), 0, "AWS still verifies the account"),
    "zone": (Limits(not_offered=ZONE), 0, "The zone does not have this instance type: set another"),
    "capacity": (Limits(exhausted=ZONE), 0, "The zone has no room for this instance type now"),
    "denial": (faults.denied("RunInstances"), 0, "No policy of who asks allows it: docs/security."),
    "expiry": (faults.expired("RunInstances", skip=4), 4, "The AWS credentials have ended, or"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusal_says_cause_and_what_runs_and_a_rerun_completes(
    prod: Deployment, host: Host, in_cloud: Running, log: Log, kind: str
) -> None:
    given, run, cause = REFUSED[kind]
    with injecting(in_cloud, given), pytest.raises(LaunchError) as caught:
        launch(prod, host, log, in_cloud)
    message = str(caught.value)
    assert message.count(cause) == 1
    missing = NAMES[run:]
    verb = "is" if len(missing) == 1 else "are"
    assert f"{len(missing)} of 6 machines {verb} not ready: {', '.join(missing)}." in message
    told = (
        f"{run} instances run and are billed: {', '.join(sorted(NAMES[:run]))};"
        " stackctl down -d prod removes them, stackctl up -d prod goes on."
    )
    assert (told if run else "No instance runs.") in message
    launch(prod, host, log, in_cloud)
    assert running(host.client) == sorted(NAMES)
    launch(prod, host, log, in_cloud)
    assert running(host.client) == sorted(NAMES)


def running(client: Any) -> list[str]:
    groups = client.describe_instances()["Reservations"]
    return sorted(
        tag["Value"]
        for group in groups
        for instance in group["Instances"]
        if instance["State"]["Name"] == "running"
        for tag in instance["Tags"]
        if tag["Key"] == "Name"
    )


# -- what runs -------------------------------------------------------------------------------------


def fail(deployment: Deployment, client: Any, error: Exception) -> StackError:
    with pytest.raises(StackError) as caught, billing.told(deployment, client):
        raise error
    return caught.value


def test_one_instance_is_told_of_in_the_singular(
    prod: Deployment, host: Host, in_cloud: Running, log: Log
) -> None:
    with in_cloud.faults.limit(Limits(vcpus=1)), pytest.raises(LaunchError) as caught:
        launch(prod, host, log, in_cloud)
    assert (
        "1 instance runs and is billed: salt-1; stackctl down -d prod removes it, stackctl up -d"
        " prod goes on." in str(caught.value)
    )


def test_local_instances_are_not_billed(
    deployment: Deployment, host: Host, in_cloud: Running, log: Log
) -> None:
    launch(deployment, host, log, in_cloud)
    hint = fail(deployment, host.client, LaunchError("web-1 is not ready.", "Try again.")).hint
    assert re.fullmatch(
        r"Try again\. 6 instances run: .*; stackctl down removes them, stackctl up goes on\.", hint
    )


def test_error_of_a_complete_stack_does_not_speak_of_bills(
    prod: Deployment, host: Host, in_cloud: Running, log: Log
) -> None:
    launch(prod, host, log, in_cloud)
    assert fail(prod, host.client, ConvergeError("web-1: a state failed.", "Mend it.")).hint == (
        "Mend it."
    )
    assert fail(prod, host.client, BusyError("Another run.", "Wait.")).hint == "Wait."


def test_failed_state_on_a_half_launched_stack_speaks_of_bills(
    prod: Deployment, host: Host, in_cloud: Running, log: Log
) -> None:
    with in_cloud.faults.limit(Limits(vcpus=1)), pytest.raises(LaunchError):
        launch(prod, host, log, in_cloud)
    hint = fail(prod, host.client, ConvergeError("salt-1: a state failed.", "Mend it.")).hint
    assert hint.startswith("Mend it. 1 instance runs and is billed: salt-1;")


def test_credentials_that_end_leave_a_sentence(
    prod: Deployment, client: Any, in_cloud: Running
) -> None:
    with in_cloud.faults.inject(faults.expired()):
        try:
            client.describe_vpcs()
        except ClientError as caught:
            error = fail(prod, client, caught)
    assert isinstance(error, AwsError)
    assert error.what.startswith("An error occurred (RequestExpired) when calling the DescribeVpcs")
    assert "The AWS credentials have ended, or this host's clock is wrong: renew them" in error.hint
    with in_cloud.faults.inject(faults.expired()):
        silent = fail(prod, client, LaunchError("web-1 is not ready."))
    assert silent.hint.startswith("EC2 does not say which instances run and are billed: An error")


# -- the command line ------------------------------------------------------------------------------


def test_expired_credentials_end_a_verb_with_a_sentence(
    prod: Deployment,
    in_cloud: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verb(*_: object) -> int:
        ec2_client(prod).describe_vpcs()
        return 0

    prod.pillar_dir.mkdir()
    prod.settings_path.write_text("settings: {}\n")
    monkeypatch.setattr(cli, "repository_root", lambda: prod.root)
    monkeypatch.setitem(cli.VERBS, "status", verb)
    awsenvironment.use(monkeypatch, in_cloud)
    with in_cloud.faults.inject(faults.expired()):
        assert cli.main(["status", "-d", "prod"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: An error occurred (RequestExpired) when calling")
    assert printed.endswith("then run the same command again: it goes on from here.\n")
    assert cli.main(["status", "-d", "prod"]) == 0
