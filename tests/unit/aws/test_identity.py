"""The Salt master's policy allows what the stack does, and nothing beside it.

salt-1 runs in a local cloud, which weighs policies. Its programs do there what `up`, `scale`, a
repair and a removal do, with the credentials that the metadata service gives to salt-1. `recorded`
is what they asked of IAM; `FORBIDDEN` says what of it has to be refused when it concerns something
else. No part of the policy can be left out without a difference in one of the two.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import salt.config
import yaml
from botocore.exceptions import ClientError

from localcloud import catalog
from localcloud.config import METADATA
from localcloud.policies import Access, Value, decide
from memorycloud import Running
from plainpillar import DEPLOYMENT, ROOT
from policymutants import as_list, mutants
from reference import findings
from saltext.ec2 import _archive, _client, _login, _session
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import ApiError
from saltmodules import load, load_file
from stackctl import maps
from waiting import until

Requests = dict[str, dict[str, Any]]
Statement = dict[str, Any]
ACCOUNT = "123456789012"
BUCKET = f"airflow-stack-test-{ACCOUNT}-eu-west-1"
OF_BUCKET = f"arn:aws:s3:::{BUCKET}"
PUBLIC_PARAMETERS = "arn:*:ssm:*:*:parameter/*"
ROLES = ("lb", "web", "postgres", "redis")  # what the master launches


def arn(kind: str, name: str, region: str = "eu-west-1") -> str:
    return f"arn:aws:ec2:{region}:{ACCOUNT}:{kind}/{name}"


@dataclass(frozen=True)
class Other:
    """What is not allowed, although something like it is.

    Args:
        action: an action that the master needs.
        kind: the kind of its resource; empty: it has none.
        keys: condition keys with other values; None: without the key.
        resource: another resource; empty: the same.
        has: condition keys of the allowed access that this differs from.
    """

    action: str
    kind: str = ""
    keys: Mapping[str, Value | None] = field(default_factory=dict)
    resource: str = ""
    has: Mapping[str, Value] = field(default_factory=dict)

    def concerns(self, access: Access) -> bool:
        """Return whether this is like an access."""
        return (
            access.action == self.action
            and kind_of(access) == self.kind
            and all(access.keys.get(key) == value for key, value in self.has.items())
        )

    def of(self, access: Access) -> Access:
        """Return the access with what is other."""
        keys = {**access.keys, **self.keys}
        given = {key: value for key, value in keys.items() if value is not None}
        return replace(access, resource=self.resource or access.resource, keys=given)


LAUNCH, TAG = "ec2:RunInstances", "ec2:CreateTags"
ABROAD: dict[str, Value | None] = {"aws:RequestedRegion": "us-east-1", "ec2:Region": "us-east-1"}
ABROAD_INSTANCE = arn("instance", "i-1", "us-east-1")
OWNER = ("project", "deployment")  # the tags that say whose something is
FOREIGN: list[dict[str, Value | None]] = [{f"aws:ResourceTag/{tag}": "mining"} for tag in OWNER]
OWN: dict[str, Value] = {"aws:ResourceTag/project": "airflow-stack"}
AT_LAUNCH: dict[str, Value] = {"ec2:CreateAction": "RunInstances"}
MANAGED = (
    "DescribeInstanceAttribute", "GetConsoleOutput", "ModifyInstanceAttribute", "RebootInstances",
    "StartInstances", "StopInstances", "TerminateInstances",
)  # fmt: skip
MODIFY, PROTECTION = "ec2:ModifyInstanceAttribute", "ec2:Attribute/DisableApiTermination"
FORBIDDEN = (
    Other("ec2:DescribeInstances", keys=ABROAD),
    Other(
        "ssm:GetParameters", "parameter", resource=f"arn:aws:ssm:eu-west-1:{ACCOUNT}:parameter/own"
    ),
    Other(LAUNCH, "instance", {"ec2:InstanceType": "p5.48xlarge"}),
    *(
        Other(LAUNCH, kind, {f"aws:RequestTag/{tag}": value})
        for kind in ("instance", "volume", "network-interface")
        for tag in OWNER
        for value in ("mining", None)
    ),
    Other(LAUNCH, "image", {"ec2:Owner": "999999999999"}),
    Other(LAUNCH, "image", resource="arn:aws:ec2:us-east-1::image/ami-1"),
    *(
        Other(LAUNCH, kind, {f"aws:ResourceTag/{tag}": value})
        for kind in ("subnet", "security-group")
        for tag in OWNER
        for value in ("mining", None)
    ),
    Other(LAUNCH, "key-pair", resource=arn("key-pair", "of-another-stack")),
    Other(LAUNCH, "instance", resource=arn("launch-template", "lt-1")),
    Other(TAG, "instance", {"ec2:CreateAction": None}, has=AT_LAUNCH),
    Other(TAG, "instance", {"ec2:CreateAction": "CreateVolume"}, has=AT_LAUNCH),
    Other(TAG, "instance", ABROAD, arn("instance", "*", "us-east-1"), has=AT_LAUNCH),
    Other(TAG, "instance", resource=arn("security-group", "*"), has=AT_LAUNCH),
    *(Other(TAG, "instance", foreign, has=OWN) for foreign in FOREIGN),
    Other(TAG, "instance", ABROAD, ABROAD_INSTANCE, OWN),
    *(
        Other(TAG, "instance", {"aws:TagKeys": ("salt-cloud:deploy", tag)}, has=OWN)
        for tag in (*OWNER, "Name")
    ),
    Other(MODIFY, "instance", {PROTECTION: "true"}),
    Other(MODIFY, "instance", {PROTECTION: None, "ec2:Attribute/UserData": "IyEvYmluL3No"}),
    Other(MODIFY, "instance", {"ec2:Attribute/UserData": "IyEvYmluL3No"}),
    *(Other(f"ec2:{action}", "instance", foreign) for foreign in FOREIGN for action in MANAGED),
    *(Other(f"ec2:{action}", "instance", ABROAD, ABROAD_INSTANCE) for action in MANAGED),
    Other("iam:PassRole", "role", {"iam:PassedToService": "lambda.amazonaws.com"}),
    *(
        Other("iam:PassRole", "role", resource=f"arn:aws:iam::{ACCOUNT}:role/{name}")
        for name in ("admin", "airflow-stack-test-salt", "airflow-stack-prod-lb")
    ),
    *(
        Other(action, BUCKET, resource=resource)
        for action in ("s3:GetObject", "s3:PutObject")
        for resource in (f"{OF_BUCKET}/postgres/a", "arn:aws:s3:::other/releases/a")
    ),
    *(Other("s3:ListBucket", BUCKET, {"s3:prefix": prefix}) for prefix in ("postgres/", None)),
    Other("s3:ListBucket", BUCKET, resource="arn:aws:s3:::other"),
    *(
        Other("s3:GetObjectVersion", BUCKET, resource=resource)
        for resource in (f"{OF_BUCKET}/postgres/a", "arn:aws:s3:::other/master/a")
    ),
    *(
        Other("s3:ListBucketVersions", BUCKET, {"s3:prefix": prefix})
        for prefix in ("postgres/", None)
    ),
    Other("s3:ListBucketVersions", BUCKET, resource="arn:aws:s3:::other"),
)


def kind_of(access: Access) -> str:
    """Return the kind of an access's resource, such as `subnet`."""
    return access.resource.split(":")[5].partition("/")[0] if access.resource != "*" else ""


@pytest.fixture(scope="module")
def policy(
    applied: dict[str, Any], client: Callable[[str], Any], pillar: dict[str, Any]
) -> list[Statement]:
    """The statements of the master's role in the account, of all its policies."""
    iam, role = client("iam"), pillar["aws"]["salt_role"]
    return [
        statement
        for name in ("salt-cloud", "releases", "backups")
        for statement in iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"][
            "Statement"
        ]
    ]


@pytest.fixture(scope="module")
def on_master(
    cloud: Running, requests: Requests, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Have this process be salt-cloud on salt-1; return how to make a machine of a role.

    Only the deployment by SSH is left out.
    """
    folder = tmp_path_factory.mktemp("master")
    for name in ("cloud.providers.d", "cloud.profiles.d"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "key").touch(mode=0o600)
    main = {
        "cachedir": str(folder / "cache"), "sock_dir": str(folder), "pki_dir": str(folder / "pki"),
        "log_file": str(folder / "log"), "deploy": True, "private_key": str(folder / "key"),
        "ssh_interface": "private_ips", "wait_for_ip_interval": 0.05,
        "owned_by": DEPLOYMENT.owner(),
        "deploy_scripts_search_path": [str(ROOT / "cloud.deploy.d")],
    }  # fmt: skip
    (folder / "cloud").write_text(yaml.safe_dump(main))
    opts = salt.config.cloud_config(str(folder / "cloud"))
    provider = opts["providers"]["eu-west-1"]["ec2"]
    cloud.ec2.run_instances(**requests["salt"])
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        # An earlier test's session keeps what it found in the environment.
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        patch.setenv("AWS_ENDPOINT_URL", cloud.url)
        patch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{cloud.url}{METADATA}/")
        patch.setattr(
            cloud.api, "address", requests["salt"]["NetworkInterfaces"][0]["PrivateIpAddress"]
        )
        patch.setattr(driver, "__opts__", opts, raising=False)
        patch.setattr(driver, "__active_provider_name__", "eu-west-1:ec2", raising=False)
        patch.setattr(
            driver, "__utils__", {"cloud.fire_event": lambda *_, **__: None}, raising=False
        )
        patch.setattr(_archive, "build", lambda *_: b"")
        patch.setattr(_login, "wait_for_port", lambda *_: None)
        patch.setattr(_session, "run", lambda *_: None)
        _client._connect.cache_clear()

        def create(role: str) -> dict[str, Any]:
            machine = {**provider, **opts["profiles"][role], "profile": role}
            _, own = maps.read(ROOT / "cloud.maps.d/production.map", {})[f"{role}-1"]
            named = {"name": f"{role}-1", "driver": "eu-west-1:ec2"}
            return driver.create({**machine, **own, **named})

        yield create
        _client._connect.cache_clear()


@pytest.fixture(scope="module")
def recorded(
    cloud: Running,
    on_master: Callable[[str], dict[str, Any]],
    pillar: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Access]:
    """What salt-1 asks of IAM in the life of a stack; everything of it is allowed."""
    asked: list[Access] = []
    cloud.api.api.judge.watch = lambda access, _: asked.append(access)
    aws = pillar["aws"]
    ended = load_file(ROOT / "salt/master/files/start_ended_machines.py")
    scale = load_file(ROOT / "salt/master/files/scale_machines.py")

    keep_release(pillar, tmp_path_factory.mktemp("archives"))
    keep_backup(aws)
    driver.list_nodes_full()
    for role in ROLES:  # up
        on_master(role)
    cloud.settle()
    assert driver.check(call="function") == {"faults": []}
    for action in ("reboot", "stop", "start"):  # docs/runbooks.md
        getattr(driver, action)("web-1", call="action")
        cloud.settle()
    look(driver)
    redis = driver.show_instance("redis-1", call="action")["id"]  # a machine ends by itself
    cloud.host.end(redis, 130)
    until_stopped(cloud, redis)
    assert ended.start_ended(
        boto3.client("ec2", region_name=aws["region"]), DEPLOYMENT.owner(), ["redis-1"]
    )
    cloud.settle()
    config = type("Config", (), {"region": aws["region"], **DEPLOYMENT.owner()})
    assert scale.instances(config) >= {"web-1", "redis-1"}  # scale
    driver.destroy("web-1")
    driver.disable_term_protect("postgres-1", call="action")  # README.md: removal
    driver.destroy("postgres-1")
    return asked


def look(driver: Any) -> None:
    """Ask salt-cloud on salt-1 what Salt's manual says that one may ask."""
    driver.avail_locations()  # --list-locations
    driver.avail_sizes()
    driver.avail_images()
    driver.list_availability_zones(call="function")
    for action in ("get_console_output", "get_tags", "show_term_protect", "show_volumes"):
        getattr(driver, action)("web-1", call="action")


def keep_release(pillar: dict[str, Any], folder: Path) -> None:
    """Put a release into the bucket and take it from there, as the master does."""
    settings = {"aws.settings": lambda: pillar["aws"]}
    store = load("_modules", "release_bucket", __salt__=settings)
    digest = hashlib.sha256(b"packed").hexdigest()
    (folder / "3.3.tar.zst").write_bytes(b"packed")
    (folder / "3.3.tar.zst.sha256").write_text(f"{digest}  3.3.tar.zst\n")
    assert not store.has("3.3")
    assert store.put("3.3", str(folder)) == f"s3://{BUCKET}/releases/3.3/3.3.tar.zst"
    assert store.has("3.3")
    for path in folder.iterdir():
        path.unlink()
    store.get("3.3", str(folder))
    assert (folder / "3.3.tar.zst").read_bytes() == b"packed"


def keep_backup(aws: Mapping[str, Any]) -> None:
    """Put backups of the master's keys into the bucket and take the first one from there."""
    backups = load_file(ROOT / "salt/master/files/master_backup.py")
    bucket = backups.Bucket(DEPLOYMENT.in_account(aws["bucket"]["name"]), aws["region"])
    first = bucket.put(b"first")
    bucket.put(b"second")
    assert bucket.get(bucket.find("")) == b"second"
    assert bucket.get(bucket.find(first)) == b"first"


def until_stopped(cloud: Running, instance: str) -> None:
    until(lambda: cloud.state(instance) == "stopped", "the machine has stopped")


def refused(statements: list[Statement], accesses: list[Access]) -> list[Access]:
    """Return the accesses that a policy does not allow."""
    document = {"Version": "2012-10-17", "Statement": statements}
    return [access for access in accesses if not decide([document], access).allowed]


@pytest.fixture(scope="module")
def forbidden(recorded: list[Access]) -> list[Access]:
    """What has to be refused."""
    found = []
    for other in FORBIDDEN:
        like = [access for access in recorded if other.concerns(access)]
        assert like, f"nothing recorded is like {other}"
        found.append(other.of(like[0]))
    return found


def test_everything_that_the_stack_does_is_allowed(
    policy: list[Statement], recorded: list[Access]
) -> None:
    assert refused(policy, recorded) == []
    launched = {kind_of(access) for access in recorded if access.action == LAUNCH}
    assert launched == {
        "image", "instance", "key-pair", "network-interface", "security-group", "subnet", "volume",
    }  # fmt: skip


def test_nothing_else_is_allowed(policy: list[Statement], forbidden: list[Access]) -> None:
    assert refused(policy, forbidden) == forbidden


def test_policy_that_the_driver_publishes_is_enough_for_its_calls(recorded: list[Access]) -> None:
    """The calls for this deployment, with its names in the place of the file's."""
    text = (Path(driver.__file__).parents[1] / "docs" / "policy.json").read_text()
    names = {"my-project": "airflow-stack", "my-deployment": "test", "my-instance-role": "*"}
    for name, own in names.items():
        text = text.replace(name, own)
    statements = json.loads(text)["Statement"]
    actions = {action for one in statements for action in as_list(one["Action"])}
    asked = [access for access in recorded if access.action in actions]
    assert {access.action for access in asked} == actions - {
        "ec2:AssociateAddress", "ec2:CancelSpotInstanceRequests",  # what the master does not do
    }  # fmt: skip
    assert refused(statements, asked) == []


def test_images_are_allowed_with_and_without_alias(
    policy: list[Statement], recorded: list[Access]
) -> None:
    (image, *_) = without_alias(recorded)
    assert image.keys["ec2:Owner"] == catalog.OWNER
    assert refused(policy, [image]) == []


def without_alias(recorded: list[Access]) -> list[Access]:
    """Return the launches of Debian's image as in a region where EC2 has no alias for it."""
    images = [
        access for access in recorded if (access.action, kind_of(access)) == (LAUNCH, "image")
    ]
    assert {access.keys["ec2:Owner"] for access in images} == {catalog.OWNER_ALIAS}
    return [replace(image, keys={**image.keys, "ec2:Owner": catalog.OWNER}) for image in images]


def test_no_part_of_the_policy_is_superfluous(
    policy: list[Statement], recorded: list[Access], forbidden: list[Access]
) -> None:
    wanted = [*recorded, *without_alias(recorded)]
    unnoticed = [
        name
        for name, fewer in mutants(policy)
        if not refused(fewer, wanted) and refused(fewer, forbidden) == forbidden
    ]
    assert unnoticed == []


def test_superfluous_part_is_found(policy: list[Statement], recorded: list[Access]) -> None:
    more = [
        *policy,
        {"Sid": "More", "Effect": "Allow", "Action": "ec2:DescribeVpcs", "Resource": "*"},
    ]
    names = [name for name, fewer in mutants(more) if not refused(fewer, recorded)]
    assert "More" in names


@pytest.mark.parametrize("missing", ["DescribeEc2", "RunInstancesFromDebianImages", ""])
def test_denial_has_the_words_of_ec2(
    recorded: list[Access],
    requests: Requests,
    client: Callable[[str], Any],
    pillar: dict[str, Any],
    missing: str,
) -> None:
    iam, role = client("iam"), pillar["aws"]["salt_role"]
    names = {"RoleName": role, "PolicyName": "salt-cloud"}
    whole = iam.get_role_policy(**names)["PolicyDocument"]
    fewer = [kept for kept in whole["Statement"] if kept["Sid"] != missing]
    master = boto3.client("ec2", region_name=pillar["aws"]["region"])
    launch = functools.partial(master.run_instances, **requests["web"], DryRun=True)
    call = master.describe_instances if missing == "DescribeEc2" else launch
    less = json.dumps({**whole, "Statement": fewer})
    iam.put_role_policy(**names, PolicyDocument=less)
    try:
        with pytest.raises(ClientError) as caught:
            call()
    finally:
        iam.put_role_policy(**names, PolicyDocument=json.dumps(whole))
    error = caught.value.response["Error"]
    if not missing:
        assert error["Code"] == "DryRunOperation"
        return
    assert error["Code"] == "UnauthorizedOperation"
    start = "You are not authorized to perform this operation. User: "
    assert error["Message"].startswith(f"{start}arn:aws:sts::{ACCOUNT}:assumed-role/{role}/i-")
    image = f"arn:aws:ec2:eu-west-1::image/{catalog.IMAGE_ID}"
    action, where, end = {
        "DescribeEc2": ("ec2:DescribeInstances", "", ""),
        "RunInstancesFromDebianImages": (
            LAUNCH, f" on resource: {image}", ". Encoded authorization failure message: ",
        ),
    }[missing]  # fmt: skip
    reason = f"because no identity-based policy allows the {action} action{end}"
    assert f"is not authorized to perform: {action}{where} {reason}" in error["Message"]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("RunOwnInstances", (LAUNCH, ":instance/*", "ec2:InstanceType t2.micro")),
        (
            "RunInstancesWithOwnVolumesAndInterfaces",
            (LAUNCH, ":volume/*", "aws:RequestTag/project airflow-stack"),
        ),
        ("RunInstancesFromDebianImages", (LAUNCH, ":image/ami-", "ec2:Owner amazon")),
        ("RunInstancesInSubnet", (LAUNCH, ":subnet/", "aws:ResourceTag/deployment test")),
        (
            "RunInstancesInSecurityGroups",
            (LAUNCH, ":security-group/", "aws:ResourceTag/project airflow-stack"),
        ),
        ("RunInstancesWithKeyPair", (LAUNCH, ":key-pair/airflow-stack-test", "")),
        ("CreateTagsAtLaunch", (TAG, ":instance/*", "aws:RequestTag/project airflow-stack")),
        ("GiveRolesToMachines", ("iam:PassRole", ":role/airflow-stack-test-postgres", "")),
    ],
)
@pytest.mark.parametrize("run", ["map", "profile"])
def test_missing_permission_is_named_before_anything_is_launched(
    recorded: list[Access],
    client: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    said: tuple[str, str, str],
    run: str,
) -> None:
    iam, names = client("iam"), {"RoleName": "airflow-stack-test-salt", "PolicyName": "salt-cloud"}
    whole = iam.get_role_policy(**names)["PolicyDocument"]
    fewer = [kept for kept in whole["Statement"] if kept["Sid"] != missing]
    assert len(fewer) == len(whole["Statement"]) - 1
    opts: Any = driver.__opts__
    role = "postgres" if missing == "GiveRolesToMachines" else "web"
    given = {"map": str(ROOT / "cloud.maps.d/small.map")}
    if run == "profile":
        given = {"profile": role, "names": [f"{role}-9"]}  # type: ignore[dict-item]
    for key, value in given.items():
        monkeypatch.setitem(opts, key, value)
    providers = {alias: found["ec2"] for alias, found in opts["providers"].items()}
    before = instances(client)
    iam.put_role_policy(**names, PolicyDocument=json.dumps({**whole, "Statement": fewer}))
    try:
        with pytest.raises(ApiError) as caught:
            driver.optimize_providers(providers)
    finally:
        iam.put_role_policy(**names, PolicyDocument=json.dumps(whole))
    action, resource, fact = said
    name = f"{role}-9" if run == "profile" else f"{role}-1"
    message = str(caught.value)
    assert (
        f"profile {role} ({name}) may not be launched: AWS denies {action} on arn:aws:" in message
    )
    assert resource in message
    assert fact in message
    assert "Encoded" not in message
    assert message.endswith("nothing was launched")
    assert "\n" not in message
    assert list(driver.optimize_providers(providers)) == list(providers)
    assert instances(client) == before


def instances(client: Callable[[str], Any]) -> int:
    """Return how many instances the account has, in any state."""
    groups = client("ec2").describe_instances()["Reservations"]
    return sum(len(group["Instances"]) for group in groups)


def test_master_role_is_limited_to_one_region(
    policy: list[Statement], client: Callable[[str], Any], pillar: dict[str, Any]
) -> None:
    role, region = pillar["aws"]["salt_role"], pillar["aws"]["region"]
    profile = client("iam").get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    assert [attached["RoleName"] for attached in profile["Roles"]] == [role]
    for statement in policy:
        equals = statement.get("Condition", {}).get("StringEquals", {})
        here = equals.get("aws:RequestedRegion") == region
        patterns = as_list(statement["Resource"])
        services = {action.split(":")[0] for action in as_list(statement["Action"])}
        if services == {"iam"}:  # which has no regions: what it passes, RunInstances uses
            assert as_list(statement["Action"]) == ["iam:PassRole"]
            continue
        if services == {"s3"}:
            assert all(pattern.startswith(OF_BUCKET) for pattern in patterns)
            continue
        assert here or all(f":{region}:" in pattern for pattern in patterns), statement
        assert services <= {"ec2", "ssm"}
        assert "ec2:*" not in as_list(statement["Action"])


def test_linter_finds_nothing(policy: list[Statement]) -> None:
    """Parliament knows which resources and condition keys AWS has for each action.

    Three of its findings are none. The public parameters of Systems Manager belong to no account.
    It wants every kind of resource of RunInstances in each statement. And some descriptions could
    be allowed for single resources, which the account's operator may describe as well.
    """
    document = {"Version": "2012-10-17", "Statement": policy}
    assert {found for found in findings(document) if not accepted(*found)} == set()
    launches = [one for one in policy if one["Action"] == LAUNCH]
    together = {
        "Effect": "Allow",
        "Action": LAUNCH,
        "Resource": [pattern for one in launches for pattern in as_list(one["Resource"])],
    }
    assert findings({**document, "Statement": [together]}) == set()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"Resource": "arn:aws:ec2:*:*:volume/*"}, "RESOURCE_MISMATCH"),
        ({"Condition": {"StringEquals": {"ec2:Ownr": "a"}}}, "UNKNOWN_CONDITION_FOR_ACTION"),
        ({"Action": "ec2:StartInstance"}, "UNKNOWN_ACTION"),
    ],
)
def test_linter_finds_a_fault(policy: list[Statement], change: dict[str, Any], fault: str) -> None:
    (manage,) = (one for one in policy if one["Sid"] == "ManageOwnInstances")
    document = {"Version": "2012-10-17", "Statement": [{**manage, **change}]}
    assert fault in {found[0] for found in findings(document) if not accepted(*found)}


def accepted(issue: str, where: str) -> bool:
    """Return whether a finding of the linter is none."""
    actions = set(re.findall(r"'(\w+:\w+)'", where))
    if issue == "RESOURCE_STAR":
        return all(action.startswith("ec2:Describe") for action in actions)
    return issue == "RESOURCE_MISMATCH" and (PUBLIC_PARAMETERS in where or actions == {LAUNCH})
