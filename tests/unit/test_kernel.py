"""The state `kernel.setting`: a value of the running kernel, where the machine has its own."""

from __future__ import annotations

from typing import Any

import pytest

from saltmodules import load


@pytest.mark.parametrize("virtual", ["xen", "kvm", "physical", None])
def test_machine_with_a_kernel_of_its_own_is_set(virtual: str | None) -> None:
    asked: list[Any] = []

    def present(name: str, value: object, *, config: str) -> dict[str, Any]:
        asked.append((name, value, config))
        return {"name": name, "result": None, "changes": {"x": 1}, "comment": "as Salt says"}

    grains = {} if virtual is None else {"virtual": virtual}
    state = load("_states", "kernel", __grains__=grains, __states__={"sysctl.present": present})
    found = state.setting("vm.overcommit_memory", 1)
    assert asked == [("vm.overcommit_memory", 1, "/etc/sysctl.d/60-stack.conf")]
    assert (found["result"], found["changes"]) == (None, {"x": 1})


def test_container_is_left_alone_and_says_why() -> None:
    state = load("_states", "kernel", __grains__={"virtual": "container"}, __states__={})
    found = state.setting("vm.overcommit_memory", 1)
    assert (found["result"], found["changes"]) == (True, {})
    assert "vm.overcommit_memory is not set: a container has its host's kernel" in found["comment"]
