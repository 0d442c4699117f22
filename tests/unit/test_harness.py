"""The harness of the state tests: a failure keeps its cause."""

from __future__ import annotations

from typing import Any, cast

import docker.errors
import pytest

from harness import Fleet, Machine, States


class Container:
    """A machine that boots and has a journal."""

    def __init__(self, journal: str = "", error: str = "") -> None:
        self.journal, self.error = journal, error
        self.terminated = False

    def exec_run(self, command: list[str]) -> tuple[int, bytes]:
        assert command[0] == "journalctl"
        return 0, self.journal.encode()

    def terminate(self) -> None:
        self.terminated = True
        if self.error:
            raise RuntimeError(self.error)


class Broken(Fleet):
    """A fleet whose machines do not boot."""

    def __init__(self, container: Container | None) -> None:
        self._machines, self._failures = {}, {}
        self._client: Any = self
        self.containers = self
        self.container = container
        self.boots = 0

    def get(self, name: str) -> Container:
        """Stand in for the engine."""
        if self.container is None:
            raise docker.errors.NotFound(f"no such container: {name}")
        return self.container

    def _boot(self, minion_id: str) -> Any:
        self.boots += 1
        raise RuntimeError(f"the minion of {minion_id} has not connected")


def test_machine_that_did_not_boot_says_so_to_every_test() -> None:
    fleet = Broken(Container("salt-minion: key refused"))
    for _ in range(2):
        with pytest.raises(AssertionError) as caught:
            fleet.machine("redis-1")
        assert "the minion of redis-1 has not connected" in str(caught.value)
        assert "salt-minion: key refused" in str(caught.value)
    assert fleet.boots == 1


class Changing:
    """A machine whose state `x` is applied again and again, or is predicted to be."""

    id = "redis-1"

    def __init__(self, again: dict[str, Any], predicted: dict[str, Any]) -> None:
        self.again, self.predicted = again, predicted

    def apply(self, *, test: bool = False) -> States:
        return {"x": {"result": True, "changes": {}, "comment": ""} | (
            self.predicted if test else self.again
        )}  # fmt: skip


@pytest.mark.parametrize(
    ("again", "predicted", "is_idempotent"),
    [
        ({}, {}, True),
        ({"changes": {"ran": "again"}}, {}, False),
        ({}, {"result": None}, False),
        ({}, {"result": False}, False),
        ({"result": False}, {}, False),
    ],
)
def test_state_that_changes_something_again_is_noticed(
    again: dict[str, Any], predicted: dict[str, Any], is_idempotent: bool
) -> None:
    machine = cast(Machine, Changing(again, predicted))
    if is_idempotent:
        Broken(None).assert_idempotent(machine)
    else:
        with pytest.raises(AssertionError, match="x"):
            Broken(None).assert_idempotent(machine)


def test_lost_journal_does_not_hide_the_cause() -> None:
    with pytest.raises(AssertionError) as caught:
        Broken(None).machine("redis-1")
    assert "the minion of redis-1 has not connected" in str(caught.value)
    assert "its journal is lost" in str(caught.value)


def test_every_machine_is_removed_and_the_failure_told() -> None:
    fleet = Broken(None)
    containers = [Container(), Container(error="the engine is gone"), Container()]
    fleet._containers = list(containers)
    with pytest.raises(RuntimeError, match="the engine is gone"):
        fleet.terminate()
    assert all(container.terminated for container in containers)
