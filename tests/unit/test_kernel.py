"""The states of `kernel`: the running kernel and its swap, where the machine has its own."""

from __future__ import annotations

import re
from collections.abc import Callable
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


class SwapMachine:
    """A machine whose services make and remove the device, unless they are broken."""

    def __init__(self, root: Path, size: int) -> None:
        self.root = root
        self.wanted = 256
        self.did: list[str] = []
        self.broken = False
        self.show(size)

    def show(self, size: int) -> None:
        """Have the kernel show a device of so many MiB, or none."""
        for path, text in {
            "proc/swaps": "Filename\tType\tSize\tUsed\n"
            + ("/dev/zram0  partition\t262140\t0\n" if size else ""),
            "sys/block/zram0/disksize": f"{size << 20}\n",
        }.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)

    def start(self, unit: str) -> bool:
        self.did.append(f"start {unit}")
        if not self.broken:
            self.show(self.wanted)
        return not self.broken

    def state(self, *, test: bool = False, managed: bool = True) -> dict[str, Any]:
        def file_managed(name: str, **options: Any) -> dict[str, Any]:
            assert name.startswith("/etc/systemd/zram-generator.conf.d/")
            assert options["contents"].endswith("\n[zram0]\nzram-size = 256\n")
            return {"name": name, "result": managed, "changes": {}, "comment": "of the file"}

        functions: dict[str, Callable[..., Any]] = {
            "service.systemctl_reload": lambda: self.did.append("reload"),
            "service.stop": lambda unit: self.did.append(f"stop {unit}"),
            "service.start": self.start,
        }
        module = load(
            "_states",
            "kernel",
            __grains__={"virtual": "xen"},
            __opts__={"test": test},
            __salt__=functions,
            __states__={"file.managed": file_managed},
        )
        ret: dict[str, Any] = module.compressed_swap("zram0", 256, str(self.root))
        return ret


def test_swap_is_made_once(tmp_path: Path) -> None:
    machine = SwapMachine(tmp_path, 0)
    found = machine.state()
    assert (found["name"], found["result"]) == ("zram0", True)
    assert found["changes"] == {"zram0": {"old": "0 MiB", "new": "256 MiB"}}
    assert machine.did == ["reload", "start dev-zram0.swap"]
    found = machine.state()
    assert (found["result"], found["changes"], len(machine.did)) == (True, {}, 2)


def test_swap_of_another_size_is_made_anew(tmp_path: Path) -> None:
    machine = SwapMachine(tmp_path, 128)
    assert machine.state()["changes"]["zram0"]["old"] == "128 MiB"
    stops = ["stop dev-zram0.swap", "stop systemd-zram-setup@zram0.service"]
    assert machine.did == ["reload", *stops, "start dev-zram0.swap"]


def test_swap_is_predicted(tmp_path: Path) -> None:
    machine = SwapMachine(tmp_path, 0)
    found = machine.state(test=True)
    assert (found["result"], machine.did) == (None, [])
    assert found["changes"]


@pytest.mark.parametrize("managed", [True, False])
def test_swap_that_does_not_come_is_a_failure(tmp_path: Path, *, managed: bool) -> None:
    machine = SwapMachine(tmp_path, 0)
    machine.broken = True
    found = machine.state(managed=managed)
    assert (found["result"], found["changes"]) == (False, {})
    comment = "see: journalctl -u systemd-zram-setup@zram0" if managed else "of the file"
    assert found["comment"].endswith(comment)


def test_container_gets_no_swap_and_says_why() -> None:
    state = load("_states", "kernel", __grains__={"virtual": "container"})
    found = state.compressed_swap("zram0", 256)
    assert (found["result"], found["changes"]) == (True, {})
    assert found["comment"].startswith(
        "swap on zram0 is not set: a container has its host's kernel"
    )


def test_units_whose_memory_is_bounded_get_no_swap() -> None:
    """Otherwise what grows would first fill the swap of all others."""
    for path in [*TREE.rglob("*.service*"), *TREE.rglob("*.conf*")]:
        text = path.read_text()
        if re.search(r"^MemoryMax=", text, re.MULTILINE):
            assert "\nMemorySwapMax=0\n" in text, path


def test_units_that_go_on_start_with_the_machine() -> None:
    """A unit without this runs until the next boot, also where a state enables it."""
    for path in TREE.rglob("*.service*"):
        text = path.read_text()
        if "\nRestart=always\n" in text and "\nDescription=" in text:
            assert "\n[Install]\nWantedBy=multi-user.target\n" in text, path


def test_units_of_timers_try_again() -> None:
    """Else what was away for a moment leaves a failed unit until the timer's next turn."""
    for timer in TREE.rglob("*.timer"):
        (path,) = timer.parent.glob(f"{timer.stem}.service*")
        text = path.read_text()
        soon = re.search(r"^OnUnitInactiveSec=60$", timer.read_text(), re.MULTILINE)
        # That is no failure; and that says why it does not.
        if soon or "\nSuccessExitStatus=" in text or "\nRestart=no\n" in text:
            continue
        assert "\nStartLimitIntervalSec=0\n" in text, path
        assert "\nRestart=on-failure\n" in text, path


RULES = """\
# Managed by salt/base.
-D
-b 1024
-a always,exit -F arch=b64 -F path=/etc/passwd -F perm=wa -F key=identity
-a always,exit -F arch=b64 -F dir=/etc/salt/pki -F perm=r -F auid>=1000 -F auid!=unset -F key=keys
-a always,exit -F arch=b64 -S adjtimex,settimeofday -F exe!=/usr/sbin/chronyd -F key=time
"""
# As auditctl 4.0.2 lists them.
LISTED = """\
-a always,exit -F arch=b64 -S open,rename,creat,openat -F path=/etc/passwd -F perm=wa -F key=identity
-a always,exit -F arch=b64 -S open,openat -F dir=/etc/salt/pki -F perm=r -F auid>=1000 -F auid!=-1 -F key=keys
-a always,exit -F arch=b64 -S settimeofday,adjtimex -F exe!=/usr/sbin/chronyd -F key=time
"""  # noqa: E501


class Audit:
    """The kernel's rules and auditd, on a machine with a kernel of its own."""

    def __init__(self, rules: Path, *, runs: bool, listed: str) -> None:
        self.rules = rules
        self.runs = runs
        self.listed = listed
        self.did: list[str] = []
        self.refuses = False
        (rules / "60-stack.rules").write_text(RULES)

    def load(self, command: list[str], **_: Any) -> dict[str, Any]:
        self.did.append(" ".join(command))
        if not self.refuses:
            self.listed = LISTED
        return {"retcode": 0, "stdout": "", "stderr": "There was an error in line 4"}

    def start(self, name: str) -> bool:
        self.did.append(f"start {name}")
        self.runs = True
        return True

    def state(self, *, test: bool = False, virtual: str = "xen") -> dict[str, Any]:
        functions: dict[str, Callable[..., Any]] = {
            "service.enabled": lambda _name: self.runs,
            "service.status": lambda _name: self.runs,
            "service.enable": lambda name: self.did.append(f"enable {name}"),
            "service.start": self.start,
            "cmd.run_stdout": lambda command, **_: self.listed if command[-1] == "-l" else "",
            "cmd.run_all": self.load,
        }
        module = load(
            "_states",
            "kernel",
            __grains__={"virtual": virtual},
            __opts__={"test": test},
            __salt__=functions,
        )
        ret: dict[str, Any] = module.audited("auditd", str(self.rules))
        return ret


def test_audit_that_records_is_left_alone(tmp_path: Path) -> None:
    audit = Audit(tmp_path, runs=True, listed=LISTED)
    assert (audit.state()["result"], audit.state()["changes"], audit.did) == (True, {}, [])


def test_audit_is_started_with_its_rules(tmp_path: Path) -> None:
    audit = Audit(tmp_path, runs=False, listed="No rules\n")
    assert set(audit.state(test=True)["changes"]) == {"auditd", "rules"}
    assert (audit.state(test=True)["result"], audit.did) == (None, [])
    found = audit.state()
    assert (found["result"], set(found["changes"])) == (True, {"auditd", "rules"})
    assert audit.did == ["enable auditd", "start auditd", "augenrules --load"]
    assert (audit.state()["result"], audit.state()["changes"]) == (True, {})


@pytest.mark.parametrize(
    ("old", "new"),
    [("path=/etc/passwd", "path=/etc/shadow"), ("perm=wa", "perm=w"), ("adjtimex", "stime")],
)
def test_rules_that_were_changed_by_hand_are_loaded_again(
    tmp_path: Path, old: str, new: str
) -> None:
    audit = Audit(tmp_path, runs=True, listed=LISTED.replace(old, new))
    assert set(audit.state()["changes"]) == {"rules"}
    assert (audit.state()["result"], audit.state()["changes"]) == (True, {})


def test_rules_that_the_kernel_refuses_fail(tmp_path: Path) -> None:
    audit = Audit(tmp_path, runs=True, listed="No rules\n")
    audit.refuses = True
    found = audit.state()
    assert (found["result"], found["changes"]) == (False, {})
    assert "There was an error in line 4" in found["comment"]


def test_container_has_no_records_of_its_own(tmp_path: Path) -> None:
    audit = Audit(tmp_path, runs=False, listed="")
    found = audit.state(virtual="container")
    assert (found["result"], found["changes"], audit.did) == (True, {}, [])
    assert "a container has its host's kernel" in found["comment"]
