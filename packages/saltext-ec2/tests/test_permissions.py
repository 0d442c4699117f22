"""A launch that AWS denies is named before anything is launched."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sandbox import Sandbox

TRIED = "DryRunRunInstances"
START = "You are not authorized to perform this operation."
IMAGE = "arn:aws:ec2:eu-west-1::image/ami-1"
VOLUMES = "arn:aws:ec2:eu-west-1:1:volume/*"
ROLE = "arn:aws:iam::1:role/web"
CODED = " Encoded authorization failure message: AbC"
NONE = "because no identity-based policy allows the {} action"
EXPLICIT = "with an explicit deny in a service control policy"


def denial(action: str, resource: str, reason: str) -> str:
    """Return EC2's words."""
    user = "User: arn:aws:iam::1:user/u"
    denied = f"{user} is not authorized to perform: {action} on resource: {resource}"
    return f"{START} {denied} {reason.format(action)}"


DENIALS = {
    "a resource": (
        f"{denial('ec2:RunInstances', IMAGE, NONE)}.{CODED}",
        (f"AWS denies ec2:RunInstances on {IMAGE} to arn:aws:iam::1:user/u", "must allow this"),
    ),
    "an explicit denial": (
        f"{denial('ec2:CreateTags', VOLUMES, EXPLICIT)}.{CODED}",
        ("AWS denies ec2:CreateTags", f"{EXPLICIT}: remove that denial"),
    ),
    "a role": (
        denial("iam:PassRole", ROLE, NONE),
        ("AWS denies iam:PassRole", "where it sees iam:PassedToService ec2.amazonaws.com"),
    ),
    "no reason": (f"{START}{CODED}", (START,)),
}


def answer(code: str, message: str) -> Callable[[dict[str, str]], tuple[str, str]]:
    """Return what answers a call with an error."""
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        "<RequestID>1</RequestID></Response>"
    )
    return lambda _: ("403 Forbidden", body)


@pytest.mark.parametrize("kind", DENIALS)
def test_denied_map_launches_nothing(sandbox: Sandbox, kind: str) -> None:
    message, said = DENIALS[kind]
    sandbox.server.answers[TRIED] = answer("UnauthorizedOperation", message)
    done = sandbox.apply({"p1": ["n1", "n2"]}, "--parallel")
    sandbox.assert_refused(done, "profile p1 (n1) may not be launched", *said)
    assert sandbox.server.calls.count(TRIED) == 1
    sandbox.server.answers.clear()
    assert sandbox.apply({"p1": ["n1", "n2"]}, "--parallel").code == 0


def test_denied_profile_launches_nothing(sandbox: Sandbox) -> None:
    sandbox.server.answers[TRIED] = answer("UnauthorizedOperation", DENIALS["a role"][0])
    sandbox.assert_refused(sandbox.salt_cloud("--profile=p1", "n1"), "iam:PassRole")


FREE_TIER = "The specified instance type is not eligible for Free Tier."


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Unsupported", "Your requested instance type (t2.micro) is not supported in your zone."),
        ("InvalidParameterCombination", FREE_TIER),
        ("PendingVerification", "Your request is being validated."),
        ("OptInRequired", "You are not subscribed to this service."),
        ("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit of 0 allows."),
    ],
)
def test_what_all_machines_would_meet_stops_a_run(
    sandbox: Sandbox, code: str, message: str
) -> None:
    sandbox.server.answers[TRIED] = answer(code, message)
    done = sandbox.apply({"p1": ["n1", "n2"]}, "--parallel")
    said = f"RunInstances: {code}: {message.rstrip('.')}; nothing was launched"
    sandbox.assert_refused(done, "profile p1 (n1) may not be launched", said)
    assert "RunInstances" not in sandbox.server.calls


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InsufficientInstanceCapacity", "none left"),
        ("InvalidParameterCombination", "something else"),
    ],
)
def test_what_only_a_launch_shows_stops_no_run(sandbox: Sandbox, code: str, message: str) -> None:
    sandbox.server.answers[TRIED] = answer(code, message)
    assert sandbox.apply({"p1": ["n1"]}).code == 0
    assert sandbox.server.calls.count(TRIED) == 1


def test_nothing_is_tried_when_all_machines_exist(sandbox: Sandbox) -> None:
    sandbox.launch("n1")
    sandbox.server.calls.clear()
    assert sandbox.apply({"p1": ["n1"]}).code == 0
    assert TRIED not in sandbox.server.calls
    assert sandbox.apply({"p1": ["n1", "n2", "n3"]}).code == 0
    assert sandbox.server.calls.count(TRIED) == 1


def test_zone_without_the_type_is_left_for_the_next_place(sandbox: Sandbox) -> None:
    subnets = sandbox.ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["a"]}])
    first = subnets["Subnets"][0]["SubnetId"]

    def refuse(given: dict[str, str]) -> tuple[str, str] | None:
        here = given.get("SubnetId") == first
        return answer("Unsupported", "not supported in your zone")(given) if here else None

    sandbox.profiles["p1"]["subnetname"] = ["a", "b"]
    for call in (TRIED, "RunInstances"):
        sandbox.server.answers[call] = refuse
    done = sandbox.apply({"p1": ["n1"]})
    assert done.code == 0, done
    assert sandbox.instances()["n1"]["SubnetId"] != first
    assert sandbox.server.calls.count(TRIED) == 2
