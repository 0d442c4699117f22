"""Whether what a deployment decides can be: its settings, its networks and its region.

`settings.schema.yaml` says what the settings may hold. An error names file, key, value and what is
allowed, and all faults are named at once.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import yaml

from stackctl import tree_files
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-regions-availability-zones.html
REGION = re.compile(
    r"\b(?:af|ap|ca|cn|eu|il|me|mx|sa|us)(?:-(?:gov|iso[a-z]?))?"
    r"-(?:(?:north|south)?(?:east|west)?|central)-\d(?=[a-z]?\b)"
)
TREE = ("cloud.providers.d/*.conf", "cloud.profiles.d/*.conf", "cloud.maps.d/*.map")
AWS = "pillar/base/aws.sls"
VPC = "aws:vpc:cidr"
# https://www.iana.org/assignments/special-use-domain-names, and ICANN's `internal`
NOT_PUBLIC = frozenset(
    ("arpa", "example", "internal", "invalid", "local", "localhost", "onion", "test")
)
ACCOUNT_DIGITS, BUCKET_LENGTH = 12, 63
Values = Iterator[tuple[str, Any]]


def check(deployment: Deployment, *, complete: bool) -> None:
    """Raise PreflightError for settings that cannot be, or do not fit to the tree.

    Args:
        deployment: one that has settings.
        complete: whether every key has to be there that the machines read. `stackctl secrets init`
            makes some of them.
    """
    path = deployment.settings_path.relative_to(deployment.root)
    settings = deployment.settings()
    found = [f"{path}: {line}" for line in _problems(settings, deployment.name, complete=complete)]
    found += [*_networks(deployment, settings), *_regions(deployment, settings)]
    found += [*_bucket(deployment)]
    if found:
        raise PreflightError(" ".join(f"{line.rstrip('.')}." for line in found))


def check_name(deployment: Deployment) -> None:
    """Raise PreflightError for a name with which the deployment cannot have its bucket."""
    if problems := [*_bucket(deployment)]:
        raise PreflightError(f"{problems[0]}.")


def check_site(url: str) -> None:
    """Raise PreflightError for an address that cannot be a site's."""
    try:
        _require_site(url)
    except ValueError as error:
        raise PreflightError(
            f"The address {url!r} cannot be the site's: write it {error}."
        ) from None


# -- the settings by themselves --------------------------------------------------------------------


def _problems(settings: Mapping[str, Any], name: str, *, complete: bool) -> Iterator[str]:
    """Yield what is wrong with the settings by themselves, a sentence each."""
    import jsonschema  # noqa: PLC0415 - it takes a sixth of a second

    schema = yaml.safe_load(files("stackctl").joinpath("settings.schema.yaml").read_text())
    known = list(schema["properties"])
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
            yield f"settings:{key} is unknown; {hint}"
    if complete:
        missing = [key for key in schema["required"] if key not in settings]
        if missing:
            lacks = ", ".join(f"settings:{key} ({_allowed(schema, [key])})" for key in missing)
            yield f"the file lacks {lacks}"
    checker = jsonschema.FormatChecker(formats=())
    checker.checks("site", raises=ValueError)(_require_site)
    validator = jsonschema.Draft202012Validator(
        schema | {"required": [], "additionalProperties": True}, format_checker=checker
    )
    for error in sorted(validator.iter_errors(dict(settings)), key=lambda one: one.json_path):
        keys = ":".join(["settings", *map(str, error.absolute_path)])
        allowed = _allowed(schema, error.absolute_path)
        why = f"; write it {error.cause}" if error.cause else ""
        yield f"{keys} is {error.instance!r}: allowed is {allowed}{why}"
    yield from _acme(settings)
    if settings.get("deployment", name) != name:
        yield f"settings:deployment is {settings['deployment']!r}: allowed is {name}"


def _acme(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield why no ACME CA could sign a certificate for the site."""
    acme, url = settings.get("acme"), settings.get("base_url")
    if not isinstance(acme, Mapping) or not isinstance(url, str):
        return
    name = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(name)
        why = "and not an address"
    except ValueError:
        # A private CA may sign what no public one does.
        if "." in name and (acme.get("ca_certificate") or name.split(".")[-1] not in NOT_PUBLIC):
            return
        why = "and not one that leads nowhere outside"
    yield (
        f"settings:base_url is {url!r}: allowed is, with settings:acme, a public name, {why}, since"
        " the CA asks the site under it"
    )


def _allowed(schema: Mapping[str, Any], path: Iterable[Any]) -> str:
    """Return what is allowed at a place."""
    for key in path:
        schema = schema["items"] if isinstance(key, int) else schema["properties"][key]
    return str(schema["description"])


def _require_site(url: object) -> bool:
    """Return true for the address of a site; otherwise raise ValueError: how to write it."""
    if not isinstance(url, str):
        return True  # the type is another fault
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ValueError(
            f"with https:// and not {parts.scheme + '://' if parts.scheme else 'bare'}"
        )
    if parts.path == "/":
        raise ValueError("without the slash at its end")
    for what, part in (("path", parts.path), ("query", parts.query), ("fragment", parts.fragment)):
        if part:
            raise ValueError(f"without {'the path ' + part if what == 'path' else 'a ' + what}")
    host, _, port = parts.netloc.partition(":")
    if "@" in parts.netloc:
        raise ValueError("without a user")
    if ":" in parts.netloc and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("with a port from 1 to 65535")
    if host != host.lower():
        raise ValueError("in lower-case letters")
    if not HOST.fullmatch(host):
        raise ValueError("with a name or an IPv4 address")
    return True


def _bucket(deployment: Deployment) -> Iterator[str]:
    """Yield what is wrong with the bucket's name, which has the deployment's in it.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    pattern = deployment.base_pillar("aws")["bucket"]["name"]
    name = deployment.in_account(pattern).replace("{account}", "0" * ACCOUNT_DIGITS)
    if len(name) > BUCKET_LENGTH:
        most = len(deployment.name) - len(name) + BUCKET_LENGTH
        yield (
            f"{AWS}: aws:bucket:name has {len(name)} characters in the deployment"
            f" {deployment.name}, and S3 allows {BUCKET_LENGTH}: allowed is a deployment's name of"
            f" {most} characters"
        )


# -- networks --------------------------------------------------------------------------------------


def _networks(deployment: Deployment, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the networks of the foundation, and with the operators' in them."""
    aws = deployment.base_pillar("aws")
    found: dict[str, ipaddress.IPv4Network] = {}
    for key, value in _values(aws, "aws"):
        if not key.endswith(":cidr"):
            continue
        try:
            found[key] = ipaddress.IPv4Network(value)
        except ValueError:
            allowed = "an IPv4 network without host bits, such as 10.20.1.0/24"
            yield f"{AWS}: {key} is {value!r}: allowed is {allowed}"
    vpc = found.pop(VPC, None)
    if vpc is None:
        return
    yield from _subnets(vpc, found)
    address = aws.get("salt_address")
    if address and not any(ipaddress.IPv4Address(address) in one for one in found.values()):
        yield f"{AWS}: aws:salt_address is '{address}': allowed is an address of a subnet"
    if deployment.is_local:
        return  # the operator's host is the router of the machines' network
    path = deployment.settings_path.relative_to(deployment.root)
    cidrs = settings.get("operator_cidrs")
    for number, cidr in enumerate(cidrs if isinstance(cidrs, list) else ()):
        if isinstance(cidr, str) and _within(cidr, vpc):
            yield (
                f"{path}: settings:operator_cidrs:{number} is '{cidr}': allowed is a network"
                f" outside {vpc} ({VPC}), from which operators come"
            )


def _subnets(
    vpc: ipaddress.IPv4Network, found: Mapping[str, ipaddress.IPv4Network]
) -> Iterator[str]:
    """Yield which networks are not within the VPC, or overlap."""
    before: dict[str, ipaddress.IPv4Network] = {}
    for key, network in found.items():
        if not network.subnet_of(vpc):
            yield f"{AWS}: {key} is '{network}': allowed is a network within {vpc} ({VPC})"
        for other, taken in before.items():
            if network.overlaps(taken):
                yield f"{AWS}: {key} is '{network}': it overlaps {taken} ({other})"
        before[key] = network


def _within(cidr: str, vpc: ipaddress.IPv4Network) -> bool:
    try:
        return ipaddress.IPv4Network(cidr, strict=False).subnet_of(vpc)
    except ValueError:
        return False  # stackctl.operators says why


# -- regions ---------------------------------------------------------------------------------------


def _regions(deployment: Deployment, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield where another region is named than the one of the provider."""
    region = _allowed_region(deployment)
    path = str(deployment.settings_path.relative_to(deployment.root))
    places = [
        (path, _values(settings, "settings")),
        (AWS, _values(deployment.base_pillar("aws"), "aws")),
    ]
    for pattern in TREE:
        for file in sorted(deployment.root.glob(pattern)):
            lines = enumerate(tree_files.text(deployment.root, file).splitlines(), 1)
            places.append(
                (str(file.relative_to(deployment.root)), ((f"line {n}", line) for n, line in lines))
            )
    for name, values in places:
        for key, value in values:
            if isinstance(value, str) and set(REGION.findall(value)) - {region}:
                yield f"{name}: {key} is {value.strip()!r}: allowed is the region {region}"


def _allowed_region(deployment: Deployment) -> str:
    """Return the region of the provider; without a provider, of the foundation."""
    for path in sorted(deployment.root.glob("cloud.providers.d/*.conf")):
        for provider in tree_files.read(deployment.root, path).values():
            return str(provider["location"])
    return deployment.region()


def _values(data: Any, key: str) -> Values:
    """Yield the key of each value, with those above it, and the value."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _values(value, f"{key}:{name}")
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _values(value, f"{key}:{number}")
    else:
        yield key, data
