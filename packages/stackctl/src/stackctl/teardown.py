"""`stackctl down` of a real deployment: destroys what has its tags, in reverse order of dependency.

Nothing is destroyed before everything was found and proven to be the deployment's. What is gone
already is no error, so an interrupted run is simply repeated. Volumes that outlive their machine,
snapshots and buckets hold data, and stay unless they are asked for.

EC2 refuses with DependencyViolation what something else still needs:
https://docs.aws.amazon.com/vpc/latest/userguide/delete-vpc.html
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from stackctl import cost, inventory
from stackctl.account import enter
from stackctl.account_lock import AccountLock
from stackctl.deployment import Deployment
from stackctl.errors import AwsError, CommandError, LaunchError, StackError
from stackctl.inventory import GONE, KINDS, Clients, Inventory, Thing, code_of
from stackctl.locks import Holder, Session, on_this_host
from stackctl.machines import ec2_client, find_machines
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.ssh import Shell

TRUST_SECONDS = 20  # that the master has to answer, before its lock is given up
END_SECONDS = 600  # that machines have to end, and what they held to come free
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two looks; each pause doubles
BUSY = {
    "DependencyViolation", "DeleteConflict", "IncorrectState", "InvalidIPAddress.InUse",
    "InvalidNetworkInterface.InUse", "ResourceInUse", "VolumeInUse",
}  # fmt: skip
"""What AWS says while something else still needs the thing."""
ORDER = (
    "instance", "natgateway", "vpc-endpoint", "elastic-ip", "network-interface", "subnet",
    "route-table", "security-group", "internet-gateway", "vpc", "key-pair", "instance-profile",
    "role", "volume", "snapshot", "bucket",
)  # fmt: skip
assert {*KINDS} < {*ORDER}  # noqa: S101 - every kind that is found is destroyed


@dataclass(frozen=True)
class Doomed:
    """What a run destroys, in this order, and what it leaves.

    Attributes:
        things: to destroy.
        kept: what holds data, and was not asked for.
        unknown: the deployment's things of kinds that stackctl does not destroy.
    """

    things: Sequence[Thing]
    kept: Sequence[Thing]
    unknown: Sequence[Thing]

    def lines(self, name: str) -> Iterator[str]:
        """Yield what happens to each thing, a line each; nothing for an empty account."""
        yield from (f"destroy {thing}" for thing in self.things)
        yield from (
            f"keep {thing}: it holds data and costs {_monthly(thing)} (--with-data destroys it)"
            for thing in self.kept
        )
        yield from (
            f"leave {thing}: it has the tags of {name}, and stackctl makes nothing of this kind"
            for thing in self.unknown
        )


def _monthly(thing: Thing) -> str:
    """Return what something with data costs a month, in words."""
    if thing.kind == "volume":
        gb = cost.amount(thing.facts.get("Size", 0))
        return f"{cost.prices().month('gp3', gb).quantize(cost.CENT)} USD a month"
    price = cost.amount(cost.prices().services["s3"]["gb_month"])
    return f"{price} USD a month for each GB" if thing.kind == "bucket" else "money"


def doomed(deployment: Deployment, *, with_data: bool) -> Doomed:
    """Return what `destroy` would destroy; changes nothing.

    Raises:
        StackError: something that is not the deployment's stands in its VPC.
    """
    with enter(deployment):
        return _doomed(deployment, Clients.of(deployment), with_data=with_data)


def _doomed(deployment: Deployment, clients: Clients, *, with_data: bool) -> Doomed:
    found = inventory.collect(deployment, clients)
    _require_own(deployment, found)
    data = found.data
    going = [thing for thing in found.things if thing.kind in ORDER]
    # Volumes that EC2 deletes with their machine need no call.
    going = [one for one in going if one.kind not in inventory.DATA or (with_data and one in data)]
    going = [one for one in going if not _goes_with_its_machine(one)]
    master = deployment.master()
    going.sort(key=lambda one: (ORDER.index(one.kind), one.name == master, one.name, one.id))
    unknown = [thing for thing in found.things if thing.kind not in ORDER]
    return Doomed(going, [] if with_data else data, unknown)


def _goes_with_its_machine(thing: Thing) -> bool:
    attachment = thing.facts.get("Attachment") or {}
    return thing.kind == "network-interface" and bool(attachment.get("DeleteOnTermination"))


def _require_own(deployment: Deployment, found: Inventory) -> None:
    """Raise StackError if something of others is in the deployment's VPC."""
    if not found.foreign:
        return
    names = ", ".join(map(str, found.foreign))
    tags = ", ".join(f"{key}={value}" for key, value in deployment.owner().items())
    raise StackError(
        f"Nothing was destroyed: in the VPC of {deployment.name} is what does not have its tags"
        f" ({tags}): {names}.",
        "Remove it if nobody needs it, or tag it if it is this deployment's; then run the same"
        " command again.",
    )


def destroy(
    deployment: Deployment,
    progress: Progress,
    log: Log,
    *,
    with_data: bool,
    wait: bool = False,
) -> Doomed:
    """Destroy a real deployment and prove by the tags of every kind that nothing is left.

    Args:
        deployment: in an AWS account.
        progress: where to show the steps.
        log: where to keep their output.
        with_data: also what holds data.
        wait: for another run that changes the deployment.

    Returns:
        What was destroyed, and what was kept.

    Raises:
        BusyError: another run changes the deployment.
        StackError: something of others is in the way, or something is left.
    """
    holder = Holder.this("down")
    with (
        on_this_host(deployment, holder, progress.note, wait=wait),
        enter(deployment),
        Shell(deployment, client := ec2_client(deployment), log) as shell,
        Session(shell, log, holder, progress.note, wait=wait) as session,
        AccountLock(deployment, holder, progress.note, wait=wait, make=False),
    ):
        for machine in find_machines(client, deployment):
            if machine.name == deployment.master() and machine.state == "running":
                # One that does not answer is no reason to keep it.
                with contextlib.suppress(CommandError, LaunchError):
                    shell.trust(machine, timeout=TRUST_SECONDS)
                    session.hold(machine)
        clients = Clients.of(deployment)
        with progress.step("inventory") as step:
            going = _doomed(deployment, clients, with_data=with_data)
            step.detail = f"{len(going.things)} to destroy, {len(going.kept)} with data to keep"
        demolition = Demolition(clients, log)
        for kind in ORDER:
            things = [thing for thing in going.things if thing.kind == kind]
            if things:
                with progress.step(kind) as step:
                    demolition.destroy(kind, things, deployment.master())
                    step.changed, step.detail = True, f"{len(things)} destroyed"
        with progress.step("proof") as step:
            step.report("asking for what is left")
            _prove(deployment, clients, going)
            step.detail = "nothing else is left"
    return going


def _prove(deployment: Deployment, clients: Clients, going: Doomed) -> None:
    """Ask for everything with the deployment's tags until only what is kept is left.

    Raises:
        StackError: something else is left after `END_SECONDS`, or is of no known kind.
    """
    kept = {thing.id for thing in going.kept}
    unknown = {thing.id for thing in going.unknown}
    for last in _looks():
        left = [one for one in inventory.collect(deployment, clients).things if one.id not in kept]
        if last or all(one.id in unknown for one in left):
            break
    if left:
        raise StackError(
            f"{len(left)} things with the tags of {deployment.name} are left:"
            f" {', '.join(map(str, left))}.",
            "AWS may bill them: look at them, and remove them or run the same command again.",
        )


class Demolition:
    """The calls that destroy each kind of thing."""

    def __init__(self, clients: Clients, log: Log) -> None:
        self._ec2, self._iam, self._s3 = clients.ec2, clients.iam, clients.s3
        self._clients = clients
        self._log = log

    def destroy(self, kind: str, things: Sequence[Thing], master: str) -> None:
        """Destroy things of one kind, and return when AWS has done it.

        Args:
            kind: of all of them.
            things: proven to be the deployment's.
            master: the machine that goes last.
        """
        if kind == "instance":
            self._end([one for one in things if one.name != master])
            self._end([one for one in things if one.name == master])
            return
        if kind == "security-group":
            # Groups refer to each other: no rule may be left before the first goes.
            for thing in things:
                self._clear_rules(thing)
        act: Callable[[Thing], Any] = getattr(self, f"_{kind.replace('-', '_')}")
        for thing in things:
            self._log.write(f"destroy {thing}")
            self._until_free(thing, partial(act, thing))
        if kind == "natgateway":
            self._until_ended(kind, things)

    # -- how --------------------------------------------------------------------------------------

    def _until_free(self, thing: Thing, act: Callable[[], Any]) -> None:
        """Make a call until nothing needs the thing any more; what is gone is fine."""
        for last in _looks():
            try:
                act()
            except ClientError as error:
                code = code_of(error)
                if GONE.fullmatch(code):
                    return
                busy = code in BUSY or "currently in use" in str(error)
                if not busy or last:
                    hint = f"Something that is not {thing.kind} {thing.id}'s own still needs it."
                    raise AwsError(
                        f"{thing}: {str(error).rstrip('.')}.", hint if busy else ""
                    ) from error
            else:
                return

    def _until_ended(self, kind: str, things: Sequence[Thing]) -> None:
        ids = {thing.id for thing in things}
        for last in _looks():
            found = self._present(kind, ids)
            if not found:
                return
            if last:
                raise AwsError(f"{', '.join(sorted(found))} do not end.", "Run it again.")

    def _present(self, kind: str, ids: set[str]) -> set[str]:
        """Return which of these still are, also those that are ending."""
        filters = [{"Name": f"{kind.replace('natgateway', 'nat-gateway')}-id", "Values": [*ids]}]
        ended = ("terminated", "deleted")
        found = inventory.described(self._ec2, kind, filters, ended=ended)
        return {one.id for one in found}

    def _end(self, machines: Sequence[Thing]) -> None:
        """Terminate machines, also protected ones, and wait until they have ended."""
        for machine in machines:
            self._log.write(f"destroy {machine}")
            self._until_free(
                machine,
                partial(
                    self._ec2.modify_instance_attribute,
                    InstanceId=machine.id,
                    DisableApiTermination={"Value": False},
                ),
            )
        for machine in machines:
            self._until_free(
                machine,
                partial(self._ec2.terminate_instances, InstanceIds=[machine.id]),
            )
        if machines:
            self._until_ended("instance", machines)

    def _natgateway(self, thing: Thing) -> None:
        self._ec2.delete_nat_gateway(NatGatewayId=thing.id)

    def _vpc_endpoint(self, thing: Thing) -> None:
        self._ec2.delete_vpc_endpoints(VpcEndpointIds=[thing.id])

    def _elastic_ip(self, thing: Thing) -> None:
        self._ec2.release_address(AllocationId=thing.id)

    def _network_interface(self, thing: Thing) -> None:
        self._ec2.delete_network_interface(NetworkInterfaceId=thing.id)

    def _subnet(self, thing: Thing) -> None:
        answer = self._ec2.get_subnet_cidr_reservations(SubnetId=thing.id)
        for one in answer.get("SubnetIpv4CidrReservations", ()):
            reservation = one["SubnetCidrReservationId"]
            self._ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=reservation)
        self._ec2.delete_subnet(SubnetId=thing.id)

    def _route_table(self, thing: Thing) -> None:
        for one in thing.facts.get("Associations", ()):
            # Those of a subnet end with it.
            with contextlib.suppress(ClientError):
                self._ec2.disassociate_route_table(AssociationId=one["RouteTableAssociationId"])
        self._ec2.delete_route_table(RouteTableId=thing.id)

    def _clear_rules(self, thing: Thing) -> None:
        """Remove the rules of a group that name groups; the others go with it."""
        pages = self._ec2.get_paginator("describe_security_groups").paginate(
            Filters=[{"Name": "group-id", "Values": [thing.id]}]
        )
        for group in (group for page in pages for group in page["SecurityGroups"]):
            for direction, key in (
                ("ingress", "IpPermissions"), ("egress", "IpPermissionsEgress"),
            ):  # fmt: skip
                rules = [rule for rule in group.get(key, ()) if rule.get("UserIdGroupPairs")]
                if rules:
                    revoke = getattr(self._ec2, f"revoke_security_group_{direction}")
                    self._until_free(
                        thing,
                        partial(revoke, GroupId=thing.id, IpPermissions=rules),
                    )

    def _security_group(self, thing: Thing) -> None:
        self._ec2.delete_security_group(GroupId=thing.id)

    def _internet_gateway(self, thing: Thing) -> None:
        for one in thing.facts.get("Attachments", ()):
            self._detach(thing.id, one["VpcId"])
        self._ec2.delete_internet_gateway(InternetGatewayId=thing.id)

    def _detach(self, gateway: str, vpc: str) -> None:
        try:
            self._ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        except ClientError as error:  # an earlier try has done it
            if code_of(error) != "Gateway.NotAttached":
                raise

    def _vpc(self, thing: Thing) -> None:
        self._ec2.delete_vpc(VpcId=thing.id)

    def _key_pair(self, thing: Thing) -> None:
        # By its name, which only one pair of the region has: moto does not know the id here.
        self._ec2.delete_key_pair(KeyName=thing.facts["KeyName"])

    def _instance_profile(self, thing: Thing) -> None:
        answer = self._iam.get_instance_profile(InstanceProfileName=thing.id)
        for role in answer["InstanceProfile"]["Roles"]:
            self._iam.remove_role_from_instance_profile(
                InstanceProfileName=thing.id, RoleName=role["RoleName"]
            )
        self._iam.delete_instance_profile(InstanceProfileName=thing.id)

    def _role(self, thing: Thing) -> None:
        name = {"RoleName": thing.id}
        for page in self._iam.get_paginator("list_role_policies").paginate(**name):
            for policy in page["PolicyNames"]:
                self._iam.delete_role_policy(PolicyName=policy, **name)
        for page in self._iam.get_paginator("list_attached_role_policies").paginate(**name):
            for policy in page["AttachedPolicies"]:
                self._iam.detach_role_policy(PolicyArn=policy["PolicyArn"], **name)
        self._iam.delete_role(**name)

    def _volume(self, thing: Thing) -> None:
        self._ec2.delete_volume(VolumeId=thing.id)

    def _snapshot(self, thing: Thing) -> None:
        self._ec2.delete_snapshot(SnapshotId=thing.id)

    def _bucket(self, thing: Thing) -> None:
        for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=thing.id):
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
            if objects:
                delete = {"Objects": objects, "Quiet": True}
                answer = self._s3.delete_objects(Bucket=thing.id, Delete=delete)
                if errors := answer.get("Errors"):
                    raise AwsError(f"{thing}: {errors[0]['Key']}: {errors[0]['Message']}.")
        self._s3.delete_bucket(Bucket=thing.id)


def _looks(seconds: float | None = None) -> Iterator[bool]:
    """Yield for each look whether it is the last; pause in between, each time for longer."""
    end, pause = time.monotonic() + (END_SECONDS if seconds is None else seconds), FIRST_PAUSE
    while (left := end - time.monotonic()) > 0:
        yield False
        time.sleep(min(pause, max(left, 0)))
        pause = min(2 * pause, LONGEST_PAUSE)
    yield True
