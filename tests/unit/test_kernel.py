"""The state `kernel.setting`: a value of the running kernel, where the machine has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saltmodules import TREE, load


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


@pytest.mark.parametrize("path", sorted(TREE.glob("_states/*.py")), ids=lambda path: path.stem)
def test_state_module_leaves_its_states_to_the_loader(path: Path) -> None:
    """Salt refuses the module otherwise: LazyLoader does not have a packed value."""
    assert not hasattr(load("_states", path.stem), "__states__")


@pytest.fixture
def huge_pages(tmp_path: Path) -> Path:
    """A file that lists its choices."""
    path = tmp_path / "hugepage/enabled"
    path.parent.mkdir()
    path.write_text("[always] madvise never\n")
    return path


@pytest.mark.parametrize(
    ("before", "test", "result", "after"),
    [
        ("[always] madvise never", False, True, "madvise"),
        ("[always] madvise never", True, None, "[always] madvise never"),
        ("always [madvise] never", False, True, "always [madvise] never"),
        ("madvise", False, True, "madvise"),
        ("0", False, True, "madvise"),
    ],
)
def test_parameter_is_written_now_and_at_every_boot(
    huge_pages: Path, before: str, *, test: bool, result: bool | None, after: str
) -> None:
    huge_pages.write_text(before)
    files: list[Any] = []

    def managed(name: str, **options: Any) -> dict[str, Any]:
        files.append((name, options["contents"].splitlines()[-1]))
        return {"name": name, "result": True, "changes": {}, "comment": "as it should be"}

    state = load(
        "_states",
        "kernel",
        __grains__={"virtual": "xen"},
        __opts__={"test": test},
        __states__={"file.managed": managed},
    )
    found = state.parameter(str(huge_pages), "madvise")
    assert (found["name"], found["result"]) == (str(huge_pages), result)
    assert bool(found["changes"]) == (before in ("0", "[always] madvise never"))
    assert huge_pages.read_text() == after
    line = f"w {huge_pages} - - - - madvise"
    assert files == [("/etc/tmpfiles.d/60-hugepage-enabled.conf", line)]


def test_parameter_of_a_container_is_left_alone(huge_pages: Path) -> None:
    state = load("_states", "kernel", __grains__={"virtual": "container"}, __opts__={"test": False})
    found = state.parameter(str(huge_pages), "madvise")
    assert (found["result"], found["changes"]) == (True, {})
    assert "[always]" in huge_pages.read_text()
