"""Preflight compares the operator's own address with the networks that may log in."""

from __future__ import annotations

import urllib.error
import urllib.request
from io import BytesIO
from ipaddress import IPv4Address
from typing import Any

import pytest

from stackctl import operators
from stackctl.account import AwsAccount, open_local
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError

HERE = "198.51.100.7"  # RFC 5737: an address for documentation


@pytest.fixture
def prod(deployment: Deployment) -> Deployment:
    made = Deployment("prod", deployment.root)
    made.pillar_dir.mkdir()
    return made


def allow(deployment: Deployment, cidrs: str) -> None:
    deployment.settings_path.write_text(f"settings: {{operator_cidrs: {cidrs}}}\n")


def come_from(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(operators.VARIABLE, address)


@pytest.mark.parametrize("settings", ["{}", "{operator_cidrs: []}"])
def test_settings_have_to_name_a_network(prod: Deployment, settings: str) -> None:
    prod.settings_path.write_text(f"settings: {settings}\n")
    with pytest.raises(
        PreflightError,
        match=r"^pillar/prod/settings\.sls names no operator_cidrs: nobody .* reach salt-1",
    ):
        operators.check(prod)


@pytest.mark.parametrize("cidrs", [f"[{HERE}/32]", "[203.0.113.0/24, 198.51.100.99/24]"])
def test_operator_of_a_named_network_may_go_on(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch, cidrs: str
) -> None:
    allow(prod, cidrs)
    come_from(monkeypatch, HERE)
    operators.check(prod)


def test_operator_from_elsewhere_is_told_what_to_change(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(prod, "[203.0.113.0/24]")
    come_from(monkeypatch, HERE)
    with pytest.raises(PreflightError) as caught:
        operators.check(prod)
    assert caught.value.what == (
        f"You come from {HERE}, which is in none of the operator_cidrs of pillar/prod/settings.sls"
        " (203.0.113.0/24): salt-1 would not let you in."
    )
    assert caught.value.hint.startswith(f"Add {HERE}/32 there, and run the same command again")
    assert f"set {operators.VARIABLE} to that" in caught.value.hint


@pytest.mark.parametrize("answer", ["", "2001:db8::1", "<html>", "198.51.100"])
def test_address_that_nobody_tells_is_no_failure(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    allow(prod, "[203.0.113.0/24]")
    come_from(monkeypatch, answer)
    operators.check(prod)


@pytest.mark.parametrize(
    ("cidrs", "reason"),
    [("['::/0']", "IPv4 addresses only"), ("[0.0.0.0/0]", "opens 0.0.0.0/0"), ("office", "list")],
)
def test_networks_that_the_states_would_refuse_are_refused_first(
    prod: Deployment, cidrs: str, reason: str
) -> None:
    allow(prod, cidrs)
    with pytest.raises(PreflightError, match=rf"^pillar/prod/settings\.sls: .*{reason}"):
        operators.check(prod)


def test_check_of_an_account_includes_it(prod: Deployment) -> None:
    allow(prod, "[]")
    with pytest.raises(PreflightError, match="names no operator_cidrs"):
        AwsAccount(prod).check()


def test_local_deployment_asks_nobody(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(operators, "check", asked)
    monkeypatch.setattr("stackctl.preflight.check_docker", lambda *_: None)
    monkeypatch.setattr("stackctl.local_cloud.LocalCloud.runs", lambda _: True)
    open_local(deployment).check()


# -- asking Amazon ---------------------------------------------------------------------------------


class Opener:
    """What asks over HTTPS; keeps how it is made and used."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.proxies: list[dict[str, str]] = []
        self.asked: list[tuple[str, float]] = []

    def build(self, handler: Any) -> Opener:
        self.proxies.append(handler.proxies)
        return self

    def open(self, url: str, timeout: float) -> BytesIO:
        self.asked.append((url, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer
        return BytesIO(self.answer)


@pytest.mark.parametrize(
    ("answer", "address"),
    [
        (b"198.51.100.7\n", IPv4Address(HERE)),
        (b"2001:db8::7\n", None),
        (b"<html>" * 99, None),
        (urllib.error.URLError("no route"), None),
        (TimeoutError(), None),
    ],
)
def test_address_is_asked_of_amazon_past_the_proxy(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, address: IPv4Address | None
) -> None:
    monkeypatch.delenv(operators.VARIABLE)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    opener = Opener(answer)
    monkeypatch.setattr(urllib.request, "build_opener", opener.build)
    assert operators.own_address() == address
    assert opener.proxies == [{}]
    assert opener.asked == [("https://checkip.amazonaws.com", 3)]
