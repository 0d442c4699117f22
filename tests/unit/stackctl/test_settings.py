"""What a deployment decides is checked first; an error names key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plainpillar import BASE_URL
from stackctl import cli, settings
from stackctl.deployment import Deployment
from stackctl.errors import StackError

VALID = {
    "deployment": "prod",
    "base_url": BASE_URL,
    "load_examples": True,
    "operator_cidrs": ["198.51.100.7/32"],
    "aws_account": "123456789012",
    "ca_certificate": "-----BEGIN CERTIFICATE-----\n",
    "ssh_public_key": "ssh-ed25519 AAAA",
    "machines": {"web": 3},
}


def write(deployment: Deployment, /, **changed: Any) -> None:
    """Write the settings; a value of None leaves a key out."""
    decided = {key: value for key, value in (VALID | changed).items() if value is not None}
    deployment.settings_path.write_text(yaml.safe_dump({"settings": decided}))


def refusal(deployment: Deployment, *, complete: bool = True) -> str:
    """Return why the settings are refused."""
    with pytest.raises(StackError) as caught:
        settings.check(deployment, complete=complete)
    return str(caught.value)


def test_valid_settings_are_no_word(prod: Deployment) -> None:
    write(prod)
    settings.check(prod, complete=True)


@pytest.mark.parametrize(
    "url",
    ["https://192.0.2.1", "https://airflow.example.org:8443", "https://a-b.example.org"],
)
def test_address_of_a_host_is_accepted(prod: Deployment, url: str) -> None:
    write(prod, base_url=url)
    settings.check(prod, complete=True)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://airflow.example.org/", "without the slash at its end"),
        ("https://airflow.example.org/airflow", "without the path /airflow"),
        ("http://airflow.example.org", "https:// and not http://"),
        ("airflow.example.org", "https://"),
        ("https://airflow.example.org?a=1", "without a query"),
        ("https://airflow.example.org#top", "without a fragment"),
        ("https://me:word@airflow.example.org", "without a user"),
        ("https://airflow.example.org:0", "port from 1 to 65535"),
        ("https://airflow.example.org:66000", "port from 1 to 65535"),
        ("https://Airflow.example.org", "lower-case"),
        ("https://air flow.example.org", "name or an IPv4 address"),
        ("https://", "name or an IPv4 address"),
        (8443, "https://"),
    ],
)
def test_address_that_the_edge_would_get_wrong_is_refused(
    prod: Deployment, url: object, why: str
) -> None:
    """With a path the edge redirects for ever, checks ask for //api, and no token is limited."""
    write(prod, base_url=url)
    error = refusal(prod)
    assert f"settings:base_url is {url!r}" in error
    assert why in error
    assert "pillar/prod/settings.sls" in error


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"load_examples": "yes"}, ["settings:load_examples is 'yes'", "true or false"]),
        ({"operator_cidrs": "198.51.100.7/32"}, ["settings:operator_cidrs is '198.51.100.7/32'"]),
        ({"operator_cidrs": [7]}, ["settings:operator_cidrs:0 is 7", "IPv4 network"]),
        ({"aws_account": 123456789012}, ["settings:aws_account is 123456789012", "in quotes"]),
        ({"aws_account": "12345"}, ["settings:aws_account is '12345'", "12 digits"]),
        ({"deployment": "other"}, ["settings:deployment is 'other'", "prod"]),
        ({"budget": 0}, ["settings:budget is 0", "USD a month, more than 0"]),
        ({"budget": "much"}, ["settings:budget is 'much'", "USD a month"]),
        ({"machines": [3]}, ["settings:machines is [3]", "role"]),
        ({"ca_certificate": None}, ["lacks settings:ca_certificate (a certificate"]),
        ({"base_url": None}, ["lacks settings:base_url"]),
        ({"alerts": {"webhook": "http://a.example.org/"}}, ["alerts:webhook is", "at port 443"]),
        ({"alerts": {"watchdog": "https://a.example.org:8443"}}, ["alerts:watchdog", "port 443"]),
        ({"alerts": {"mail": "me@example.org"}}, ["alerts", "mail"]),
        ({"upgrade_window": "03:00"}, ["upgrade_window is '03:00'", "such as Sun 03:00"]),
        ({"upgrade_window": "Sun 24:00"}, ["upgrade_window is 'Sun 24:00'"]),
        ({"correct_drift": "yes"}, ["correct_drift is 'yes'"]),
    ],
    ids=str,
)
def test_wrong_value_is_named_with_what_is_allowed(
    prod: Deployment, changed: dict[str, Any], words: list[str]
) -> None:
    write(prod, **changed)
    error = refusal(prod)
    assert all(word in error for word in words), error


def test_alerts_may_go_to_a_webhook_and_a_watchdog(prod: Deployment) -> None:
    write(prod, alerts={"webhook": "https://a.example.org/x?y=z", "watchdog": "https://b.example"})
    settings.check(prod, complete=True)


ACME = {"directory": "https://acme.example.org/directory", "email": "me@example.org"}


@pytest.mark.parametrize("url", [BASE_URL, "https://airflow.example.org:8443"])
def test_public_name_may_have_a_certificate_by_acme(prod: Deployment, url: str) -> None:
    write(prod, base_url=url, acme=ACME)
    settings.check(prod, complete=True)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://192.0.2.1", "not an address"),
        ("https://airflow", "leads nowhere outside"),
        ("https://airflow.stack.internal", "leads nowhere outside"),
        ("https://airflow.local", "leads nowhere outside"),
    ],
)
def test_name_that_no_public_ca_signs_is_refused(prod: Deployment, url: str, why: str) -> None:
    write(prod, base_url=url, acme=ACME)
    error = refusal(prod)
    assert f"settings:base_url is {url!r}: allowed is, with settings:acme, a public name" in error
    assert why in error


def test_private_ca_signs_private_names_and_no_addresses(prod: Deployment) -> None:
    private = ACME | {"ca_certificate": "-----BEGIN CERTIFICATE-----\n"}
    write(prod, base_url="https://airflow.corp.internal", acme=private)
    settings.check(prod, complete=True)
    for url in ("https://192.0.2.1", "https://airflow"):
        write(prod, base_url=url, acme=private)
        assert f"settings:base_url is '{url}'" in refusal(prod)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"directory": "http://acme.example.org"}, ["acme:directory is", "at port 443"]),
        # Load balancers reach port 443 outside, and no other.
        ({"directory": "https://acme.example.org:14000/dir"}, ["acme:directory", "at port 443"]),
        ({"email": "me"}, ["settings:acme:email is 'me'", "an address"]),
        # It is a part of a path.
        ({"email": "../../me@example.org"}, ["settings:acme:email"]),
        ({"ca_certificate": "/etc/ca.pem"}, ["settings:acme:ca_certificate", "PEM"]),
        ({"mail": "me@example.org"}, ["settings:acme is", "a directory and an email"]),
        ({"email": None}, ["settings:acme is", "a directory and an email"]),
    ],
    ids=str,
)
def test_wrong_value_of_acme_is_named(
    prod: Deployment, changed: dict[str, Any], words: list[str]
) -> None:
    decided = {key: value for key, value in (ACME | changed).items() if value is not None}
    write(prod, acme=decided)
    error = refusal(prod)
    assert all(word in error for word in words), error


def test_unknown_key_is_refused_with_the_nearest(prod: Deployment) -> None:
    write(prod, load_example=True)
    assert "settings:load_example is unknown; did you mean load_examples?" in refusal(prod)
    write(prod, colour="blue")
    error = refusal(prod)
    assert "settings:colour is unknown" in error
    assert "did you mean" not in error
    assert "base_url" in error, "what there is must be named"


def test_all_faults_are_named_at_once(prod: Deployment) -> None:
    write(prod, base_url="http://a.example.org", load_examples=1)
    error = refusal(prod)
    assert "settings:base_url" in error
    assert "settings:load_examples" in error


def test_unfinished_settings_may_lack_keys_unless_they_have_to_be_complete(
    prod: Deployment,
) -> None:
    prod.settings_path.write_text("settings: {base_url: 'https://airflow.example.org'}\n")
    settings.check(prod, complete=False)
    error = refusal(prod)
    assert "the file lacks settings:deployment (" in error
    assert "settings:ca_certificate (a certificate" in error


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("settings: {a: [}\n", "is no YAML, line 1"),
        ("other: 1\n", "has to hold one key, settings"),
        ("settings: 3\n", "has to hold one key, settings"),
        ("", "is empty"),
        ("settings: {base_url: 'https://a.org', base_url: 'https://b.org'}\n", "twice"),
    ],
)
def test_file_that_is_no_settings(prod: Deployment, text: str, why: str) -> None:
    prod.settings_path.write_text(text)
    assert why in refusal(prod, complete=False)


# -- networks and regions --------------------------------------------------------------------------


def change_base(deployment: Deployment, old: str, new: str, name: str = "aws") -> None:
    """Change a text in a file of pillar/base."""
    path = deployment.root / "pillar" / "base" / f"{name}.sls"
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))


def test_subnet_outside_the_vpc(prod: Deployment) -> None:
    write(prod)
    change_base(prod, "cidr: 10.20.1.0/24", "cidr: 10.21.1.0/24")
    error = refusal(prod)
    assert "aws:subnet:cidr is '10.21.1.0/24'" in error
    assert "within 10.20.0.0/16 (aws:vpc:cidr)" in error


@pytest.mark.parametrize(("length", "fits"), [(26, True), (27, False)])
def test_name_that_makes_the_buckets_too_long(prod: Deployment, length: int, fits: bool) -> None:
    long = Deployment("a" * length, prod.root)
    long.settings_path.parent.mkdir(parents=True)
    write(long, deployment=long.name)
    if fits:
        settings.check(long, complete=True)
        settings.check_name(long)
        return
    with pytest.raises(StackError, match="has 64 characters"):  # before `init` makes anything
        settings.check_name(long)
    error = refusal(long)
    assert "pillar/base/aws.sls: aws:bucket:name has 64 characters" in error
    assert "allowed is a deployment's name of 26 characters" in error


def test_networks_that_overlap(prod: Deployment) -> None:
    write(prod)
    change_base(
        prod,
        "  # Every machine lets in SSH",
        "  other: {cidr: 10.20.1.128/25}\n  # Every machine lets in SSH",
    )
    error = refusal(prod)
    assert "aws:other:cidr is '10.20.1.128/25'" in error
    assert "overlaps 10.20.1.0/24 (aws:subnet:cidr)" in error


def test_network_with_host_bits_or_none(prod: Deployment) -> None:
    write(prod)
    change_base(prod, "cidr: 10.20.1.0/24", "cidr: 10.20.1.7/24")
    assert "aws:subnet:cidr is '10.20.1.7/24': allowed is an IPv4 network without host bits" in (
        refusal(prod)
    )


def test_operators_network_that_is_the_deployments_own(prod: Deployment) -> None:
    write(prod, operator_cidrs=["10.20.1.0/24"])
    error = refusal(prod)
    assert "settings:operator_cidrs:0 is '10.20.1.0/24'" in error
    assert "outside 10.20.0.0/16 (aws:vpc:cidr)" in error


def test_master_outside_every_subnet(prod: Deployment) -> None:
    write(prod)
    change_base(prod, "salt_address: 10.20.1.250", "salt_address: 10.20.9.250")
    assert "aws:salt_address is '10.20.9.250'" in refusal(prod)


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("pillar/base/aws.sls", "zone: eu-west-1a", "zone: eu-central-1a", "aws:subnet:zone"),
        ("pillar/base/aws.sls", "region: eu-west-1", "region: us-east-1", "aws:region"),
        ("cloud.profiles.d/machines.conf", "HttpTokens: required", "HttpTokens: ap-south-1", ""),
    ],
)
def test_another_region_anywhere(
    prod: Deployment, name: str, old: str, new: str, where: str
) -> None:
    write(prod)
    path = prod.root / name
    path.write_text(path.read_text().replace(old, new))
    error = refusal(prod)
    assert name in error
    assert where in error
    assert new.split(": ")[1] in error
    assert "eu-west-1" in error


def test_another_region_in_the_settings(prod: Deployment) -> None:
    write(prod, machines={"web": "us-east-1"})
    assert "settings:machines:web is 'us-east-1'" in refusal(prod)


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [["status"], ["up", "--dry-run"], ["secrets", "list"]], ids=" ".join
)
def test_every_verb_refuses_wrong_settings_first(
    prod: Deployment,
    verb: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(prod, base_url="https://airflow.example.org/airflow/")
    monkeypatch.setattr(cli, "repository_root", lambda: prod.root)
    assert cli.main([*verb, "-d", "prod"]) == 1
    assert "settings:base_url is 'https://airflow.example.org/airflow/'" in capsys.readouterr().err


def test_address_given_to_a_new_deployment_is_checked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "repository_root", lambda: checkout)
    given = ["--account", "123456789012", "--base-url", "https://airflow.example.org/"]
    assert cli.main(["secrets", "init", "-d", "new", *given]) == 1
    assert "without the slash at its end" in capsys.readouterr().err
    assert not (checkout / "pillar" / "new").exists()
