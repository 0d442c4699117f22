"""The execution module `metrics`: who may ask, and whom Prometheus asks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from saltmodules import functions, load


def test_verifier_is_the_same_each_time_and_takes_its_password_alone() -> None:
    verifier = load("_modules", "metrics").verifier
    made = verifier("a" * 48)
    assert made == verifier("a" * 48)
    # The digits between the salt and the rest are 22; crypt(5) has the cost before them.
    assert made.startswith("$2b$04$")
    assert len(made) == 60
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    assert crypt(b"a" * 48, made.encode()).decode() == made
    assert crypt(b"b" * 48, made.encode()).decode() != made
    assert made[7:29] != verifier("b" * 48)[7:29], "two passwords have one salt"


def test_every_machine_is_asked_for_what_its_role_has() -> None:
    pillar = {"roles": {"store": {"metrics": ["counters"]}, "web": {}, "cache": {"metrics": ["x"]}}}
    addresses = {"web-1": "10.0.0.1", "store-1": "10.0.0.2"}
    known = functions("watch-1", pillar, addresses)
    module = load("_modules", "metrics", __pillar__=pillar, __salt__=known)
    web, store = {"id": "web-1", "role": "web"}, {"id": "store-1", "role": "store"}
    # A job of which the map has no machine is there, and asks nobody.
    assert module.targets() == {"node": [store, web], "counters": [store], "x": []}


@dataclass
class Known:
    """What the other modules know of a machine."""

    busy: bool = False
    problems: dict[str, str] = field(default_factory=lambda: {"unit": "", "backups": "too old"})
    differences: dict[str, list[str]] = field(default_factory=lambda: {"units": ["a", "b"]})
    applied: dict[str, float] | None = None
    asked: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> bool:
        """Write the metrics into a folder."""

        def is_running(pattern: str) -> bool:
            assert pattern == "state.*"
            return self.busy

        def told(name: str, answer: Any) -> Any:
            def tell() -> Any:
                self.asked.append(name)
                return answer

            return tell

        answers: Mapping[str, Any] = {
            "role.problems": self.problems,
            "role.certificate_ends": {"/etc/a.pem": 1800000000.0, "/etc/b.pem": 0.0},
            "highstate.applied": self.applied,
            "drift.by_check": self.differences,
            "drift.outdated": ["ssh.service"],
            "drift.withheld": [],
            "drift.reboot_required": True,
        }
        functions = {name: told(name, answer) for name, answer in answers.items()}
        module = load(
            "_modules", "metrics", __salt__={**functions, "saltutil.is_running": is_running}
        )
        done: bool = module.write(str(folder))
        return done


def metrics(folder: Path) -> dict[str, float]:
    """Return metric -> value, of every file that the exporter reads."""
    lines = [line for path in folder.glob("*.prom") for line in path.read_text().splitlines()]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_what_is_known_are_metrics_that_the_exporter_may_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert Known().write(tmp_path)
    finally:
        os.umask(before)
    assert metrics(tmp_path) == {
        'stack_problem{about="unit"}': 0,
        'stack_problem{about="backups"}': 1,
        'stack_certificate_end_seconds{path="/etc/a.pem"}': 1800000000,
        'stack_certificate_end_seconds{path="/etc/b.pem"}': 0,
        'stack_differences{check="units"}': 2,
        'stack_updates_waiting{kind="outdated"}': 1,
        'stack_updates_waiting{kind="withheld"}': 0,
        'stack_updates_waiting{kind="reboot"}': 1,
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_nothing_is_asked_while_states_run(tmp_path: Path) -> None:
    known = Known(busy=True)
    assert not known.write(tmp_path)
    assert (known.asked, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(("age", "asked"), [(590, False), (610, True)])
def test_differences_are_looked_for_less_often(tmp_path: Path, age: int, *, asked: bool) -> None:
    known = Known()
    known.write(tmp_path)
    known.asked.clear()
    past = (tmp_path / "drift.prom").stat().st_mtime - age
    os.utime(tmp_path / "drift.prom", (past, past))
    known.write(tmp_path)
    assert ("drift.by_check" in known.asked, "role.problems" in known.asked) == (asked, True)


def test_end_of_a_run_is_a_metric(tmp_path: Path) -> None:
    Known(applied={"end": 1800000000.5, "failed": 3}).write(tmp_path)
    assert metrics(tmp_path).items() >= {
        ("stack_highstate_end_seconds", 1800000000.5),
        ("stack_highstate_failed_states", 3),
    }
