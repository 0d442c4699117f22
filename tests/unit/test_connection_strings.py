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
def compiler(tmp_path: Path) -> Compiler:
    (tmp_path / "pillar").mkdir()
    return Compiler("web-1", tmp_path / "minion", PlainPillar(tmp_path / "pillar"))


def rendered(compiler: Compiler, state: str, *passwords: str) -> dict[str, str]:
    """Return an environment file when the passwords are made of special characters."""
    chunks = compiler.states("airflow.migrate").chunks
    (chunk,) = (chunk for chunk in chunks if chunk["__id__"] == state)
    for place in passwords:
        (chunk["context"][place] if place else chunk["context"])["password"] = SPECIAL
    words = shlex.split(compiler.render(chunk)["data"], comments=True)
    return dict(word.split("=", 1) for word in words)


@pytest.fixture
def environment(compiler: Compiler) -> dict[str, str]:
    """The service's secret environment."""
    return rendered(compiler, "airflow-secrets", "database", "redis")


def test_owner_replaces_every_connection_of_the_schema(compiler: Compiler) -> None:
    owner = rendered(compiler, "airflow-owner", "")
    app = rendered(compiler, "airflow-secrets", "database")
    assert set(owner) == {name for name in app if "DATABASE__SQL_ALCHEMY_CONN" in name}
    for name, value in owner.items():
        assert value.replace("//airflow_owner:", "//airflow:") == app[name]


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
