"""Maps on an EC2 that throttles, refuses, breaks connections and loses answers.

The local cloud injects the faults; its machines exist in memory. `CASES` is a table of faults, with
a machine for each, and one map contains all these machines. The fixture applies the map once with
the faults and twice without, and records the results, which the tests check.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Literal

import pytest

from cloudsite import Applied, Site, site
from localcloud import faults
from localcloud.faults import Fault
from waiting import until

# The first test with the fixture `story` waits for four runs of salt-cloud.
pytestmark = pytest.mark.timeout(2400)

MODES = {"serial": (), "parallel": ("--parallel",)}
# A deployment in three steps. The name of a machine says before which step its mirror fails.
SCRIPT = """#!/bin/sh
set -eu
needs_mirror() {{
  case {{{{ vm.name }}}} in script-dies-at-$1*)
    [ -e {mirror} ] || {{ echo the mirror is down >&2; exit 3; }};;
  esac
}}
needs_mirror start
cp "$(dirname "$0")/minion.pub" .
needs_mirror middle
echo started >> minion
needs_mirror end
"""


@dataclass(frozen=True)
class Case:
    """The faults of one machine of the map, and the expected results.

    Attributes:
        name: the machine's name.
        faults: the faults, which affect no other machine.
        says: parts of the error message, in order; empty: the machine is deployed all the same.
        leaves: the state of the machine after the first run. The second run repairs a living one.
        options: its options in the map.
        at_first: options of the first run only, which waits in vain; mostly short timeouts.
    """

    name: str
    faults: tuple[Fault, ...] = ()
    says: tuple[str, ...] = ()
    leaves: Literal["alive", "terminated", "nothing"] = "alive"
    options: Mapping[str, Any] = field(default_factory=dict)
    at_first: Mapping[str, Any] = field(default_factory=dict)


LAUNCH = "RunInstances"
AGAIN = "run the same command again"
KEPT = "it was left as it is, with its key accepted"
REPAIR = (KEPT, f"{AGAIN} to repair it, or destroy it before that to replace it")
GONE = ("it was destroyed, and its key removed",)
DIED = ("running) failed: the deploy script ended with 3: the mirror is down",)
SLOW = {"api_timeout": 5}
HASTY = {"ssh_connect_timeout": 0.5}
DESTROY = {"on_failure": "destroy"}
ADDRESS = [{"SubnetName": "a", "SecurityGroupId": "web", "allocate_new_eip": True}]


def unavailable(action: str, status: int, times: int | None = None) -> Fault:
    """Return a fault of EC2 itself."""
    code = {500: "InternalError", 503: "Unavailable"}[status]
    return Fault("error", action, code=code, status=status, times=times)


def hangs(times: int | None = None) -> Fault:
    """Return a launch that takes place, but answers after the client's timeout."""
    return Fault("slow", LAUNCH, seconds=600, times=times)


def refused(action: str) -> str:
    """Return the message of `faults.denied`."""
    return f"{action}: UnauthorizedOperation: You are not authorized to perform this operation"


CASES = (
    # -- faults that retries overcome: by default, a call has two attempts
    Case(
        "throttled-twice",
        (faults.throttled("GetConsoleOutput", times=2),),
        options={"max_attempts": 3},
    ),
    Case("error-500-once", (unavailable(LAUNCH, 500, times=1),)),
    Case("error-503-once", (unavailable("CreateTags", 503, times=1),)),
    Case("slow-once", (hangs(times=1),), at_first={**SLOW, "max_attempts": 4}),
    Case("answer-lost-once", (Fault("lost", LAUNCH, times=1),)),
    Case("unknown-for-a-while", (Fault("unknown", LAUNCH, seconds=3, times=1),)),
    Case("answer-lost-and-unknown", (Fault("lost", LAUNCH, seconds=3, times=1),)),
    Case("full-in-one-zone", (faults.no_capacity(times=2),), options={"subnetname": ["a", "b"]}),
    # -- machines that are not launched
    Case(
        "throttled-for-ever",
        (faults.throttled(LAUNCH),),
        ("RequestLimitExceeded", "after 1 retries", AGAIN),
        "nothing",
    ),
    Case(
        "error-500-for-ever",
        (unavailable(LAUNCH, 500),),
        ("InternalError", "after 1 retries", AGAIN),
        "nothing",
    ),
    Case(
        "error-503-for-ever",
        (unavailable(LAUNCH, 503),),
        ("Unavailable", "after 1 retries", AGAIN),
        "nothing",
    ),
    Case(
        "full",
        (faults.no_capacity(),),
        ("InsufficientInstanceCapacity", "sufficient t2.micro", AGAIN),
        "nothing",
    ),
    Case(
        "over-the-limit",
        (faults.limit_exceeded(),),
        ("InstanceLimitExceeded", "instance limit", AGAIN),
        "nothing",
    ),
    # Without ec2:CreateTags, EC2 refuses a launch with tags as a whole.
    Case("tags-refused", (faults.denied(LAUNCH),), (refused(LAUNCH), AGAIN), "nothing"),
    Case("expired-before-launch", (faults.expired(LAUNCH),), ("RequestExpired", AGAIN), "nothing"),
    # -- machines that are launched, but EC2's answer is lost
    Case(
        "slow-for-ever",
        (hangs(),),
        ("Read timeout", AGAIN, "finds what EC2 may have launched"),
        at_first=SLOW,
    ),
    Case(
        "answer-lost-for-ever",
        (Fault("lost", LAUNCH),),
        ("Connection was closed", AGAIN, "finds what EC2 may"),
    ),
    # -- machines that do not run
    Case(
        "cannot-run",
        (Fault("cannot-run"),),
        ("terminated instead of", "no room", AGAIN),
        "terminated",
        at_first=HASTY,
    ),
    Case(
        "pending-for-ever", (Fault("never-runs"),), ("pending) failed: ", *REPAIR), at_first=HASTY
    ),
    Case(
        "pending-destroyed",
        (Fault("never-runs"),),
        ("pending) failed: ", *GONE),
        "terminated",
        DESTROY,
        at_first=HASTY,
    ),
    # -- machines that run, but are not deployed
    Case(
        "address-refused",
        (faults.denied("AssociateAddress"),),
        ("running", "an elastic address", refused("AssociateAddress"), *REPAIR),
        options={"subnetname": None, "securitygroup": None, "network_interfaces": ADDRESS},
    ),
    Case(
        "expired-before-login",
        (faults.expired("GetConsoleOutput"),),
        ("the console", "RequestExpired", *REPAIR),
    ),
    Case(
        "no-sshd",
        (Fault("no-sshd"),),
        ("no login to", "as admin", "Connection refused", *REPAIR),
        at_first=HASTY,
    ),
    Case(
        "no-sshd-destroyed",
        (Fault("no-sshd"),),
        ("no login to", *GONE),
        "terminated",
        DESTROY,
        at_first=HASTY,
    ),
    Case(
        "key-refused",
        (Fault("no-key"),),
        ("as admin", "Permission denied (publickey)", *REPAIR),
        at_first=HASTY,
    ),
    Case("script-dies-at-start", says=(*DIED, *REPAIR)),
    Case("script-dies-at-middle", says=(*DIED, *REPAIR)),
    Case("script-dies-at-end", says=(*DIED, *REPAIR)),
    Case("script-dies-at-end-destroyed", says=(*DIED, *GONE), leaves="terminated", options=DESTROY),
    Case(
        "script-dies-at-end-protected",
        (faults.denied("TerminateInstances"),),
        (*DIED, "should be destroyed", "still runs", refused("TerminateInstances"), AGAIN),
        options=DESTROY,
    ),
    # -- machines that are deployed, but not marked
    Case(
        "mark-refused",
        (faults.denied("CreateTags"),),
        ("is deployed, but cannot be marked", refused("CreateTags"), AGAIN),
    ),
)


@dataclass
class Snapshot:
    """The state of the cloud and the master after a run.

    Attributes:
        living: the ids of living instances, by name.
        launched: the ids of all instances ever launched, by name.
        accepted: the keys that the master accepts, by name.
        disks: the content of the files on the disks, by instance id and file name.
        addresses: the number of elastic addresses.
        volumes: the number of volumes.
    """

    living: dict[str, list[str]]
    launched: dict[str, list[str]]
    accepted: dict[str, str]
    disks: dict[str, dict[str, str]]
    addresses: int
    volumes: int

    @classmethod
    def of(cls, place: Site) -> Snapshot:
        """Ask EC2 itself, once all destroyed instances are terminated."""
        until(
            lambda: not place.instances("shutting-down"), "all destroyed instances are terminated"
        )
        return cls(
            place.instances("pending", "running", "stopping", "stopped"),
            place.instances(),
            place.accepted(),
            {
                disk.name: {
                    path.name: path.read_text() if path.is_file() else "" for path in disk.iterdir()
                }
                for disk in place.host.disks.iterdir()
            },
            len(place.cloud.ec2.describe_addresses()["Addresses"]),
            len(place.cloud.ec2.describe_volumes()["Volumes"]),
        )


@dataclass
class Story:
    """The results of a map that was applied with all faults, applied twice without, and destroyed.

    Attributes:
        met: how often each fault occurred, by machine.
        runs: the three results of salt-cloud.
        after: the states after them.
        calls: the API calls of the third run, by action.
        destroyed: the result of salt-cloud when it destroyed the map.
        left: the state after that.
    """

    met: dict[str, list[int]]
    runs: list[Applied]
    after: list[Snapshot]
    calls: dict[str, int]
    destroyed: CompletedProcess[str]
    left: Snapshot


@pytest.fixture(scope="module", params=[pytest.param("serial", marks=pytest.mark.long), "parallel"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder, how = tmp_path_factory.mktemp("faults"), MODES[request.param]
    mirror = folder / "mirror"
    machines = {case.name: dict(case.options) for case in CASES}
    hurried = {case.name: {**case.options, **case.at_first} for case in CASES}
    injected = [replace(fault, machine=case.name) for case in CASES for fault in case.faults]
    met: dict[str, list[int]] = {}
    with site(folder, SCRIPT.format(mirror=mirror)) as place:
        with place.cloud.faults.inject(*injected) as client:
            runs = [place.apply(hurried, *how)]
            until(
                lambda: "slow-for-ever" in place.instances(),
                "the launch without an answer has taken place",
            )
            after = [Snapshot.of(place)]
            for fault, times in zip(injected, client.seen().met, strict=True):
                met.setdefault(fault.machine, []).append(times)
        mirror.touch()
        place.host.repair()
        place.cloud.settle()
        for _ in range(2):
            with place.cloud.faults.inject() as client:
                runs.append(place.apply(machines, *how))
                calls = client.seen().calls
            after.append(Snapshot.of(place))
        destroyed = place.salt_cloud(f"--map={place.map}", "--destroy")
        place.cloud.settle()
        return Story(met, runs, after, calls, destroyed, Snapshot.of(place))


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


# -- each fault ------------------------------------------------------------------------------------


def test_fault_occurs(story: Story, case: Case) -> None:
    assert all(story.met.get(case.name, []))


def test_error_names_machine_reason_and_next_step(story: Story, case: Case) -> None:
    output = story.runs[0].output[case.name]
    if not case.says:
        assert output["deployed"] is True
        return
    error = output["Error"]
    assert re.search(rf"(^|[ ]){case.name}[ ]", error), error
    assert re.search(".*".join(map(re.escape, case.says)), error), error
    assert f"Failed to deploy '{case.name}'. Error: {error}" in story.runs[0].done.stderr


def test_failure_leaves_one_machine_or_none_and_its_key(story: Story, case: Case) -> None:
    after, output = story.after[0], story.runs[0].output[case.name]
    assert len(after.living.get(case.name, [])) == (case.leaves == "alive")
    assert len(after.launched.get(case.name, [])) == (case.leaves != "nothing")
    unheard = case.name in (
        "slow-for-ever",
        "answer-lost-for-ever",
    )  # it was launched, but its key was never sent
    assert (case.name in after.accepted) == (case.leaves == "alive" and not unheard), output
    (disk,) = [
        after.disks[one] for one in after.living.get(case.name, []) if one in after.disks
    ] or [{}]
    assert not [name for name in disk if name.startswith("tmp")], (
        "the driver left files of the deployment"
    )


def test_second_run_repairs_machine(story: Story, case: Case) -> None:
    before, after, output = story.after[0], story.after[1], story.runs[1].output[case.name]
    (instance_id,) = after.living[case.name]
    if case.says:
        assert output["deployed"] is True
    else:
        assert "already exists" in output["Message"]
    assert (before.living.get(case.name) == [instance_id]) == (case.leaves == "alive")
    assert len(after.launched[case.name]) == 1 + (case.leaves == "terminated")
    disk = after.disks[instance_id]
    assert disk["minion.pub"].strip() == after.accepted[case.name].strip()
    assert "started" in disk["minion"]
    assert not [name for name in disk if name.startswith("tmp")], (
        "the driver left files of the deployment"
    )


# -- all faults ------------------------------------------------------------------------------------


def test_core_exits_zero_after_errors_in_map(story: Story) -> None:
    # Salt's core does not count the errors of a map: programs must read its output.
    assert [run.done.returncode for run in story.runs] == [0, 0, 0]
    assert sorted(story.runs[0].errors) == sorted(case.name for case in CASES if case.says)
    assert [run.errors for run in story.runs[1:]] == [{}, {}]


def test_retries_are_logged(story: Story) -> None:
    for warning in (
        "GetConsoleOutput failed at try 2: RequestLimitExceeded",
        "RunInstances failed at try 1: InternalError",
        "CreateTags failed at try 1: Unavailable",
        "RunInstances failed at try 1: Read timeout",
        "RunInstances failed at try 1: Connection was closed",
    ):
        assert warning in story.runs[0].done.stderr


def test_third_run_changes_nothing(story: Story) -> None:
    assert all("already exists" in output["Message"] for output in story.runs[2].output.values())
    assert story.after[2] == story.after[1]
    assert story.calls == {"DescribeInstances": 1}


def test_no_volume_or_address_is_left(story: Story) -> None:
    for after in story.after:
        assert after.volumes == sum(map(len, after.living.values()))
        assert after.addresses == 1
    assert story.destroyed.returncode == 0
    left = replace(story.left, launched={})
    assert left == Snapshot({}, {}, {}, {}, 0, 0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def test_delayed_launch_creates_no_second_machine(
    place: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "localcloud.server")
    late = threading.Event()
    monkeypatch.setattr(faults, "wait", lambda *_: late.wait(600))
    try:
        with place.cloud.faults.inject(Fault("slow", LAUNCH)) as client:
            assert (
                "Read timeout"
                in place.apply({"web-1": {"deploy": False, "api_timeout": 3}}).errors["web-1"]
            )
            until(lambda: client.seen().met == [2], "both attempts have arrived")
        assert place.instances() == {}
        made = place.apply({"web-1": {"deploy": False}}).output["web-1"]["id"]
    finally:
        late.set()
    until(
        lambda: caplog.messages.count("ec2 RunInstances -> 200") == 3,
        "the slow calls have had their effect",
    )
    assert place.instances() == {"web-1": [made]}


# -- shared queries --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", MODES.values(), ids=MODES)
def test_second_run_repairs_shared_failure(place: Site, how: tuple[str, ...]) -> None:
    machines: dict[str, dict[str, Any]] = {f"web-{number}": {} for number in range(1, 5)}
    with place.cloud.faults.inject(unavailable("DescribeSubnets", 503)):
        errors = place.apply(machines, *how).errors
    assert sorted(errors) == sorted(machines)
    assert all(
        "looking up the subnet a failed: DescribeSubnets: Unavailable" in text
        for text in errors.values()
    )
    assert (place.instances(), place.accepted()) == ({}, {})

    with place.cloud.faults.inject(faults.expired(skip=10)):  # the first calls succeed
        applied = place.apply(machines, *how)
    assert applied.errors
    assert all("RequestExpired" in text and AGAIN in text for text in applied.errors.values())
    assert {name for name in machines if "deployed" not in applied.output[name]} == set(
        applied.errors
    )
    place.cloud.settle()

    assert place.apply(machines, *how).errors == {}
    assert {name: len(ids) for name, ids in place.instances().items()} == dict.fromkeys(machines, 1)
    assert sorted(place.accepted()) == sorted(machines)


def test_failed_query_launches_no_map(place: Site) -> None:
    provider = place.folder / "cloud.providers.d/cloud.conf"
    machines: dict[str, dict[str, Any]] = {"web-1": {"deploy": False}}
    for fault, message, how in (
        (Fault("lost", "DescribeInstances"), "Connection was closed", ()),
        (faults.throttled("DescribeInstances"), "RequestLimitExceeded", ()),
        (unavailable("DescribeInstances", 500), "InternalError", ("--parallel",)),
        (Fault("slow", "DescribeInstances", seconds=600), "Read timeout", ("--parallel",)),
    ):
        if fault.kind == "slow":
            provider.write_text(provider.read_text() + "  api_timeout: 1\n")
        with place.cloud.faults.inject(fault) as client:
            done = place.apply(machines, *how).done
            assert set(client.seen().calls) == {"DescribeInstances"}
        assert done.returncode != 0
        assert "the machines of cloud:ec2 cannot be listed" in done.stderr
        assert message in done.stderr
    assert place.instances() == {}
