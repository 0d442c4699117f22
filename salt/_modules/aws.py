"""Calls of AWS for the foundation, whose a thing in the account is, and how a state repairs it.

An account may hold other things than this deployment's: other deployments, and what has nothing to
do with the stack. What the states make carries the tags `project` and `deployment`, and only what
has both is ever changed. A thing that has one of the stack's names without them stops the run.

AWS tells of what it has just made only some time later, and an answer may be lost after its call
had an effect. So no call that changes something is repeated blindly: `converge` looks first.
https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html

States ask the same questions, so `call` remembers the answers: of a service until something in it
is changed, and none for longer than a pause between two looks, or than Salt's run. A refusal is
never remembered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from salt.exceptions import CommandExecutionError

__context__: dict[str, Any]
__opts__: dict[str, Any]
__pillar__: dict[str, Any]

ANSWERS = "aws.answers"  # in Salt's context, which lasts for one run: service -> question -> answer
SETTLE_SECONDS = 60  # that AWS has to know, everywhere, what it has just made
ACCOUNT = "{account}"  # in a name: the account's number, which only AWS tells
LOST_SECONDS = 20  # that a call without an answer has to show its effect, before it is made again
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two looks; each pause doubles

# Kind of thing -> the call that finds it, the key of the answer, the key of its id, and the filter
# by which one of a name is found. IAM finds by name only.
KINDS: Mapping[str, tuple[str, str, str, str]] = {
    "bucket": ("get_bucket_tagging", "TagSet", "Name", ""),  # found by `s3_bucket.find`
    "elastic-ip": ("describe_addresses", "Addresses", "AllocationId", "tag:Name"),
    "instance": ("describe_instances", "Reservations", "InstanceId", "tag:Name"),
    "instance-profile": (
        "get_instance_profile", "InstanceProfile", "InstanceProfileName", "InstanceProfileName",
    ),
    "internet-gateway": (
        "describe_internet_gateways", "InternetGateways", "InternetGatewayId", "tag:Name",
    ),
    "key-pair": ("describe_key_pairs", "KeyPairs", "KeyPairId", "key-name"),
    "role": ("get_role", "Role", "RoleName", "RoleName"),
    "route-table": ("describe_route_tables", "RouteTables", "RouteTableId", "tag:Name"),
    "security-group": ("describe_security_groups", "SecurityGroups", "GroupId", "group-name"),
    "subnet": ("describe_subnets", "Subnets", "SubnetId", "tag:Name"),
    "vpc": ("describe_vpcs", "Vpcs", "VpcId", "tag:Name"),
    "vpc-endpoint": ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId", "tag:Name"),
}  # fmt: skip
OF_IAM = ("role", "instance-profile")

# What is unknown may be too new. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
TOO_NEW = re.compile(r"Invalid\w+\.NotFound|NoSuchEntity|NoSuchBucket")
NEW_PROFILE = "Invalid IAM Instance Profile"  # EC2 says only so that IAM has not told it yet
THROTTLED = re.compile(r"RequestLimitExceeded|Throttling\w*|TooManyRequestsException|SlowDown")
# The thing may be there since an earlier try.
THERE = re.compile(
    r"\w+\.Duplicate|EntityAlreadyExists|RouteAlreadyExists|Resource\.Already\w+"
    r"|BucketAlreadyOwnedByYou|OperationAborted"
)

_clients: dict[tuple[str, str, bool], Any] = {}

Differences = Callable[[], Mapping[str, Callable[[], Any]]]


class AwsError(CommandExecutionError):  # type: ignore[misc]
    """AWS refused a call, or did not answer.

    Attributes:
        later: whether the same call may succeed later, and has had no effect.
        unsure: whether the call may have had its effect.
    """

    def __init__(self, message: str, *, later: bool = False, unsure: bool = False) -> None:
        super().__init__(message)
        self.later, self.unsure = later, unsure


# -- calls -----------------------------------------------------------------------------------------


def call(
    operation: str,
    region: str,
    *,
    service: str = "ec2",
    absent: Collection[str] = (),
    **arguments: Any,
) -> dict[str, Any]:
    """Return AWS's answer to a call, such as ``describe_key_pairs``.

    A call that only reads is retried by botocore, and its answer may be a remembered one. Any other
    is made once: botocore would repeat it after a lost answer, and so make a second VPC.

    Args:
        operation: the call, in boto3's spelling.
        region: where to ask.
        service: of AWS.
        absent: codes by which AWS says that there is no such thing; then the answer is empty.
        arguments: those of the call.

    Raises:
        AwsError: AWS refuses or does not answer.
    """
    reads = operation.startswith(("describe_", "get_", "list_"))
    if not reads:
        forget(service)
    answers = __context__.setdefault(ANSWERS, {})
    known: dict[str, dict[str, Any]] = answers.setdefault(service, {})
    question = repr((operation, region, absent, arguments))
    if question in known:
        return known[question]
    try:
        answer: dict[str, Any] = getattr(_client(service, region, reads=reads), operation)(
            **arguments
        )
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        if code not in absent:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            throttled = bool(THROTTLED.fullmatch(code))
            raise AwsError(
                f"{operation}: {error}",
                later=throttled or bool(TOO_NEW.fullmatch(code)) or NEW_PROFILE in str(error),
                unsure=not throttled and (status >= 500 or bool(THERE.fullmatch(code))),
            ) from error
        answer = {}
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        raise AwsError(f"{operation}: {error}") from error
    except HTTPClientError as error:
        raise AwsError(f"{operation}: {error}", unsure=True) from error
    except BotoCoreError as error:
        raise AwsError(f"{operation}: {error}") from error
    if reads:
        known[question] = answer
    return answer


def forget(service: str = "") -> None:
    """Have the next look at a service ask AWS; without a name, at any of them."""
    answers = __context__.setdefault(ANSWERS, {})
    for name in [service] if service else list(answers):
        answers.pop(name, None)


def _client(service: str, region: str, *, reads: bool) -> Any:
    key = (service, region, reads)
    if key not in _clients:
        retries: Any = {"mode": "standard", "total_max_attempts": 5 if reads else 1}
        config = Config(retries=retries, connect_timeout=10, read_timeout=30)
        made: Any = boto3.client  # mypy knows no service by a variable
        _clients[key] = made(service, region_name=region, config=config)
    return _clients[key]


# -- names and tags --------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """Return pillar ``aws`` with project and deployment in its names.

    ``stackctl.deployment`` and the EC2 driver's option ``owned_by`` fill the same names. What has
    ``{account}`` in it keeps that: see `in_account`.
    """
    words = {**tags(), "account": ACCOUNT}
    return dict(_filled(__pillar__["aws"], lambda text: text.format_map(words)))


def _filled(value: Any, fill: Callable[[str], str]) -> Any:
    """Return a value with `fill` of each text in it."""
    if isinstance(value, Mapping):
        return {key: _filled(one, fill) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, fill) for one in value]
    return fill(value) if isinstance(value, str) else value


def account(region: str) -> str:
    """Return the number of the account; raise AwsError when AWS does not answer."""
    return str(call("get_caller_identity", region, service="sts")["Account"])


def in_account(value: Any, region: str) -> Any:
    """Return a value, such as a policy, with the account's number in the place of ``{account}``.

    Raises AwsError when AWS does not answer.
    """
    number = account(region)
    return _filled(value, lambda text: text.replace(ACCOUNT, number))


def tags(name: str = "") -> dict[str, str]:
    """Return the tags of this deployment's things, with a Name if it is given."""
    named = {"Name": name} if name else {}
    return {
        **named,
        "project": str(__pillar__["aws"]["project"]),
        "deployment": str(__pillar__["settings"]["deployment"]),
    }


def specification(kind: str, name: str) -> list[dict[str, Any]]:
    """Return the argument `TagSpecifications` of a call that makes something."""
    return [{"ResourceType": kind, "Tags": tag_list(tags(name))}]


def tag_list(given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in given.items()]


def tags_of(thing: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a thing that AWS describes."""
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags") or ()}


def is_own(thing: Mapping[str, Any]) -> bool:
    """Return whether a thing has the tags of this deployment."""
    return tags().items() <= tags_of(thing).items()


def is_earlier(thing: Mapping[str, Any], *, project: bool = True) -> bool:
    """Return whether a thing may be of a version that did not tag the deployment.

    Args:
        thing: as AWS describes it.
        project: whether that version gave things of this kind the tag `project`.
    """
    found = tags_of(thing)
    if "deployment" in found:
        return False
    return found.get("project", None if project else tags()["project"]) == tags()["project"]


def things(kind: str, region: str, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the things of a kind that meet filters, without terminated machines.

    Args:
        kind: see `KINDS`.
        region: where they are.
        filters: EC2's name of each filter -> its value, or a list of those that meet it; for IAM,
            the name.

    Raises AwsError when AWS does not answer.
    """
    operation, key, _, _ = KINDS[kind]
    if kind in OF_IAM:
        answer = call(operation, region, service="iam", absent=("NoSuchEntity",), **filters)
        return [answer[key]] if answer else []
    given = [
        {"Name": name, "Values": [value] if isinstance(value, str) else value}
        for name, value in filters.items()
    ]
    more: dict[str, Any] = {"IncludePublicKey": True} if kind == "key-pair" else {}
    found = list(call(operation, region, Filters=given, **more)[key])
    if kind == "vpc-endpoint":
        return [one for one in found if one["State"].lower() not in ("deleting", "deleted")]
    if kind != "instance":
        return found
    instances = [instance for group in found for instance in group["Instances"]]
    return [one for one in instances if one["State"]["Name"] not in ("shutting-down", "terminated")]


def own(kind: str, region: str, name: str = "") -> list[dict[str, Any]]:
    """Return the deployment's things of a kind in EC2, by its tags; with a name, those of it.

    Raises AwsError when AWS does not answer.
    """
    return things(kind, region, {f"tag:{key}": value for key, value in tags(name).items()})


def subnets(private: bool | None = None) -> list[Mapping[str, Any]]:
    """Return the subnets of pillar ``aws``, the master's first.

    Args:
        private: only those without a route out of the VPC, or only the others.
    """
    aws = settings()
    found = [aws["subnet"], *aws["other_subnets"].values()]
    return [one for one in found if private in (None, bool(one.get("private")))]


def vpc_id(region: str) -> str:
    """Return the id of the deployment's VPC, by its tags; without one, an empty string in a test.

    Raises:
        CommandExecutionError: the deployment has none.
        AwsError: EC2 does not answer.
    """
    found = own("vpc", region)
    if not found and not __opts__["test"]:
        raise CommandExecutionError("the deployment has no VPC")
    return str(found[0]["VpcId"]) if found else ""


def find(kind: str, name: str, region: str) -> dict[str, Any] | None:
    """Return this deployment's thing of a name, or None without one.

    Where it has several of a kind, all of them are asked for at once.

    Args:
        kind: see `KINDS`.
        name: its Name tag; of a group or a key pair, its own name.
        region: where it is.

    Raises:
        CommandExecutionError: something has the name and is not this deployment's, or several are.
        AwsError: EC2 does not answer.
    """
    aws = settings()
    several = {
        "route-table": [aws["route_table"], aws["private_route_table"]],
        "subnet": [one["name"] for one in subnets()],
    }.get(kind, name)
    shown = things(kind, region, {KINDS[kind][3]: several})
    found = [one for one in shown if several == name or tags_of(one)["Name"] == name]
    require_own(kind, name, region, found)
    if len(found) > 1:
        ids = ", ".join(sorted(one[KINDS[kind][2]] for one in found))
        raise CommandExecutionError(
            f"{ids}: {len(found)} of the kind {kind} are called {name}, and this deployment has"
            " one. Remove those that are not used"
        )
    return found[0] if found else None


def require_own(kind: str, name: str, region: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Raise CommandExecutionError for a thing with a name of this deployment's, not its tags."""
    id_key = KINDS[kind][2]
    foreign = sorted(one[id_key] for one in found if not is_own(one))
    if foreign:
        raise CommandExecutionError(
            f"{', '.join(foreign)} ({kind}) has the name {name}, but not the tags of this"
            f" deployment ({_words(tags())}): it is somebody else's, and is left alone. Give it"
            f" another name. If it is this deployment's, tag it: {_tagging(kind, foreign, region)}"
        )


def _tagging(kind: str, ids: Sequence[str], region: str) -> str:
    """Return the command that gives things the tags of this deployment."""
    wanted = " ".join(f"Key={key},Value={value}" for key, value in tags().items())
    if kind == "bucket":
        tag_set = ",".join(f"{{{one}}}" for one in wanted.split())
        return f"aws s3api put-bucket-tagging --bucket {ids[0]} --tagging 'TagSet=[{tag_set}]'"
    if kind in OF_IAM:
        return f"aws iam tag-{kind} --{kind}-name {ids[0]} --tags {wanted}"
    return f"aws ec2 create-tags --region {region} --resources {' '.join(ids)} --tags {wanted}"


def _words(given: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in given.items())


def mark(ids: Sequence[str], name: str, region: str) -> None:
    """Give things of EC2 the tags of this deployment, and a Name if it is given.

    Raises AwsError when EC2 refuses.
    """
    call("create_tags", region, Resources=list(ids), Tags=tag_list(tags(name)))


# -- what an earlier version has made --------------------------------------------------------------


def has_earlier_key(region: str) -> bool:
    """Return whether the key pair of an earlier version holds this deployment's SSH key.

    That tells whose the things are that earlier versions made: their names and tags are the same in
    every deployment.

    Raises AwsError when EC2 does not answer.
    """
    name = __pillar__["aws"]["earlier"]["key_pair"]
    wanted = __pillar__["settings"]["ssh_public_key"]
    pairs = things("key-pair", region, {"key-name": name})
    own = [pair for pair in pairs if "deployment" not in tags_of(pair) or is_own(pair)]
    held = [key_material(pair.get("PublicKey", "")) for pair in own]
    return key_material(wanted) in held


def key_material(openssh: str) -> str:
    """Return kind and key of a public key in OpenSSH's format, without its comment."""
    return " ".join(openssh.split()[:2])


def earlier_vpc(region: str) -> dict[str, Any] | None:
    """Return the VPC that an earlier version has made for this deployment, or None.

    That version gave the VPC a name only, and the tag `project` to the groups in it.

    Raises:
        CommandExecutionError: there is such a VPC, and it cannot be told whose it is.
        AwsError: EC2 does not answer.
    """
    project = {"tag:project": tags()["project"]}
    vpcs = things("vpc", region, {"tag:Name": __pillar__["aws"]["earlier"]["vpc"]})
    found = [
        vpc
        for vpc in vpcs
        if is_earlier(vpc, project=False)
        and any(
            map(
                is_earlier,
                things("security-group", region, {"vpc-id": vpc["VpcId"], **project}),
            )
        )
    ]
    if found and (len(found) > 1 or not has_earlier_key(region)):
        ids = [vpc["VpcId"] for vpc in found]
        raise CommandExecutionError(
            f"{', '.join(ids)}: an earlier version of this project has made it, and its key pair"
            f" {__pillar__['aws']['earlier']['key_pair']} does not hold the SSH key of this"
            " deployment. If it is another deployment's, bring that one up first. If it is this"
            f" one's, tag it: {_tagging('vpc', ids, region)}"
        )
    return found[0] if found else None


# -- repairing -------------------------------------------------------------------------------------


def converge(name: str, differences: Differences) -> dict[str, Any]:
    """Return a state's result, after all differences between what is wished and what is are gone.

    Each difference is looked for again before its change is made again, so that nothing is made
    twice. In a test nothing is changed.

    Args:
        name: the state's.
        differences: looks at everything that the state wishes, and returns what to do in words ->
            the call that does it; only the first is made before the next look.

    Returns:
        The state's result; `changes` names what was done, also when something failed afterwards.
    """
    result: dict[str, Any] = {"name": name, "result": True, "changes": {}, "comment": ""}
    done: list[str] = []
    try:
        todo = _look(differences)
        if __opts__["test"] and todo:
            comment = f"{name}: would {', '.join(todo)}"
            return result | {"result": None, "changes": {"new": list(todo)}, "comment": comment}
        while todo:
            what = next(iter(todo))
            if what in done:
                todo = _until_gone(what, differences)
                continue
            todo = _until_seen(what, todo[what], differences)
            done.append(what)
    except CommandExecutionError as error:
        changes = {"new": done} if done else {}
        return result | {"result": False, "changes": changes, "comment": str(error)}
    if done:
        result["changes"] = {"new": done}
    return result | {"comment": f"{name}: {', '.join(done) or 'as it has to be'}"}


def until(problems: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Return the problems that are left when AWS has had time to settle; empty: none.

    Raises AwsError when AWS does not answer.
    """
    for last in _looks(SETTLE_SECONDS):
        found: Sequence[str] = _look(problems)
        if not found or last:
            return found
    raise AssertionError


def _until_seen(
    what: str, act: Callable[[], Any], differences: Differences
) -> Mapping[str, Callable[[], Any]]:
    """Make a change until AWS shows it; return the differences that are left.

    Raises:
        AwsError: AWS refuses the change, or does not show it in time.
        CommandExecutionError: see `find`.
    """
    todo: Mapping[str, Callable[[], Any]]
    for last in _looks(SETTLE_SECONDS):
        refusal: AwsError | None = None
        try:
            act()
        except AwsError as error:
            refusal = error
        seconds: float = SETTLE_SECONDS
        if refusal:
            seconds = LOST_SECONDS if refusal.unsure else 0
        for late in _looks(seconds):
            todo = _look(differences)
            if what not in todo:
                return todo
            if late:
                break
        if refusal is None:
            raise CommandExecutionError(
                f"{what}: AWS has accepted it, and does not show it after {SETTLE_SECONDS} s."
                " Run the same command again"
            )
        if last or not (refusal.later or refusal.unsure):
            raise refusal
        todo = _look(differences)
        if what not in todo:
            return todo
        act = todo[what]
    raise AssertionError


def _until_gone(what: str, differences: Differences) -> Mapping[str, Callable[[], Any]]:
    """Wait until AWS shows a change again that it has shown already, as it may for a while.

    Raises CommandExecutionError when it does not.
    """
    for last in _looks(SETTLE_SECONDS):
        todo: Mapping[str, Callable[[], Any]] = _look(differences)
        if what not in todo:
            return todo
        if last:
            raise CommandExecutionError(f"{what}: this was done, and somebody else undoes it")
    raise AssertionError


def _look(question: Callable[[], Any]) -> Any:
    """Return the answer to a question; ask again while AWS does not know something new."""
    for last in _looks(SETTLE_SECONDS):
        try:
            return question()
        except AwsError as error:
            if last or not error.later:
                raise
    raise AssertionError


def _looks(seconds: float) -> Any:
    """Yield for each look whether it is the last one.

    Pause in between, each time for longer; what was answered before is then forgotten.
    """
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    while (left := end - time.monotonic()) > 0:
        yield False
        time.sleep(min(pause, max(left, 0)))
        forget()
        pause = min(2 * pause, LONGEST_PAUSE)
    yield True
