"""The connection to AWS: region, credentials, endpoint and retries."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    Credentials,
    DeferredRefreshableCredentials,
)

from saltext.ec2 import options as _options
from saltext.ec2._cache import Cache
from saltext.ec2.errors import ConfigurationError, RegionRefused, api_errors

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef
    from mypy_boto3_ssm import SSMClient

log = logging.getLogger(__name__)

# The old driver's word for the credentials that boto3 finds.
INSTANCE_ROLE = "use-instance-role-credentials"
REGION_OPTIONS = ("location", "region", "allowed_regions", "profile_name")


@dataclass(frozen=True)
class Connection:
    """The clients of one provider.

    Attributes:
        account: what the account and region are known by: equal for the same ones.
        region: their region.
        ec2: the client of EC2.
        ssm: the client of Systems Manager, whose parameters contain the ids of the newest images.
        cache: recent answers, shared with the other processes of a run.
        owned_by: the tags of what the provider sees, and of what it launches; empty: it sees all.
    """

    account: str
    region: str
    ec2: EC2Client
    ssm: SSMClient
    cache: Cache
    owned_by: Mapping[str, str] = field(default_factory=dict)

    def owned(self) -> list[FilterTypeDef]:
        """Return EC2's filters for what has the tags of `owned_by`."""
        return [{"Name": f"tag:{key}", "Values": [value]} for key, value in self.owned_by.items()]


def region_of(options: Mapping[str, Any]) -> str:
    """Return the region in these options.

    Args:
        options: `location` or `region`, `allowed_regions`, `profile_name`; without a region, that
            of the environment's AWS_REGION, or the default of boto3.

    Raises:
        ConfigurationError: there is no region, or there are two.
        RegionRefused: the region is not one of `allowed_regions`.
    """
    location, region, allowed, profile_name = _typed(options, REGION_OPTIONS)
    if location and region and location != region:
        raise ConfigurationError(f"location is {location} but region is {region}: set one of them")
    chosen = (
        location
        or region
        or os.environ.get("AWS_REGION")
        or boto3.Session(profile_name=profile_name).region_name
    )
    if not chosen:
        raise ConfigurationError(
            "no region: set location in the provider, or AWS_REGION in the environment"
        )
    check_region(str(chosen), {"allowed_regions": allowed})
    return str(chosen)


def _typed(options: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Return the values of some options in the types of those options.

    Raises:
        ConfigurationError: a value has another type than its option.
    """
    return [_options.value(name, options.get(name), "the connection") for name in names]


def check_region(region: str, options: Mapping[str, Any]) -> None:
    """Check that `allowed_regions`, if it is set, contains a region.

    Raises:
        RegionRefused: it does not.
    """
    allowed = options.get("allowed_regions")
    if isinstance(allowed, str):
        allowed = [allowed]
    if allowed is not None and region not in allowed:
        raise RegionRefused(
            f"region {region} is refused: allowed_regions names {', '.join(allowed) or 'none'}"
        )


def connect(options: Mapping[str, Any], cache_folder: str) -> Connection:
    """Return the clients for a provider's options; the same options get the same clients.

    Credentials are `id` and `key` (and `token`) if they are set, otherwise those that boto3 finds:
    environment, profile, SSO, web identity, the instance's role. They then assume `role_arn`.

    Args:
        options: those of a provider or of a machine.
        cache_folder: Salt's cache directory.

    Raises:
        ConfigurationError: see `region_of`; or only one of `id` and `key` is set; or an option
            that takes a number has none.
        ApiError: AWS refuses the role.
    """
    names = ("id", "key", "token", "role_arn", "profile_name", "max_attempts", "api_timeout")
    wanted = {
        "region": region_of(options),
        **dict(zip(names, _typed(options, names), strict=True)),
        "endpoint_url": _endpoint(options),
        "owned_by": owned_by(options),
    }
    return _connect(json.dumps(wanted, sort_keys=True), cache_folder)


def owned_by(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of `owned_by`.

    Raises:
        ConfigurationError: it is no mapping.
    """
    (given,) = _typed(options, ("owned_by",))
    return {str(key): str(value) for key, value in (given or {}).items()}


def _endpoint(options: Mapping[str, Any]) -> str | None:
    endpoint, url = _typed(options, ("endpoint", "endpoint_url"))
    if not endpoint:
        return str(url) if url else None
    if url:
        raise ConfigurationError("endpoint and endpoint_url are both set")
    return str(endpoint) if "://" in endpoint else f"https://{endpoint}"


@functools.lru_cache(maxsize=8)
def _connect(wanted_json: str, cache_folder: str) -> Connection:
    wanted = json.loads(wanted_json)
    config = Config(
        connect_timeout=10,
        read_timeout=wanted["api_timeout"],
        retries={"mode": "adaptive", "total_max_attempts": wanted["max_attempts"]},
        user_agent_extra="saltext.ec2",
    )
    session = _session(wanted, config)
    ec2 = session.client("ec2", config=config, endpoint_url=wanted["endpoint_url"])
    ssm = session.client("ssm", config=config)  # the endpoint in the options is EC2's
    for client in (ec2, ssm):
        client.meta.events.register("needs-retry", _report_retry)
    with api_errors("finding the credentials"):
        credentials = session.get_credentials()
    identity = wanted["role_arn"] or _identity(credentials, session)
    owner = wanted["owned_by"]
    account = f"{wanted['region']} {ec2.meta.endpoint_url} {identity}"
    if owner:
        account = f"{account} {json.dumps(owner, sort_keys=True)}"
    return Connection(account, wanted["region"], ec2, ssm, Cache(cache_folder, account), owner)


def _identity(credentials: Any, session: boto3.Session) -> str:
    """Return the access key, or the profile if each session gets an access key of its own."""
    if credentials is None:
        return ""
    if credentials.method.startswith("assume-role"):
        return f"{credentials.method} {session.profile_name}"
    return str(credentials.access_key)


def _report_retry(
    attempts: int,
    operation: Any,
    response: Any = None,
    caught_exception: Exception | None = None,
    **_: Any,
) -> None:
    """Log a failed attempt; botocore decides whether to retry."""
    problem: object = caught_exception
    if response is not None and response[0].status_code >= 400:
        problem = response[1].get("Error", {}).get("Code", response[0].status_code)
    # The driver tries what some instance types do not support, and what is not to happen, and
    # expects the refusal.
    if problem and problem not in ("DryRunOperation", "UnsupportedOperation"):
        log.warning("%s failed at try %d: %s", operation.name, attempts, problem)


@functools.lru_cache(maxsize=1)
def model_loader() -> botocore.loaders.Loader:
    """Return a loader that has read botocore's API descriptions, and keeps them.

    They are 12 MB of JSON and take one second, which every process of a map saves if this is called
    before salt-cloud forks.
    """
    loader = botocore.loaders.create_loader()
    for service in ("ec2", "ssm"):
        for kind in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model(service, kind)
    loader.load_service_model("ec2", "paginators-1")
    for name in ("endpoints", "partitions", "sdk-default-configuration"):
        loader.load_data_with_path(name)
    return loader


def _new_session(credentials: Credentials | None = None, **arguments: Any) -> boto3.Session:
    core = botocore.session.Session()
    core.register_component("data_loader", model_loader())
    if credentials:
        core.register_component("credential_provider", CredentialResolver([_Provider(credentials)]))
    return boto3.Session(botocore_session=core, **arguments)


def _session(wanted: Mapping[str, Any], config: Config) -> boto3.Session:
    access_key, secret_key = wanted["id"], wanted["key"]
    if INSTANCE_ROLE in (access_key, secret_key):
        access_key = secret_key = None
    if bool(access_key) != bool(secret_key):
        raise ConfigurationError(
            "id and key belong together: set both, or neither to use what boto3 finds"
        )
    with api_errors("reading the AWS configuration"):
        session = _new_session(
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=wanted["token"] if access_key else None,
            region_name=wanted["region"],
            **({"profile_name": wanted["profile_name"]} if wanted["profile_name"] else {}),
        )
    return _in_role(session, wanted, config) if wanted["role_arn"] else session


def _in_role(session: boto3.Session, wanted: Mapping[str, Any], config: Config) -> boto3.Session:
    """Return a session in a role; its credentials are renewed, because a map may take hours."""
    source = session.get_credentials()
    if source is None:
        raise ConfigurationError(
            f"there are no credentials with which to assume the role {wanted['role_arn']}"
        )
    fetcher = AssumeRoleCredentialFetcher(
        functools.partial(session.client, config=config),
        source,
        wanted["role_arn"],
        extra_args={"RoleSessionName": "salt-cloud"},
    )
    credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    with api_errors(f"assuming the role {wanted['role_arn']}"):
        credentials.get_frozen_credentials()
    return _new_session(credentials, region_name=wanted["region"])


class _Provider(CredentialProvider):
    """Provides the credentials that it is given."""

    METHOD = "assume-role"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials
