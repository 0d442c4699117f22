"""The modules `firewall`: the rules that the kernel holds, against those of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

FILE = "/etc/nftables.conf"
STACK = """\
table inet stack {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state invalid drop
		tcp dport 22 accept comment "ssh"
	}
}"""
ENGINE = """\
table ip nat {
	chain DOCKER_OUTPUT {
		ip daddr 127.0.0.11 tcp dport 53 counter xt target "DNAT"
	}

	chain OUTPUT {
		type nat hook output priority dstnat; policy accept;
		ip daddr 127.0.0.11 counter jump DOCKER_OUTPUT
	}
}"""


@dataclass
class Kernel:
    """An nft whose kernel holds these tables, by name."""

    tables: dict[str, str]
    container: bool = True
    error: str = ""
    done: list[str] = field(default_factory=list)

    def run(self, command: list[str], **options: Any) -> dict[str, Any]:
        """Stand in for cmd.run_all."""
        assert options["python_shell"] is False
        if self.error:
            return {"retcode": 1, "stdout": "", "stderr": self.error}
        if command[0] == "unshare":
            assert command[-1] == FILE
            out = STACK
        elif command[1:3] == ["list", "tables"]:
            out = "".join(f"table {name}\n" for name in self.tables)
        elif command[1:4] == ["--stateless", "list", "table"]:
            out = self.tables[" ".join(command[4:])]
        elif command[1:3] == ["delete", "table"]:
            del self.tables[" ".join(command[3:])]
            out = ""
        else:
            assert command == ["nft", "--file", FILE]
            self.tables["inet stack"] = STACK
            out = ""
        self.done.append(" ".join(command))
        return {"retcode": 0, "stdout": out, "stderr": ""}

    def module(self) -> Any:
        """Return the execution module."""
        grains = {"virtual": "container" if self.container else "xen"}
        return load("_modules", "firewall", __grains__=grains, __salt__={"cmd.run_all": self.run})

    def loaded(self, *, test: bool) -> dict[str, Any]:
        """Run the state."""
        module = self.module()
        functions = {f"firewall.{name}": getattr(module, name) for name in ("differences", "load")}
        state = load("_states", "firewall", __salt__=functions, __opts__={"test": test})
        result: dict[str, Any] = state.loaded(FILE)
        return result


RULE = 'tcp dport 22 accept comment "ssh"'
POLICY = "type filter hook input priority filter; policy"
MOVED = STACK.replace(
    f"\t\tct state invalid drop\n\t\t{RULE}", f"\t\t{RULE}\n\t\tct state invalid drop"
)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"inet stack": STACK}, []),
        ({"inet stack": STACK, "ip nat": ENGINE}, []),
        ({}, ["the firewall is not loaded: the table inet stack does not exist"]),
        (
            {"inet stack": STACK.replace(RULE, f"{RULE}\n\t\ttcp dport 23 accept")},
            ["the firewall has a rule that nobody declared: tcp dport 23 accept"],
        ),
        (
            {"inet stack": STACK.replace(RULE, f"{RULE}\n\t\t{RULE}")},
            [f"the firewall has a rule that nobody declared: {RULE}"],
        ),
        (
            {"inet stack": STACK.replace(f"\t\t{RULE}\n", "")},
            [f"the firewall lacks the rule: {RULE}"],
        ),
        (
            {"inet stack": STACK.replace("policy drop", "policy accept")},
            [
                f"the firewall has a rule that nobody declared: {POLICY} accept;",
                f"the firewall lacks the rule: {POLICY} drop;",
            ],
        ),
        (
            {"inet stack": MOVED},
            ["the firewall's rules are in another order or another chain"],
        ),
        (
            {"inet stack": STACK, "ip other": ""},
            ["the firewall has a table that nobody declared: ip other"],
        ),
        (
            {"inet stack": STACK, "ip nat": ENGINE.replace("127.0.0.11 tcp", "10.0.0.1 tcp")},
            ["the firewall has a table that nobody declared: ip nat"],
        ),
    ],
)
def test_differences(tables: dict[str, str], expected: list[str]) -> None:
    assert Kernel(tables).module().differences() == expected


def test_table_of_an_engine_belongs_to_a_container_only() -> None:
    kernel = Kernel({"inet stack": STACK, "ip nat": ENGINE}, container=False)
    assert kernel.module().differences() == [
        "the firewall has a table that nobody declared: ip nat"
    ]


def test_state_predicts_then_repairs() -> None:
    kernel = Kernel({"ip nat": ENGINE, "ip other": ""})
    sentences = kernel.module().differences()
    assert len(sentences) == 2
    predicted = kernel.loaded(test=True)
    assert (predicted["result"], predicted["changes"]) == (None, {"firewall": sentences})
    assert "ip other" in kernel.tables
    repaired = kernel.loaded(test=False)
    assert (repaired["result"], repaired["changes"]) == (True, {"firewall": sentences})
    assert kernel.tables.keys() == {"inet stack", "ip nat"}
    assert "nft delete table ip nat" not in kernel.done
    for test in (True, False):
        again = kernel.loaded(test=test)
        assert (again["result"], again["changes"]) == (True, {})


def test_state_that_cannot_repair_fails() -> None:
    kernel = Kernel({})
    module = kernel.module()
    functions = {"firewall.differences": module.differences, "firewall.load": lambda _name: None}
    state = load("_states", "firewall", __salt__=functions, __opts__={"test": False})
    assert state.loaded(FILE)["result"] is False


def test_error_of_nft_is_told() -> None:
    kernel = Kernel({}, error="syntax error")
    with pytest.raises(CommandExecutionError, match="unshare: syntax error"):
        kernel.module().differences()
    found = kernel.loaded(test=False)
    assert (found["result"], found["comment"]) == (False, "unshare: syntax error")


# -- a port that is needed before all rules can be loaded


@dataclass
class Chain:
    """An nft whose kernel holds one chain, or none."""

    rules: list[str] | None
    error: str = ""

    def run(self, command: list[str], **_: Any) -> dict[str, Any]:
        """Stand in for cmd.run_all."""
        if command[1:3] == ["list", "tables"]:
            tables = "" if self.rules is None else "table inet stack\ntable ip other\n"
            return {"retcode": 0, "stdout": tables, "stderr": ""}
        assert self.rules is not None
        if command[1:5] == ["--stateless", "list", "chain", "inet"]:
            assert command[5:] == ["stack", "input"]
            return {"retcode": 0, "stdout": "\n".join(self.rules), "stderr": ""}
        assert command[1:6] == ["add", "rule", "inet", "stack", "input"]
        if self.error:
            return {"retcode": 1, "stdout": "", "stderr": self.error}
        self.rules += command[6:]
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def let_in(self, *, test: bool = False) -> dict[str, Any]:
        """Run the state."""
        module = load("_modules", "firewall", __salt__={"cmd.run_all": self.run})
        functions = {f"firewall.{name}": getattr(module, name) for name in ("lets_in", "let_in")}
        state = load("_states", "firewall", __salt__=functions, __opts__={"test": test})
        result: dict[str, Any] = state.let_in("proxy", 3128, "10.20.0.0/16")
        return result


OPEN = 'ip saddr { 10.20.0.0/16 } tcp dport 3128 accept comment "proxy"'


def test_port_is_let_in_once() -> None:
    kernel = Chain(["tcp dport 31280 accept", "tcp dport 22 accept"])
    predicted = kernel.let_in(test=True)
    assert (predicted["result"], len(kernel.rules or [])) == (None, 2)
    done = kernel.let_in()
    assert (done["result"], done["changes"]) == (True, predicted["changes"])
    assert (kernel.rules or [])[2:] == [OPEN]
    assert kernel.let_in()["changes"] == {}


def test_machine_whose_firewall_is_not_loaded_lets_everything_in() -> None:
    kernel = Chain(None)
    assert (kernel.let_in()["result"], kernel.let_in()["changes"]) == (True, {})


def test_refusal_to_let_a_port_in_fails_the_state() -> None:
    done = Chain([], error="no such thing").let_in()
    assert (done["result"], done["comment"]) == (False, "nft: no such thing")
