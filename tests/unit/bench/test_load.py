"""h2load's log and output are read rightly, and its command line is what a browser does."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import Address, Load, parse, percentile

LOG = "1000000\t200\t10000\n1500000\t503\t2000\n2000000\t200\t30000\n2900000\t-1\t100000\n"
OUTPUT = "finished\ntraffic: 4.00KB (4096) total, 1B (1) headers (space savings 0%), 9B (9) data\n"


def test_answers_of_a_log() -> None:
    found = parse(LOG, OUTPUT, 0)
    assert (found.good, found.size) == (2, 4096)
    assert found.seconds == pytest.approx(2.0), "from the first request to the last answer"
    assert found.rate == pytest.approx(1.0)
    assert found.statuses() == {"none": 1, "503": 1}
    assert found.figures() == {
        "answers": 2,
        "rate": 1.0,
        "p50_ms": 10.0,
        "p99_ms": 30.0,
        "bytes": 1024,
        "errors": {"none": 1, "503": 1},
    }


def test_time_of_a_timed_load_is_the_time_that_was_asked_for() -> None:
    assert parse(LOG, OUTPUT, 4).rate == pytest.approx(0.5)


def test_answers_after_some_time() -> None:
    late = parse(LOG, OUTPUT, 4).after(1.0)
    assert [answer.status for answer in late.answers] == [200, -1]
    assert late.seconds == pytest.approx(3)
    assert late.size == 2048
    assert parse("", "", 4).after(1.0).rate == 0


def test_frozen_site_has_no_answers() -> None:
    found = parse("", "", 5)
    assert found.figures() == {
        "answers": 0, "rate": 0.0, "p50_ms": 0.0, "p99_ms": 0.0, "bytes": 0, "errors": {},
    }  # fmt: skip


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (99, 10), (10, 1), (1, 1)])
def test_percentile(percent: int, value: int) -> None:
    assert percentile([10, 1, 2, 3, 4, 5, 6, 7, 8, 9], percent) == value


def test_command_over_tls_names_the_site_and_streams(tmp_path: Path) -> None:
    address = Address("https://10.0.0.1", {"host": "site:8443"})
    command = Load(["/a", "/b"], 3, streams=5).command(address, tmp_path)
    assert command[:3] == ["taskset", "-c", "1"]
    assert "--header=:authority: site:8443" in command
    assert command[command.index("-m") + 1] == "5"
    assert command[command.index("-n") + 1] == "6", "each client asks for every path"
    assert (tmp_path / "paths").read_text() == "https://10.0.0.1/a\nhttps://10.0.0.1/b\n"


def test_plain_command_does_not_pipeline(tmp_path: Path) -> None:
    address = Address("http://10.0.0.1:8080", {"host": "site"}, namespace=42)
    command = Load(["/a"], 3, seconds=2.5, streams=5).command(address, tmp_path)
    assert command[3:7] == ["nsenter", "-t", "42", "-n"]
    assert "--header=:authority: site" in command
    assert not any(word.startswith("--header=host:") for word in command), "a second Host"
    assert "--h1" in command
    assert "-m" not in command
    assert command[command.index("-D") + 1] == "2.5"
