"""What a deployment costs a month, and what else would, from `prices.yaml`.

The profiles say what a machine is (cloud.profiles.d), the map and the settings how many there are.
`settings:budget` limits it: `plan`, `up` and `scale` refuse what costs more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from stackctl import profiles
from stackctl.counts import Bounds
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError, StackError
from stackctl.roles import EDGE_TLS, MASTER, role_of

CENT = Decimal("0.01")
ROOT_GB = 8  # of Debian's image, where a profile names no size


@dataclass(frozen=True)
class Prices:
    """The price file.

    Attributes:
        date: on which somebody has looked at it.
        hours: of a month.
        instances: instance type -> its price and facts.
        services: service -> its prices.
    """

    date: str
    hours: int
    instances: Mapping[str, Mapping[str, Any]]
    services: Mapping[str, Mapping[str, Any]]

    def month(self, service: str, gb: Decimal = Decimal(0)) -> Decimal:
        """Return what one of a service costs a month, with so many GB kept."""
        price = self.services[service]
        hourly = self.hours * amount(price.get("hour", 0))
        return hourly + gb * amount(price.get("gb_month", 0))

    def instance(self, kind: str) -> Decimal:
        """Return what an instance costs a month; raise StackError for a type without a price."""
        return self.hours * amount(self._kind(kind)["hour"])

    def surplus(self, kind: str) -> Decimal:
        """Return what an instance in the mode `unlimited` costs a month more, at most."""
        facts = self._kind(kind)
        above = amount(facts["vcpus"]) * (1 - amount(facts["baseline"]))
        return self.hours * above * amount(facts["surplus"])

    def _kind(self, kind: str) -> Mapping[str, Any]:
        if kind not in self.instances:
            raise StackError(
                f"packages/stackctl/src/stackctl/prices.yaml has no price of {kind}.",
                f"It has: {', '.join(self.instances)}. Add it, with its source.",
            )
        return self.instances[kind]


@cache
def prices() -> Prices:
    """Return the prices."""
    data = yaml.safe_load(files("stackctl").joinpath("prices.yaml").read_text())
    return Prices(str(data["date"]), data["hours"], data["instances"], data["services"])


def amount(number: object) -> Decimal:
    """Return a number of the price file without binary rounding."""
    return Decimal(str(number))


@dataclass(frozen=True)
class Row:
    """What the machines of a role cost a month, in USD.

    Attributes:
        role: of the machines.
        machines: how many.
        kind: their instance type.
        instances: without surplus credits.
        surplus: credits, at most: every vCPU busy all month.
        volumes: gp3.
        addresses: public IPv4.
    """

    role: str
    machines: int
    kind: str
    instances: Decimal
    surplus: Decimal
    volumes: Decimal
    addresses: Decimal

    @property
    def total(self) -> Decimal:
        """The sum."""
        return self.instances + self.surplus + self.volumes + self.addresses


@dataclass(frozen=True)
class Usage:
    """What no file of the tree says.

    Attributes:
        s3_gb: kept in S3.
        transfer_gb: out of AWS, a month.
    """

    s3_gb: Decimal = Decimal(0)
    transfer_gb: Decimal = Decimal(100)


@dataclass(frozen=True)
class Estimate:
    """What a deployment costs a month, in USD."""

    rows: Sequence[Row]
    s3: Decimal
    transfer: Decimal

    @property
    def total(self) -> Decimal:
        """The sum, rounded to cents."""
        return (sum((row.total for row in self.rows), self.s3) + self.transfer).quantize(CENT)

    def of(self, *roles: str) -> Decimal:
        """Return what the machines of these roles cost."""
        return sum((row.total for row in self.rows if row.role in roles), Decimal(0))


def machine_counts(
    deployment: Deployment, wanted: Mapping[str, Bounds] | None = None
) -> dict[str, int]:
    """Return role -> how many machines it may have at most.

    Args:
        deployment: the map and the settings say it.
        wanted: role -> bounds in the place of the settings'.
    """
    found = Counter(role_of(name) for name in deployment.machines())
    given = {**deployment.bounds(), **(wanted or {})}
    return dict(found) | {role: bounds.maximum for role, bounds in given.items()}


def estimate(
    deployment: Deployment, counts: Mapping[str, int], usage: Usage | None = None
) -> Estimate:
    """Return what so many machines of each role cost a month.

    Raises:
        StackError: a profile does not exist, or its type has no price.
    """
    price, used = prices(), usage or Usage()
    given, edge = deployment.map_options(), deployment.role_table().edge.name
    rows = []
    for role, machines in counts.items():
        profile = profiles.resolve(deployment, role)
        kind = profiles.instance_type(profile, role)
        surplus = price.surplus(kind) if _unlimited(profile, kind) else Decimal(0)
        rows.append(
            Row(
                role,
                machines,
                kind,
                machines * price.instance(kind),
                machines * surplus,
                machines * price.month("gp3", _gb(profile)),
                _addresses(profile, given, (role, machines), has_site=role == edge)
                * price.month("ipv4"),
            )
        )
    transfer = price.services["transfer"]
    billed = max(used.transfer_gb - amount(transfer["free_gb"]), Decimal(0))
    return Estimate(rows, price.month("s3", used.s3_gb), billed * amount(transfer["gb"]))


def _unlimited(profile: Mapping[str, Any], kind: str) -> bool:
    """Return whether a machine pays for CPU above its baseline; T3 and T4g do by default.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-unlimited-mode.html
    """
    default = "standard" if kind.startswith("t2.") else "unlimited"
    return str(profile.get("credit_specification", default)) == "unlimited"


def _gb(profile: Mapping[str, Any]) -> Decimal:
    disks = profile.get("block_device_mappings") or [{}]
    return sum((amount(disk.get("Ebs.VolumeSize", ROOT_GB)) for disk in disks), Decimal(0))


def _addresses(
    profile: Mapping[str, Any],
    given: Mapping[str, Mapping[str, Any]],
    row: tuple[str, int],
    *,
    has_site: bool,
) -> Decimal:
    """Return how many public addresses a role has, also by the options of the map.

    Args:
        profile: of its machines.
        given: name of a machine -> its options in the map.
        row: the role, and how many machines it has.
        has_site: whether one of them has the site's address, in the place of its own.
    """
    role, machines = row
    if _is_public(profile):
        return Decimal(machines)
    named = sum(_is_public(options) for name, options in given.items() if role_of(name) == role)
    return Decimal(max(named, int(has_site)))


def _is_public(profile: Mapping[str, Any]) -> bool:
    # An Elastic IP takes the place of the machine's own address.
    return bool(profile.get("associate_public_ip") or profile.get("associate_eip"))


# -- what else -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alternative:
    """Something else, in the place of a part of the stack.

    Attributes:
        what: it is.
        instead_of: which part.
        month: what it costs, in USD.
        change: of the whole, in USD.
        confirmed: whether a price list or a bill confirms its price.
    """

    what: str
    instead_of: str
    month: Decimal
    change: Decimal
    confirmed: bool


def alternatives(deployment: Deployment, found: Estimate) -> Iterator[Alternative]:
    """Yield what else would do the same, with its price; it may do more or less."""
    price = prices()

    def instead(
        what: str, services: Sequence[str], month: Decimal, before: tuple[str, Decimal]
    ) -> Alternative:
        known = {**price.instances, **price.services}
        confirmed = all("seen" in known[service] for service in services)
        return Alternative(what, before[0], month, month - before[1], confirmed)

    machines = sum(row.machines for row in found.rows)
    present = sum((row.instances for row in found.rows), Decimal(0))
    for kind in price.instances:
        if any(row.kind != kind for row in found.rows):
            month = machines * price.instance(kind)
            yield instead(
                f"{machines} x {kind}, standard credits", [kind], month, ("all instances", present)
            )
    edges = [
        name for name, role in deployment.role_table().roles.items() if role.certificate == EDGE_TLS
    ]
    alb = price.month("alb") + price.hours * amount(price.services["alb"]["lcu_hour"])
    alb += 2 * price.month("ipv4")  # it has an address in each of two zones at least
    yield instead("ALB with one LCU", ["alb", "ipv4"], alb, ("edge machines", found.of(*edges)))
    for service, what, role in (
        ("rds", "RDS, db.t4g.micro in one zone", "postgres"),
        ("elasticache", "ElastiCache, cache.t4g.micro", "redis"),
    ):
        month = price.month(service, amount(price.services[service].get("gb", 0)))
        yield instead(what, [service], month, (f"{role} machines", found.of(role)))
    yield from _ways_out(deployment, found, instead)
    month = price.month("mwaa", amount(price.services["mwaa"]["gb"]))
    yield instead("MWAA, mw1.small, with a scheduler", ["mwaa"], month, ("all", found.total))


def _ways_out(
    deployment: Deployment, found: Estimate, instead: Callable[..., Alternative]
) -> Iterator[Alternative]:
    """Yield what else would let the private machines out: the proxy is on a machine that is there.

    Args:
        deployment: whose zones.
        found: what it costs.
        instead: makes an alternative of its words, its prices' names, its costs and what it
            would replace.
    """
    price, before = prices(), ("proxy on the Salt master", Decimal(0))
    zones, address = len(deployment.zones()), price.month("ipv4")
    yield instead(
        f"NAT gateway in each of {zones} zones, without its traffic",
        ["nat_gateway", "ipv4"],
        zones * (price.month("nat_gateway") + address),
        before,
    )
    master = next(row for row in found.rows if row.role == MASTER)
    yield instead(
        f"NAT instance, one {master.kind}",
        [master.kind, "ipv4", "gp3"],
        price.instance(master.kind) + address + price.month("gp3", Decimal(ROOT_GB)),
        before,
    )
    private = sum(row.machines for row in found.rows if not row.addresses)
    yield instead(
        f"public addresses of {private} private machines", ["ipv4"], private * address, before
    )


# -- the budget ------------------------------------------------------------------------------------


def require_within_budget(
    deployment: Deployment, wanted: Mapping[str, Bounds] | None = None
) -> None:
    """Raise PreflightError if the machines may cost more than `settings:budget`.

    Args:
        deployment: whose machines; a role whose number the master chooses counts with its maximum.
        wanted: role -> bounds in the place of the settings'.
    """
    if not deployment.has_settings or "budget" not in deployment.settings():
        return
    budget = amount(deployment.settings()["budget"])
    found = estimate(deployment, machine_counts(deployment, wanted))
    if found.total > budget:
        raise PreflightError(
            f"{deployment.name} would cost {found.total} USD a month at most, and settings:budget"
            f" in {deployment.settings_path.relative_to(deployment.root)} is {budget}.",
            f"See {deployment.command('cost')}. Raise the budget, or add --over-budget once.",
        )
