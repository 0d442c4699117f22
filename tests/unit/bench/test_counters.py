"""Counters of machines, of HAProxy and of a browser are read rightly."""

from __future__ import annotations

from typing import Any

import pytest

from bench.addresses import COUNT, rules
from bench.edge import servers
from bench.faults import _figures
from bench.machines import usage_of
from bench.throughput import _middle
from bench.visit import Recording, Request, requests

STAT = """# pxname,svname,status,downtime,type
edge,FRONTEND,OPEN,,0
web,web-1,UP,0,2
web,web-2,UP 1/2,31,2
static,web-2,MAINT,7,2
web,BACKEND,UP,0,1
"""


VERSION_1 = {
    "total_rss": 90, "total_cache": 60, "total_active_file": 30, "total_inactive_file": 20,
}  # fmt: skip


@pytest.mark.parametrize(
    "detail", [VERSION_1, {"anon": 90, "shmem": 10, "file": 60}], ids=["cgroup v1", "cgroup v2"]
)
def test_memory_is_that_of_programs(detail: dict[str, int]) -> None:
    stats = {
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "memory_stats": {"usage": 500, "stats": detail},
    }
    found = usage_of(stats)
    assert (found.cpu, found.memory) == (2.5, 100)


def test_servers_of_haproxy() -> None:
    found = servers(STAT)
    assert [(one.backend, one.name, one.up, one.downtime) for one in found] == [
        ("web", "web-1", True, 0),
        ("web", "web-2", True, 31),
        ("static", "web-2", False, 7),
    ]


def test_visitors_have_equal_chances() -> None:
    found = rules("10.20.1.1")
    assert len({rule[-1] for rule in found}) == COUNT
    left, shares = 1.0, []
    for rule in found:
        chance = float(rule[rule.index("--probability") + 1]) if "--probability" in rule else 1.0
        shares.append(left * chance)
        left *= 1 - chance
    assert shares == pytest.approx([1 / COUNT] * COUNT, rel=1e-3)


def test_answers_after_a_loss_count_when_they_end_after_it() -> None:
    records = [
        {"began": 1.0, "seconds": 0.5, "status": 500, "error": ""},
        {"began": 1.9, "seconds": 6.0, "status": 200, "error": ""},
        {"began": 3.0, "seconds": 0.1, "status": 0, "error": "TimeoutError"},
        {"began": 3.0, "seconds": 0.1, "status": 503, "error": ""},
    ]
    found = _figures(records, lost=2.0)
    assert found["requests"] == 3
    assert found["errors"] == {"TimeoutError": 1, "503": 1}
    assert (found["failed"], found["longest_s"], found["longest_before_s"]) == (2, 6.0, 0.5)


def _event(what: str, key: str, **facts: Any) -> dict[str, Any]:
    return {"method": f"Network.{what}", "params": {"requestId": key, **facts}}


def _sent(key: str, url: str, **more: Any) -> dict[str, Any]:
    return _event("requestWillBeSent", key, request={"url": url, "method": "GET"}, **more)


def test_requests_of_a_browser() -> None:
    events = [
        _sent("1", "https://site/"),
        _sent("1", "https://site/login?next=%2F", redirectResponse={"encodedDataLength": 50}),
        _event("loadingFinished", "1", encodedDataLength=300),
        _sent("2", "https://site/static/a.js"),
        _event("requestServedFromCache", "2"),
        _sent("3", "https://site/static/b.js"),
        _event("responseReceived", "3", response={"fromDiskCache": True}),
        _sent("4", "https://elsewhere/x"),
    ]
    found = requests(events, "site", "first", anonymous=True)
    assert [(one.path, one.size) for one in found] == [("/", 50), ("/login?next=%2F", 300)]


def test_phases_of_a_visit_leave_the_login_out() -> None:
    recording = Recording(
        (
            Request("first", "GET", "/", anonymous=True, size=1),
            Request("first", "GET", "/auth/login/?next=%2F", anonymous=True, size=1),
            Request("first", "GET", "/auth/static/x.js", anonymous=True, size=9),
            Request("first", "POST", "/auth/login/", anonymous=False, size=1),
            Request("first", "GET", "/ui/dags", anonymous=False, size=99),
            Request("repeat", "GET", "/dags", anonymous=False, size=1),
        )
    )
    assert recording.phase(anonymous=True) == ["/", "/auth/static/x.js"]
    assert recording.phase(anonymous=False) == ["/ui/dags"]
    assert recording.bundle() == "/auth/static/x.js"
    assert [one.path for one in recording.repeat()] == ["/dags"]


def test_turns_give_their_median_and_all_that_went_wrong() -> None:
    row = {"errors": {}, "restarted": False, "down_seconds": 0, "kills": 0}
    rows = [
        row | {"rate": 9, "errors": {"503": 1}, "down_seconds": 2},
        row | {"rate": 30, "errors": {"503": 2, "none": 1}, "kills": 1},
        row | {"rate": 20, "restarted": True},
    ]
    assert _middle(rows) == {
        "rate": 20,
        "errors": {"503": 3, "none": 1},
        "restarted": True,
        "down_seconds": 2,
        "kills": 1,
    }
