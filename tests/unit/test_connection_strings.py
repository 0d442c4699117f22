"""Airflow's connection strings hold any password."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from plainpillar import DOMAIN, PlainPillar
from rendering import Compiler

SPECIAL = "/p:a@s?s#w%o&r=d+ $HOME'\"\\;~é"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The service's secret environment when both passwords are made of special characters."""
    (tmp_path / "pillar").mkdir()
    compiler = Compiler("web-1", tmp_path / "minion", PlainPillar(tmp_path / "pillar"))
    (chunk,) = (
        chunk for chunk in compiler.states("airflow").chunks if chunk["__id__"] == "airflow-secrets"
    )
    for store in ("database", "redis"):
        chunk["context"][store]["password"] = SPECIAL
    words = shlex.split(compiler.render(chunk)["data"], comments=True)
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize(
    ("variable", "host", "path", "query"),
    [
        ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgres", "/airflow", "sslmode=verify-full"),
        ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", "postgres", "/airflow", "ssl=verify-full"),
        ("AIRFLOW__CELERY__RESULT_BACKEND", "postgres", "/airflow", "sslmode=verify-full"),
        ("AIRFLOW__CELERY__BROKER_URL", "redis", "/1", "ssl_cert_reqs=required"),
        ("RATELIMIT_STORAGE_URI", "redis", "/2", "ssl_cert_reqs=required"),
    ],
)
def test_special_characters_survive(
    environment: dict[str, str], variable: str, host: str, path: str, query: str
) -> None:
    url = urlsplit(environment[variable])
    assert (url.username, unquote(url.password or "")) == ("airflow", SPECIAL)
    assert (url.hostname, url.path) == (f"{host}.{DOMAIN}", path)
    assert url.port == {"postgres": 5432, "redis": 6379}[host]
    assert url.query.split("&")[0] == query
    assert url.fragment == ""
