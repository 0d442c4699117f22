"""The execution module `airflow`: the health of a site, and which releases are removed."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from saltmodules import load
from stackctl.certificates import Authority
from tlsserver import Page, serving

NAME = "airflow.example.org"
URL = f"https://{NAME}/api/v2/monitor/health"
AUTHORITY = Authority.new("test")

airflow = load("_modules", "airflow")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`site(status, name)`: serve a health page over TLS; return its address and port."""
    with ExitStack() as servers:

        def serve(status: str = "healthy", name: str = NAME) -> str:
            class Health(Page):
                def answer(self) -> None:
                    self.send_response(
                        200 if self.headers["Host"] == NAME and self.path in URL else 404
                    )
                    self.end_headers()
                    self.wfile.write(json.dumps({"metadatabase": {"status": status}}).encode())

            certificate = AUTHORITY.server(name, [name])
            return f"127.0.0.1:{servers.enter_context(serving(Health, certificate, tmp_path))}"

        yield serve


def test_healthy_site_is_healthy_at_the_given_address(site: Callable[..., str]) -> None:
    assert airflow.healthy(URL, site(), AUTHORITY.certificate_pem)


def test_unhealthy_database_is_not_healthy(site: Callable[..., str]) -> None:
    assert not airflow.healthy(URL, site(status="unhealthy"), AUTHORITY.certificate_pem)


def test_certificate_of_other_name_is_not_healthy(site: Callable[..., str]) -> None:
    assert not airflow.healthy(URL, site(name="other.example.org"), AUTHORITY.certificate_pem)


def test_untrusted_certificate_is_not_healthy(site: Callable[..., str]) -> None:
    assert not airflow.healthy(URL, site())
    assert not airflow.healthy(URL, site(), Authority.new("other").certificate_pem)


def test_unreachable_site_is_not_healthy() -> None:
    assert not airflow.healthy(URL, "127.0.0.1:1", AUTHORITY.certificate_pem)


def test_prune_keeps_release_in_use(tmp_path: Path) -> None:
    for name in ("serving", "failed", "before", "wanted"):
        library = tmp_path / "releases" / name / "library.so"
        library.parent.mkdir(parents=True)
        library.write_bytes(b"x" * mmap.PAGESIZE)
    with (tmp_path / "releases/serving/library.so").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            assert airflow.prune(["wanted", "before"], str(tmp_path)) == ["failed"]
        assert airflow.prune(["wanted", "before"], str(tmp_path)) == ["serving"]
    assert airflow.releases(str(tmp_path)) == ["before", "wanted"]
