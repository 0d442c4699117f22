"""Credentials of a real deployment lead to Amazon alone, and their end is told in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import awsenvironment
from stackctl import credentials, preflight
from stackctl.account import AwsAccount
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

LOCAL = "http://172.17.0.1:5566"
NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    awsenvironment.clear(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of AWS's configuration."""
    path = tmp_path / "config"
    path.touch()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    return path


# -- where they lead -------------------------------------------------------------------------------


def test_no_endpoint_is_no_word(prod: Deployment) -> None:
    credentials.check_endpoints(prod)


@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_SERVICE_QUOTAS"]
)
def test_endpoint_in_the_environment_is_refused(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, LOCAL)
    with pytest.raises(PreflightError) as caught:
        credentials.check_endpoints(prod)
    assert str(caught.value) == (
        f"{name} leads calls of AWS to {LOCAL}, and the deployment prod is in a real account."
        f" Run: unset {name}"
    )


@pytest.mark.parametrize(
    ("text", "profile", "said"),
    [
        (f"[default]\nendpoint_url = {LOCAL}\n", "", "endpoint_url of the profile default"),
        (f"[profile one]\nendpoint_url = {LOCAL}\n", "one", "endpoint_url of the profile one"),
        (
            f"[default]\nservices = here\n[services here]\nec2 =\n  endpoint_url = {LOCAL}\n",
            "",
            "endpoint_url of the service ec2",
        ),
    ],
)
def test_endpoint_in_the_profile_is_refused(
    prod: Deployment,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    profile: str,
    said: str,
) -> None:
    config.write_text(text)
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(PreflightError) as caught:
        credentials.check_endpoints(prod)
    assert caught.value.what.startswith(f"{said} leads calls of AWS to {LOCAL}, and the")
    assert caught.value.hint.startswith(f"Remove it from {config}, or set AWS_PROFILE")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    credentials.check_endpoints(prod)


def test_endpoint_of_another_profile_does_not_matter(prod: Deployment, config: Path) -> None:
    config.write_text(f"[default]\nregion = eu-west-1\n[profile two]\nendpoint_url = {LOCAL}\n")
    credentials.check_endpoints(prod)


@pytest.mark.parametrize(
    "url",
    [
        "https://ec2.eu-west-1.amazonaws.com",
        "https://vpce-1-2.ec2.eu-west-1.vpce.amazonaws.com",
        "https://ec2.eu-west-1.api.aws",
    ],
)
def test_endpoint_of_amazon_is_accepted(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", url)
    credentials.check_endpoints(prod)


def test_endpoint_that_only_looks_like_amazon_is_refused(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://amazonaws.com.example.org")
    with pytest.raises(PreflightError):
        credentials.check_endpoints(prod)


def test_unknown_profile_is_named(prod: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "typo")
    with pytest.raises(PreflightError, match=r"cannot be read: The config profile \(typo\)"):
        credentials.check_endpoints(prod)


def test_every_way_into_a_real_account_checks_the_endpoint(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> object:
        raise AssertionError("a call was sent")

    monkeypatch.setenv("AWS_ENDPOINT_URL", LOCAL)
    monkeypatch.setattr("stackctl.preflight.boto3.client", ask)
    account = AwsAccount(prod)
    for enter in (
        account.check,
        account.environment,
        lambda: preflight.check_credentials(prod, "123456789012", "--account"),
    ):
        with pytest.raises(PreflightError, match="leads calls of AWS to"):
            enter()


# -- when they end ---------------------------------------------------------------------------------


def use_session(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "ASIA"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "token"),
        ("AWS_CREDENTIAL_EXPIRATION", end),
    ):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("minutes", "told"), [(46, ""), (45, ""), (44, "in 44 minutes (12:44 UTC)"), (-5, "in 0 min")]
)
def test_end_is_told_when_a_run_may_take_longer(
    monkeypatch: pytest.MonkeyPatch, minutes: int, told: str
) -> None:
    end = datetime.now(UTC) + timedelta(days=1)  # so that botocore does not renew them
    use_session(monkeypatch, end.isoformat())
    warned = credentials.warning(end - timedelta(minutes=minutes))
    assert warned.startswith("the AWS credentials end in" if told else "")
    assert (told.partition(" (")[0] in warned) if told else warned == ""


def test_end_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.now(UTC) + timedelta(hours=3)
    use_session(monkeypatch, end.isoformat())
    assert credentials.warning(end - timedelta(minutes=20)) == (
        f"the AWS credentials end in 20 minutes ({end:%H:%M} UTC), and a first run may take 45:"
        " renew them first, or run the same command again with new ones when they end"
    )


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("x_security_token_expires", "2026-11-26T14:30:00+02:00"),
        ("expiration", "2026-11-26 12:30:00"),
        ("aws_expiration", "2026-11-26T12:30:00Z"),
    ],
)
def test_end_beside_the_keys_of_a_profile_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    path = tmp_path / "credentials"
    path.write_text(
        "[default]\naws_access_key_id = ASIA\naws_secret_access_key = s\naws_session_token = t\n"
        f"{name} = {end}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    assert "end in 30 minutes (12:30 UTC)" in credentials.warning(NOW)


def test_keys_without_end_and_no_keys_are_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert credentials.warning(NOW) == ""
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    assert credentials.warning(NOW) == ""
