"""The execution module `stack`: roles from ids, addresses from the mine, and what a firewall lets in."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from plainpillar import ROOT

MINE = {
    "web-2": ["10.20.1.3"],
    "web-1": ["10.20.1.2"],
    "lb-1": ["10.20.1.4"],
    "salt-1": ["10.20.1.1"],
}
NETWORK = "10.20.0.0/16"
ENDPOINTS: dict[str, Any] = {
    "ssh": {"port": 22, "on": ["*"], "from": ["salt"]},
    "app": {"port": 8080, "on": ["web"], "from": ["lb"]},
    "https": {"port": 443, "on": ["lb"], "from": ["world"]},
    "bus": {"port": 4505, "on": ["salt"], "from": ["*"]},
    "store": {"port": 1, "on": ["cache"], "from": ["web"]},
}


@pytest.fixture
def stack() -> Callable[..., ModuleType]:
    """`stack(id)`: the module as Salt's loader gives it to that minion."""

    def load(minion_id: str, mine: dict[str, list[str]] = MINE) -> ModuleType:
        spec = importlib.util.spec_from_file_location("stack", ROOT / "salt/_modules/stack.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def get(target: str, function: str) -> dict[str, list[str]]:
            assert function == "private_address"
            return {name: found for name, found in mine.items() if fnmatch(name, target)}

        pillar = {"aws": {"vpc": {"cidr": NETWORK}}}
        module.__dict__.update(
            __opts__={"id": minion_id}, __pillar__=pillar, __salt__={"mine.get": get}
        )
        return module

    return load


@pytest.mark.parametrize(("minion_id", "role"), [("web-2", "web"), ("big-web-10", "big-web")])
def test_role_is_the_id_without_its_number(
    stack: Callable[..., ModuleType], minion_id: str, role: str
) -> None:
    assert stack(minion_id).role() == role


def test_addresses_are_sorted_and_of_one_role(stack: Callable[..., ModuleType]) -> None:
    assert list(stack("lb-1").addresses("web").items()) == [
        ("web-1", "10.20.1.2"),
        ("web-2", "10.20.1.3"),
    ]
    assert list(stack("lb-1").addresses()) == ["lb-1", "salt-1", "web-1", "web-2"]


def test_a_role_without_machines_is_named_with_the_cure(stack: Callable[..., ModuleType]) -> None:
    with pytest.raises(CommandExecutionError, match=r"'redis'.*mine\.update"):
        stack("web-1").addresses("redis")


def test_a_machine_without_an_address_is_named(stack: Callable[..., ModuleType]) -> None:
    with pytest.raises(CommandExecutionError, match=r"web-1.*mine\.update"):
        stack("lb-1", {"web-1": []}).addresses("web")


@pytest.mark.parametrize(
    "lie",
    [
        "10.20.1.2 } accept; tcp dport { 22",
        "0.0.0.0/0",
        "198.51.100.7",
        "10.21.0.1",
        "::ffff:10.20.1.2",
        7.5,
    ],
)
def test_what_is_no_address_of_the_vpc_reaches_no_firewall(
    stack: Callable[..., ModuleType], lie: Any
) -> None:
    with pytest.raises(CommandExecutionError, match="web-1 says"):
        stack("lb-1", {"web-1": [lie]}).addresses("web")


def test_what_is_no_list_of_addresses_is_named(stack: Callable[..., ModuleType]) -> None:
    liar: dict[str, Any] = {"web-1": {"address": "10.20.1.2"}}
    with pytest.raises(CommandExecutionError, match="web-1 says"):
        stack("lb-1", liar).addresses("web")


def test_nobody_passes_for_another_machine(stack: Callable[..., ModuleType]) -> None:
    """A web machine that takes the master's address would be let in where the master is."""
    with pytest.raises(
        CommandExecutionError, match=r"salt-1 and web-2 both say that 10\.20\.1\.1 "
    ):
        stack("lb-1", MINE | {"web-2": ["10.20.1.1"]}).addresses("web")


def test_own_address(stack: Callable[..., ModuleType]) -> None:
    assert stack("web-2").own_address() == "10.20.1.3"
    with pytest.raises(CommandExecutionError, match="web-3"):
        stack("web-3").own_address()


def test_a_machine_lets_in_its_own_endpoints_only(stack: Callable[..., ModuleType]) -> None:
    assert stack("web-1").inbound(ENDPOINTS, NETWORK) == [
        {"name": "ssh", "port": 22, "sources": ["10.20.1.1"]},
        {"name": "app", "port": 8080, "sources": ["10.20.1.4"]},
    ]


def test_the_world_is_everybody(stack: Callable[..., ModuleType]) -> None:
    assert {"name": "https", "port": 443, "sources": None} in stack("lb-1").inbound(
        ENDPOINTS, NETWORK
    )


def test_a_machine_that_nobody_knows_yet_reaches_the_master(
    stack: Callable[..., ModuleType],
) -> None:
    """Every role is the machines' network: neither today's addresses nor the world."""
    assert stack("salt-1").inbound(ENDPOINTS, NETWORK)[1]["sources"] == [NETWORK]


def test_the_operator_reaches_the_master_by_ssh_and_nothing_else(
    stack: Callable[..., ModuleType],
) -> None:
    operator = "198.51.100.0/24"
    ssh, bus = stack("salt-1").inbound(ENDPOINTS, NETWORK, [operator])
    assert operator in ssh["sources"]
    assert operator not in bus["sources"]
    assert all(
        operator not in (rule["sources"] or [])
        for rule in stack("web-1").inbound(ENDPOINTS, NETWORK, [operator])
    )


def test_a_client_role_without_machines_stops_the_run(stack: Callable[..., ModuleType]) -> None:
    with pytest.raises(CommandExecutionError, match="'web'"):
        stack("cache-1", {"cache-1": ["10.20.1.9"], "salt-1": ["10.20.1.1"]}).inbound(
            ENDPOINTS, NETWORK
        )


@pytest.mark.parametrize("name", ["ssh", "salt-publish", "salt-request"])
def test_a_port_on_which_nothing_would_listen_is_refused(
    stack: Callable[..., ModuleType], name: str
) -> None:
    endpoints = {name: {"port": 2222, "on": ["*"], "from": ["*"]}}
    with pytest.raises(
        CommandExecutionError, match=f"endpoint {name} has port 2222, .* put that back"
    ):
        stack("web-1").inbound(endpoints, NETWORK)


@pytest.mark.parametrize(
    ("state", "reload", "unread"),
    [
        ("active", False, ["after", "link"]),
        ("active", True, []),
        ("inactive", False, []),
        ("failed", False, []),
    ],
)
def test_files_that_changed_since_a_unit_started(
    stack: Callable[..., ModuleType], tmp_path: Path, state: str, *, reload: bool, unread: list[str]
) -> None:
    """The unit started an hour ago and was reloaded just now; in between, one file changed and one link was set."""
    asked: list[list[str]] = []

    def systemctl(command: list[str], *, python_shell: bool) -> str:
        assert not python_shell
        asked.append(command)
        stamp = command[2].rpartition(",")[2]
        ago = {"ActiveEnterTimestampMonotonic": 3600, "StateChangeTimestampMonotonic": 0}[stamp]
        return f"ActiveState={state}\n{stamp}={int((time.monotonic() - ago) * 1e6)}\n"

    module = stack("web-1")
    module.__dict__["__salt__"]["cmd.run_stdout"] = systemctl
    (tmp_path / "link").symlink_to("before")
    for name, ago in {"before": 7200, "after": 1800, "link": 1800}.items():
        path, moment = tmp_path / name, time.time() - ago
        if name != "link":
            path.touch()
        os.utime(path, (moment, moment), follow_symlinks=False)
    files = [str(tmp_path / name) for name in ("before", "after", "link", "absent")]
    found = module.changed_since_start("app", files, reload=reload)
    assert [Path(path).name for path in found] == unread
    assert asked[0][-1] == "app"
