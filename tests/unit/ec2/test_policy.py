"""The IAM policy in docs/policy.json, and the IAM actions in the docstrings.

moto checks actions, not resources or conditions, so that these tests do not cover them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moto.core import set_initial_no_auth_action_count

from iamactions import FUNCTIONS, documented, undocumented
from saltext.ec2 import _archive, _client, _login, _session, host_keys
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import DeployError, Ec2Error, QueryFailed

POLICY = json.loads((Path(driver.__file__).parents[1] / "docs" / "policy.json").read_text())
ACTIONS = sorted(
    {
        action
        for statement in POLICY["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
)
UNCHECKED = {"iam:PassRole", "ssm:GetParameters"}  # moto does not check the first; see `live`
# What a map, a query, `stackctl` and the usual actions on machines call.
MAP_FUNCTIONS = (
    "get_configured_provider", "optimize_providers", "list_nodes", "list_nodes_min",
    "list_nodes_full", "list_nodes_select", "create", "destroy", "show_instance",
    "start", "stop", "reboot",
)  # fmt: skip

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def deploying(
    opts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Have machines deployed without SSH; return how to make the next deployments fail."""
    error: list[str] = []

    def run(*_: Any) -> None:
        if error and error[-1]:
            raise DeployError(error[-1])

    monkeypatch.setattr(_archive, "build", lambda *_: b"")
    monkeypatch.setattr(_login, "wait_for_port", lambda *_: None)
    monkeypatch.setattr(_session, "run", run)
    monkeypatch.setattr(host_keys, "from_console", lambda _: ["ssh-ed25519 AAAA"])
    (tmp_path / "key").touch(mode=0o600)
    opts |= {"deploy": True, "private_key": str(tmp_path / "key")}
    return error.append


@pytest.fixture
def live(
    ec2: Any,
    spot_requests: set[str],
    deploying: Callable[[str], None],
    machine: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[list[str]], None]:
    """Return how to create, list, act on and destroy a machine with the given IAM actions."""
    iam = _client._new_session(region_name="eu-west-1").client("iam")
    iam.create_user(UserName="salt")
    key = iam.create_access_key(UserName="salt")["AccessKey"]
    given = machine(
        "web-1",
        securitygroup="web",
        subnetname="a",
        spot_config={"type": "persistent"},
        associate_eip=ec2.allocate_address(Domain="vpc")["AllocationId"],
    )

    def call_with(actions: list[str]) -> None:
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="salt", PolicyName="salt-cloud", PolicyDocument=document)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        _client._connect.cache_clear()

        def call() -> None:
            driver.create(dict(given))
            driver.list_nodes_full()
            for action in (driver.reboot, driver.stop, driver.start):
                action("web-1", call="action")
            driver.destroy("web-1")

        set_initial_no_auth_action_count(0)(call)()

    return call_with


def test_policy_is_sufficient(live: Callable[[list[str]], None]) -> None:
    live(ACTIONS)


@pytest.mark.parametrize("action", [action for action in ACTIONS if action not in UNCHECKED])
def test_every_action_of_policy_is_necessary(
    live: Callable[[list[str]], None], action: str
) -> None:
    with pytest.raises((Ec2Error, QueryFailed), match=action.partition(":")[2]):
        live([other for other in ACTIONS if other != action])


def test_policy_holds_what_functions_of_a_map_require_and_nothing_else() -> None:
    required = {action for name in MAP_FUNCTIONS for action in documented(name).required}
    all_of_them = {action for name in MAP_FUNCTIONS for action in documented(name).all}
    assert required <= set(ACTIONS) <= all_of_them


def test_docstrings_name_exactly_the_actions_that_functions_use(
    ec2: Any,
    image: str,
    spot_requests: set[str],
    deploying: Callable[[str], None],
    machine: Make,
    opts: dict[str, Any],
    tmp_path: Path,
    used_actions: dict[str, set[str]],
) -> None:
    call_create_and_destroy(ec2, image, deploying, machine)
    opts["query.selection"] = ["id"]
    for query in QUERIES:
        getattr(driver, query)()
    tried = {"image": "ssm:/images/web", "iam_profile": "web", "provider": "cloud:ec2"}
    machine("web-9")
    opts["profiles"]["tried"] = {**opts["profiles"]["small"], **tried}
    filled = opts["cachedir"]  # the machines above have filled it
    opts |= {"profile": "tried", "names": ["web-9"], "cachedir": str(tmp_path / "tried")}
    driver.optimize_providers({"cloud": opts["providers"]["cloud"]["ec2"]})
    for name in ("profile", "names"):
        del opts[name]
    opts["cachedir"] = filled
    driver.show_image({"image": "ssm:/images/other"}, call="function")
    driver.create(machine("web-1"))
    named = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "edge"}]}]
    ec2.allocate_address(Domain="vpc", TagSpecifications=named)
    given = {"image": "ssm:/images/other", "keyname": "deploy", "associate_eip": "edge"}
    (tmp_path / "web.map").write_text(json.dumps({"small": [{"web-2": given}]}))
    opts["cachedir"] = str(tmp_path / "empty")  # the machines above have filled the cache
    assert driver.check({"map": str(tmp_path / "web.map")}, call="function") == {"faults": []}
    for name, arguments in ACTIONS_OF_MACHINE:
        # moto knows no (Un)MonitorInstances, which it says after the call is recorded.
        with contextlib.suppress(NotImplementedError):
            getattr(driver, name)("web-1", arguments, call="action")
    call_functions(ec2, tmp_path)
    used = {name: used_actions.get(name, set()) for name in FUNCTIONS}
    assert used == {name: set(documented(name).all) for name in FUNCTIONS}


def test_action_that_a_docstring_does_not_name_is_found() -> None:
    used = {"stop": {"ec2:DescribeInstances", "ec2:CreateTags"}, "start": {"ec2:StartInstances"}}
    assert undocumented(used) == {"stop": {"ec2:CreateTags"}}


def test_docstring_without_iam_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.stop, "__doc__", "Stop a machine.")
    with pytest.raises(ValueError, match="stop has no line IAM"):
        documented("stop")


QUERIES = (
    "get_configured_provider", "list_nodes", "list_nodes_min", "list_nodes_full",
    "list_nodes_select", "avail_locations", "avail_sizes", "avail_images",
    "list_availability_zones",
)  # fmt: skip
ACTIONS_OF_MACHINE: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in (
        "show_instance", "stop", "start", "reboot", "get_console_output", "get_tags",
        "show_term_protect", "enable_term_protect", "disable_term_protect",
        "show_detailed_monitoring", "enable_detailed_monitoring", "disable_detailed_monitoring",
        "show_delvol_on_destroy", "delvol_on_destroy", "keepvol_on_destroy", "show_volumes",
    )),
    ("set_tags", {"tier": "front"}),
    ("del_tags", {"tags": "tier"}),
)  # fmt: skip


def call_create_and_destroy(
    ec2: Any, image: str, deploying: Callable[[str], None], machine: Make
) -> None:
    """Create and destroy machines with every option that needs an IAM action of its own."""
    ssm = _client._new_session(region_name="eu-west-1").client("ssm")
    for name in ("/images/web", "/images/other"):
        ssm.put_parameter(Name=name, Value=image, Type="String")
    iam = _client._new_session(region_name="eu-west-1").client("iam")
    iam.create_instance_profile(InstanceProfileName="web")
    zone = ec2.describe_subnets()["Subnets"][0]["AvailabilityZone"]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    interface = {
        "SubnetName": "a",
        "SecurityGroupId": "web",
        "allocate_new_eip": True,
        "SourceDestCheck": False,
    }
    options = {
        "image": "ssm:/images/web",
        "iam_profile": "web",
        "spot_config": {"type": "persistent"},
        "network_interfaces": [interface],
        "subnetname": None,
        "securitygroup": None,
        "on_failure": "destroy",
    }
    created = driver.create(
        machine("web-1", volumes=[{"device": "/dev/sdf", "volume_id": volume}], **options)
    )
    ec2.stop_instances(InstanceIds=[created["id"]])
    driver.create(machine("web-1", **options))
    driver.__opts__["rename_on_destroy"] = True
    driver.destroy("web-1")
    deploying("no route")
    with pytest.raises(DeployError, match="it was destroyed"):
        driver.create(machine("web-2", termination_protection=True, **options))
    deploying("")
    del driver.__opts__["rename_on_destroy"]


def call_functions(ec2: Any, folder: Path) -> None:
    """Call every function for volumes, snapshots, images and key pairs, and `rename`."""
    zone = ec2.describe_subnets()["Subnets"][0]["AvailabilityZone"]
    for create in (driver.create_volume, driver.volume_create):
        made = create({"zone": zone, "tags": {"tier": "log"}}, call="function")
    volume = {"volume_id": made["VolumeId"]}
    for describe in (driver.describe_volumes, driver.volume_list, driver.show_volume):
        describe(kwargs=volume, call="function")
    driver.attach_volume("web-1", {**volume, "device": "/dev/sdg"}, call="action")
    driver.show_volume("web-1", volume, call="action")
    driver.detach_volume("web-1", volume, call="action")
    snapshot = driver.create_snapshot(volume, call="function")
    driver.delete_volume(volume, call="function")
    source = {"source_region": "eu-west-1", "source_snapshot_id": snapshot["snapshot_id"]}
    copy = driver.copy_snapshot(source, call="function")
    driver.describe_snapshots(call="function")
    driver.delete_snapshot({"snapshot_id": copy["snapshot_id"]}, call="function")
    root = {"ami_name": "web", "root_device_name": "/dev/xvda"}
    driver.register_image({**root, "snapshot_id": snapshot["snapshot_id"]}, call="function")
    driver.create_keypair({"keyname": "k"}, call="function")
    driver.show_keypair({"keyname": "k"}, call="function")
    driver.delete_keypair({"keyname": "k"}, call="function")
    public = ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"][0]["PublicKey"]
    (folder / "key.pub").write_text(public)
    driver.import_keypair({"keyname": "i", "file": str(folder / "key.pub")}, call="function")
    driver.stop("web-1", call="action")  # the name of a running minion stays
    driver.rename("web-1", {"newname": "web-3"}, call="action")
