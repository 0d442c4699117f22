"""Every link in pillar/base/endpoints.sls has its row in docs/security.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
COLUMNS = ("endpoint", "port", "from", "to", "protocol", "who verifies whom", "least TLS")
TLS = {"1.3", "1.2", "none"}


def endpoints() -> dict[str, Mapping[str, Any]]:
    text = (ROOT / "pillar/base/endpoints.sls").read_text()
    found: dict[str, Mapping[str, Any]] = yaml.safe_load(text)["endpoints"]
    return found


def table() -> str:
    """Return the lines of the section about links."""
    text = (ROOT / "docs/security.md").read_text()
    return text.partition("## Links between machines\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[dict[str, str]]:
    """Return the rows of a section's table, by column."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    if not cells or tuple(cells[0]) != COLUMNS:
        raise ValueError(f"there is no table with the columns {', '.join(COLUMNS)}")
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells[2:]]


def faults(text: str, declared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return how a section's table differs from the endpoints, and what it leaves open."""
    shown = {row["endpoint"].strip("`"): row for row in rows(text)}
    found = [f"{name} has no row" for name in declared if name not in shown]
    found += [f"{name} is no endpoint" for name in shown if name not in declared]
    for name, endpoint in declared.items():
        row = shown.get(name, {})
        wanted = {
            "port": str(endpoint["port"]),
            "from": ", ".join(endpoint["clients"]),
            "to": ", ".join(endpoint["listeners"]),
        }
        found += [
            f"{name}: {column} is {row[column]}, not {value}"
            for column, value in wanted.items()
            if row and row[column] != value
        ]
        found += [f"{name}: {column} is empty" for column in COLUMNS if row and not row[column]]
        if row and row["least TLS"] not in TLS:
            found.append(f"{name}: least TLS is {row['least TLS']}")
    return found


def test_every_link_has_its_row() -> None:
    assert faults(table(), endpoints()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda it: it | {"new": it["redis"]}, "new has no row"),
        (lambda it: {k: v for k, v in it.items() if k != "redis"}, "redis is no endpoint"),
        (
            lambda it: it | {"redis": it["redis"] | {"clients": ["web", "monitor"]}},
            "redis: from is web, redis, monitor, not web, monitor",
        ),
        (lambda it: it | {"redis": it["redis"] | {"port": 1}}, "redis: port is 6379, not 1"),
    ],
)
def test_changed_endpoint_is_found(change: Any, fault: str) -> None:
    assert faults(table(), change(endpoints())) == [fault]


def test_row_that_says_nothing_is_found() -> None:
    silent = re.sub(r"(\| `redis` .*\|)[^|]*\|[^|]*\|$", r"\1 | |", table(), flags=re.MULTILINE)
    assert faults(silent, endpoints()) == [
        "redis: who verifies whom is empty",
        "redis: least TLS is empty",
        "redis: least TLS is ",
    ]


def test_no_link_inside_is_without_tls_but_those_with_another_encryption() -> None:
    """The proxy carries TLS, and packages that apt verifies."""
    inside = {
        row["endpoint"].strip("`")
        for row in rows(table())
        if row["least TLS"] == "none" and "internet" not in row["from"] + row["to"]
    }
    assert inside == {"ssh", "ssh-operators", "salt-publish", "salt-request", "proxy"}
