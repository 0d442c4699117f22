"""`stackctl backup` and `stackctl restore`: what they ask of whom, and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stackctl import cli, restore, salt
from stackctl.errors import ConvergeError

SPAN = {"oldest": "2026-11-26T02:00:00Z", "newest": "2026-11-27T02:00:00Z"}


class Master:
    """A Salt master: function -> what it answers on each server; a text is a failure.

    Attributes:
        asked: server, function and words of each question.
        silent: the servers that do not answer.
    """

    def __init__(self) -> None:
        self.keys = ["salt-1", "postgres-2", "postgres-10", "postgres-1", "web-1"]
        self.answers: dict[str, Any] = {"pgbackrest.maker": "postgres-2"}
        self.asked: list[tuple[str, ...]] = []
        self.silent: set[str] = set()
        self.deployment = SimpleNamespace(command=lambda verb: f"stackctl {verb}")

    def accepted(self) -> list[str]:
        return self.keys

    def ask(self, args: Sequence[str], *, what: str, timeout: float) -> Mapping[str, object]:
        assert what
        seconds, listed, name, function, *words = args
        assert listed == "-L"
        assert timeout > int(seconds.partition("=")[2])
        self.asked.append((name, function, *words))
        answer = self.answers.get(function)
        found = answer[name] if isinstance(answer, dict) and name in answer else answer
        return {} if name in self.silent else {name: found}


@pytest.fixture
def master() -> Master:
    return Master()


@pytest.fixture
def database(master: Master) -> restore.Database:
    return restore.Database(cast("salt.Master", master))


def test_servers_are_in_the_order_of_their_numbers(database: restore.Database) -> None:
    assert database.servers == ["postgres-1", "postgres-2", "postgres-10"]


def test_master_without_a_database_server(master: Master) -> None:
    master.keys = ["salt-1", "web-1"]
    with pytest.raises(ConvergeError, match=r"knows no database server.*stackctl up"):
        restore.Database(cast("salt.Master", master))


@pytest.mark.parametrize(
    "answer",
    [
        "ERROR: 2020 is before the oldest backup",
        "The minion function caused an exception: Traceback\n  …\nERROR: 2020 is before the oldest",
    ],
)
def test_refusal_of_a_server_is_told(
    master: Master, database: restore.Database, answer: str
) -> None:
    master.answers["pgbackrest.require_target"] = answer
    with pytest.raises(ConvergeError, match=r"^postgres-1: 2020 is before the oldest"):
        restore.plan(database, "2020", "")


def test_silent_server_is_named(master: Master, database: restore.Database) -> None:
    master.silent.add("postgres-1")
    with pytest.raises(ConvergeError, match="postgres-1 does not answer"):
        restore.backups(database)


def test_plan_says_what_there_is(master: Master, database: restore.Database) -> None:
    master.answers["pgbackrest.require_target"] = SPAN
    first, *steps = restore.plan(database, "latest", "3")
    assert (
        first
        == f"backups are there from {SPAN['oldest']} to {SPAN['newest']}, and the log since then"
    )
    assert "postgres-1, postgres-2, postgres-10 by the state of latest" in " ".join(steps)
    assert master.asked == [
        ("postgres-1", "pgbackrest.require_target", 'to="latest"', 'timeline="3"')
    ]


def test_server_that_makes_backups_makes_one(master: Master, database: restore.Database) -> None:
    master.answers["pgbackrest.backup"] = "made x"
    assert restore.backup(database, full=True) == "made x"
    assert master.asked[-1] == ("postgres-2", "pgbackrest.backup", "full=true")


def test_newest_history_is_the_one_that_was_replaced(
    master: Master, database: restore.Database
) -> None:
    none = {"time": "", "timeline": ""}
    last = {"time": "2026-11-27T10:00:00Z", "timeline": "4"}
    earlier = {"time": "2026-11-20T10:00:00Z", "timeline": "2"}
    master.answers["pgbackrest.replaced"] = {
        "postgres-1": none, "postgres-2": last, "postgres-10": earlier
    }  # fmt: skip
    assert database.replaced() == last


def test_what_is_aside_is_removed_everywhere(master: Master, database: restore.Database) -> None:
    master.answers["pgbackrest.end_aside"] = {
        "postgres-1": False, "postgres-2": True, "postgres-10": False
    }  # fmt: skip
    assert restore.end_aside(database) == ["postgres-2"]


# -- the command line


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(
    database: restore.Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Say:
    """`say('restore', 'latest')`: exit code, output and errors."""

    @contextmanager
    def asking(*_: object) -> Iterator[restore.Database]:
        yield database

    monkeypatch.setattr(restore, "asking", asking)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main([*arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_backups_are_listed(master: Master, say: Say) -> None:
    master.answers["pgbackrest.backups"] = []
    assert say("backup", "--list")[1] == "There is no backup yet.\n"
    made = {"label": "x", "kind": "full", "ended": "2026-11-27T02:00:00Z", "mib": 31}
    master.answers["pgbackrest.backups"] = [made]
    assert say("backup", "--list")[1] == "2026-11-27T02:00:00Z  full         31 MiB\n"


def test_restore_without_a_word_is_refused(say: Say) -> None:
    code, _, errors = say("restore")
    assert (code, "Restore what?" in errors) == (1, True)


def test_restore_asks_before_it_replaces_anything(
    master: Master, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    before = {"time": "2026-11-27T10:00:00Z", "timeline": "4"}

    def replace(_deployment: object, to: str, timeline: str, *_: object, **__: object) -> Any:
        done.append((to, timeline))
        return before

    monkeypatch.setattr(restore, "restore", replace)
    master.answers["pgbackrest.require_target"] = SPAN
    code, out, _ = say("restore", "latest", "--dry-run")
    assert (code, done) == (0, [])
    assert "replace the data of postgres-1" in out
    code, _, errors = say("restore", "latest")
    assert (code, done) == (1, [])
    assert "nobody can be asked whether local shall be" in errors
    code, out, _ = say("restore", "latest", "--yes", "--timeline", "3")
    assert (code, done) == (0, [("latest", "3")])
    assert "comes back by: stackctl restore 2026-11-27T10:00:00Z --timeline 4" in out


def test_drill_says_what_it_has_proved(master: Master, say: Say) -> None:
    rows = {"dag": 114, "ab_user": 1}
    master.answers["pgbackrest.drill"] = {"seconds": 7.5, "behind_seconds": 31.0, "rows": rows}
    code, out, _ = say("restore", "--drill")
    assert code == 0
    assert "Restored in 7.5 s, with everything until 31.0 s ago. Rows: dag 114, ab_user 1" in out
    assert master.asked[-1][:2] == ("postgres-2", "pgbackrest.drill")


def test_aside_says_how_to_open_and_to_remove_it(master: Master, say: Say) -> None:
    master.answers["pgbackrest.aside"] = "sudo -u postgres psql -h /x airflow"
    code, out, _ = say("restore", "2026-11-27T02:00:00Z", "--aside")
    assert code == 0
    assert "exec postgres-2 -- sudo -u postgres psql -h /x airflow" in " ".join(out.split())
    assert "restore --end" in out
    words = dict(word.split("=", 1) for word in master.asked[-1][2:])
    assert json.loads(words["to"]) == "2026-11-27T02:00:00Z"
