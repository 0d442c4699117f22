"""The AWS credentials of a real deployment: where they lead, and when they end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.exceptions import BotoCoreError

from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

MINUTES = 45  # that a first run may take
# The endpoints of Amazon's own services, and those that a VPC has of them.
AMAZON = (".amazonaws.com", ".api.aws")
VARIABLE = "AWS_ENDPOINT_URL"
EXPIRATION = "AWS_CREDENTIAL_EXPIRATION"


def check_endpoints(deployment: Deployment) -> None:
    """Raise PreflightError when something leads the calls to another API than Amazon's.

    A local cloud leaves such settings behind; the run would go to it, or fail where nothing
    listens. https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    session = botocore.session.Session()
    try:
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return
        found = [*_of_environment(), *_of_profile(session)]
    except BotoCoreError as error:
        raise PreflightError(f"The AWS configuration cannot be read: {error}.") from error
    for what, url, cure in found:
        if not (urlsplit(url).hostname or "").endswith(AMAZON):
            raise PreflightError(
                f"{what} leads calls of AWS to {url}, and the deployment {deployment.name} is in a"
                " real account.",
                cure,
            )


def _of_environment() -> Iterator[tuple[str, str, str]]:
    """Yield what sets an endpoint, the endpoint, and what to do; see `check_endpoints`."""
    for name, url in sorted(os.environ.items()):
        if url and (name == VARIABLE or name.startswith(f"{VARIABLE}_")):
            yield name, url, f"Run: unset {name}"


def _of_profile(session: botocore.session.Session) -> Iterator[tuple[str, str, str]]:
    """Yield the same of the profile in AWS's configuration."""
    profile: Mapping[str, Any] = session.get_scoped_config()
    path = session.get_config_variable("config_file")
    cure = f"Remove it from {path}, or set AWS_PROFILE to another profile."
    if url := profile.get("endpoint_url"):
        yield f"endpoint_url of the profile {session.profile or 'default'}", str(url), cure
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    for service, given in services.items():
        if isinstance(given, Mapping) and (url := given.get("endpoint_url")):
            yield f"endpoint_url of the service {service}", str(url), cure


def warning(now: datetime | None = None) -> str:
    """Return a sentence when the credentials end before a run may; empty: nobody knows of an end.

    Credentials that botocore renews by itself, as those of a role, have no end.
    """
    end = expiration()
    if end is None:
        return ""
    left = end - (now or datetime.now(UTC))
    if left >= timedelta(minutes=MINUTES):
        return ""
    minutes = max(0, int(left.total_seconds() // 60))
    time = end.astimezone(UTC)
    return (
        f"the AWS credentials end in {minutes} minutes ({time:%H:%M} UTC), and a first run may take"
        f" {MINUTES}: renew them first, or run the same command again with new ones when they end"
    )


def expiration() -> datetime | None:
    """Return when the credentials in use end, if something says so and they are not renewed.

    Programs that write sessions note their end in the environment, as `aws configure
    export-credentials` does, or beside the keys of a profile, under a name that is not standard.
    """
    session = botocore.session.Session()
    try:
        found = session.get_credentials()
    except BotoCoreError:
        return None  # the call that needs them says why
    method = found.method if found else ""
    if method == "env":
        return _time(os.environ.get(EXPIRATION, ""))
    if method in ("shared-credentials-file", "config-file"):
        profile: Mapping[str, Any] = session.get_scoped_config()
        times = [_time(value) for name, value in profile.items() if "expir" in name.lower()]
        return min((time for time in times if time), default=None)
    return None


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
