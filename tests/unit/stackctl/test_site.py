"""The site is healthy only if it answers 200 under a valid certificate of its name."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import BadStatusLine
from pathlib import Path

import pytest
import yaml

from stackctl import site
from stackctl.certificates import Authority
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError
from tlsserver import Page, serving

AUTHORITY = Authority.new("test")
HEALTHY = '{"metadatabase":{"status":"healthy"},"scheduler":{"status":null}}'
Serve = Callable[..., None]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the proxy of whoever runs the tests."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def settle(deployment: Deployment, port: int, *authorities: Authority) -> None:
    """Write the site's address and the trusted authorities into the settings."""
    deployment.pillar_dir.mkdir(exist_ok=True)
    settings = {
        "base_url": f"https://127.0.0.1:{port}",
        "ca_certificate": "".join(each.certificate_pem for each in authorities or [AUTHORITY]),
    }
    deployment.settings_path.write_text(yaml.safe_dump({"settings": settings}))


@pytest.fixture
def serve(deployment: Deployment, tmp_path: Path) -> Iterator[Serve]:
    """Let the deployment's site answer with these codes, one after another, the last for good."""
    with ExitStack() as servers:

        def start(*codes: int, name: str = "127.0.0.1", text: str = HEALTHY) -> None:
            left = list(codes)

            class Health(Page):
                def answer(self) -> None:
                    code = left.pop(0) if len(left) > 1 else left[0]
                    self.send_response(code if self.path == "/api/v2/monitor/health" else 404)
                    self.end_headers()
                    self.wfile.write(text.encode())

            settle(
                deployment,
                servers.enter_context(serving(Health, AUTHORITY.server(name, [name]), tmp_path)),
            )

        yield start


def test_healthy_site_has_no_problem(deployment: Deployment, serve: Serve) -> None:
    serve(200)
    assert site.problem(deployment) == ""
    site.require_healthy(deployment, seconds=0)


def test_page_that_says_otherwise_is_a_problem(deployment: Deployment, serve: Serve) -> None:
    serve(200, text='{"metadatabase":{"status":"unhealthy"},"scheduler":{"status":"healthy"}}')
    assert site.problem(deployment) == (
        '/api/v2/monitor/health answers without "metadatabase":{"status":"healthy"}'
    )


@pytest.mark.parametrize("code", [204, 503, 404])
def test_other_status_is_a_problem(deployment: Deployment, serve: Serve, code: int) -> None:
    serve(code)
    assert site.problem(deployment) == f"status {code}"


def test_certificate_of_another_name_is_a_problem(deployment: Deployment, serve: Serve) -> None:
    serve(200, name="10.0.0.1")
    assert "certificate verify failed" in site.problem(deployment)


def test_certificate_of_another_authority_is_a_problem(
    deployment: Deployment, serve: Serve
) -> None:
    serve(200)
    settle(deployment, int(site.address(deployment).rpartition(":")[2]), Authority.new("other"))
    assert "certificate verify failed" in site.problem(deployment)


@pytest.mark.parametrize("first", [True, False])
def test_each_of_two_authorities_is_trusted(
    deployment: Deployment, serve: Serve, *, first: bool
) -> None:
    """They have the same name, as the old and the new CA of one deployment."""
    serve(200)
    both = [AUTHORITY, Authority.new("test")]
    port = int(site.address(deployment).rpartition(":")[2])
    settle(deployment, port, *(both if first else both[::-1]))
    assert site.problem(deployment) == ""
    settle(deployment, port, both[1])
    assert "certificate verify failed" in site.problem(deployment)


def test_closed_port_is_a_problem(deployment: Deployment) -> None:
    with socket.socket() as bound:  # on a port on which nobody else will listen
        bound.bind(("127.0.0.1", 0))
        settle(deployment, bound.getsockname()[1])
        assert "Connection refused" in site.problem(deployment)


def test_server_without_http_is_a_problem(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(deployment, 443)

    def answer(*_: object, **__: object) -> None:
        raise BadStatusLine("220 mail.example.org ESMTP")

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert site.problem(deployment) == "220 mail.example.org ESMTP"


def test_require_healthy_waits_for_site(
    deployment: Deployment, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackctl.site.time.sleep", lambda _: None)
    serve(503, 503, 200)
    site.require_healthy(deployment)


def test_require_healthy_fails_after_deadline(deployment: Deployment, serve: Serve) -> None:
    serve(503)
    with pytest.raises(
        ConvergeError, match=r"^https://127\.0\.0\.1:\d+ is not healthy: status 503\. See: stackctl"
    ):
        site.require_healthy(deployment, seconds=-1)


@pytest.mark.parametrize(
    ("name", "url", "hint"),
    [
        ("prod", "https://airflow.invalid", "airflow.invalid must lead to the Elastic IP airflow-"),
        ("prod", "https://192.0.2.1", ""),
        ("local", "https://localhost", ""),
    ],
)
def test_name_of_a_real_site_must_lead_to_the_edge(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str, url: str, hint: str
) -> None:
    made = Deployment(name, checkout)
    made.pillar_dir.mkdir()
    made.settings_path.write_text(yaml.safe_dump({"settings": {"base_url": url}}))
    monkeypatch.setattr("stackctl.site.problem", lambda _: "Name or service not known")
    with pytest.raises(ConvergeError, match="is not healthy: Name or service") as caught:
        site.require_healthy(made, seconds=-1)
    assert caught.value.hint.startswith("See: stackctl status")
    assert ("Elastic IP" in caught.value.hint) == bool(hint)
    assert hint in caught.value.hint
