"""The orchestration: which machines each step names, in which order, for which accepted keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plainpillar import DEPLOYMENT, PlainPillar
from rendering import Compiled, Compiler
from stackctl.states import Migration

OTHERS = ["salt-1", "lb-1", "postgres-1", "redis-1"]
# Accepted keys that are no machines of the stack.
STRANGERS = ["web-evil", "web-proxy-1", "redis-sentinel-1", "web-0", "web-01", "web-1.evil"]

Render = Callable[..., Compiled]


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """`render('web-1', …)`: the orchestration when these keys and `OTHERS` are accepted."""
    pillar = PlainPillar(tmp_path_factory.mktemp("pillar"), ssh_public_key="x", operator_cidrs=[])

    def compiled(*web: str, others: list[str] = OTHERS, new: Sequence[str] = ()) -> Compiled:
        # The id under which the master renders an orchestration.
        master = f"{DEPLOYMENT.master()}_master"
        folder = tmp_path_factory.mktemp("master")
        compiler = Compiler(master, folder, pillar, given={"new": [*new]})
        # As the master lists them.
        compiler.opts["test_accepted"] = sorted([*web, *others])
        return compiler.states("orch.deploy")

    return compiled


def drained(tmp_path: Path, *names: str) -> Compiled:
    """Return the orchestration that drains these machines, with two load balancers."""
    pillar = PlainPillar(tmp_path, ssh_public_key="x", operator_cidrs=[])
    (tmp_path / "master").mkdir()
    given = {"drain": list(names)}
    compiler = Compiler(f"{DEPLOYMENT.master()}_master", tmp_path / "master", pillar, given=given)
    compiler.opts["test_accepted"] = sorted([*OTHERS, "lb-2", "web-1", *STRANGERS])
    return compiler.states("orch.drain")


def targets(compiled: Compiled) -> dict[str, Any]:
    assert compiled.errors == []
    return {chunk["__id__"]: chunk["tgt"] for chunk in compiled.chunks}


def test_every_step_names_its_machines(render: Render) -> None:
    steps = targets(render("web-1", "web-2"))
    everything = ["salt-1", "lb-1", "web-1", "web-2", "postgres-1", "redis-1"]
    assert steps == {
        "deploy-modules": everything,
        "deploy-states": everything,
        "deploy-pillar": everything,
        "deploy-addresses": everything,
        "deploy-artefact": ["salt-1"],
        "deploy-release": ["web-1", "web-2"],
        "deploy-stores": ["postgres-1", "redis-1"],
        "deploy-database": ["web-1"],
        "deploy-web-1": ["web-1"],
        "deploy-web-2": ["web-2"],
        "deploy-edge": ["lb-1", "salt-1"],
        "deploy-smoke": ["salt-1"],
    }


def test_machines_of_no_step_are_set_up_with_the_stores(render: Render) -> None:
    others = [*OTHERS, "lb-2", "postgres-2", "redis-2", "redis-3", "monitor-1"]
    steps = targets(render("web-1", "web-2", others=others))
    stores = ["postgres-1", "postgres-2", "redis-1", "redis-2", "redis-3"]
    assert steps["deploy-stores"] == [*stores, "monitor-1"]
    assert steps["deploy-edge"] == ["lb-1", "lb-2", "salt-1"]


def test_no_step_skips_a_silent_machine(render: Render) -> None:
    for chunk in render("web-1", "web-2").chunks:
        assert chunk["tgt_type"] == "list", chunk["__id__"]
        # Salt drops the minions of a batch that miss its ping.
        assert not chunk.keys() & {"batch", "subset", "fail_minions", "allow_fail"}
        # The default of salt.state is True, that of salt.function is False.
        assert chunk.get("expect_minions", chunk["fun"] == "state") is True, chunk["__id__"]


def test_web_machines_change_one_after_the_other_by_number(render: Render) -> None:
    web = [f"web-{number}" for number in range(1, 11)]
    compiled = render(*web)
    assert targets(compiled)["deploy-release"] == web
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    order = ["deploy-database", *(f"deploy-{name}" for name in web), "deploy-edge"]
    for before, step in pairwise(order):
        assert {"salt": before} in steps[step]["require"]
    assert sorted(order, key=lambda step: steps[step]["order"]) == order


def test_release_is_built_once_and_is_everywhere_before_the_first_machine_changes(
    render: Render,
) -> None:
    steps = {chunk["__id__"]: chunk for chunk in render("web-1", "web-2").chunks}
    assert {"salt": "deploy-artefact"} in steps["deploy-release"]["require"]
    assert {"salt": "deploy-release"} in steps["deploy-database"]["require"]
    # While it is built, the stores are set up.
    assert steps["deploy-artefact"]["parallel"] is True
    assert steps["deploy-artefact"]["order"] < steps["deploy-stores"]["order"]
    assert steps["deploy-stores"]["order"] < steps["deploy-release"]["order"]


def test_new_web_machines_serve_before_the_others_are_looked_at(render: Render) -> None:
    compiled = render("web-1", "web-2", "web-3", "web-4", new=["web-3", "web-4"])
    assert targets(compiled) == {
        "deploy-modules": ["web-3", "web-4"],
        "deploy-states": ["web-3", "web-4"],
        "deploy-pillar": ["web-3", "web-4"],
        "deploy-addresses": ["web-3", "web-4"],
        "deploy-artefact": ["salt-1"],
        "deploy-stores": ["postgres-1", "redis-1"],
        "deploy-release": ["web-3", "web-4"],
        "deploy-new": ["web-3", "web-4"],
        "deploy-edge": ["lb-1", "salt-1"],
        "deploy-web-1": ["web-1"],
        "deploy-web-2": ["web-2"],
        "deploy-smoke": ["salt-1"],
    }
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    order = ["release", "new", "edge", "web-1", "web-2", "smoke"]
    for before, step in pairwise(order):
        assert {"salt": f"deploy-{before}"} in steps[f"deploy-{step}"]["require"]
    # The database lets in the machines whose addresses its last run knew.
    assert {"salt": "deploy-stores"} in steps["deploy-new"]["require"]


def test_lowest_web_machine_migrates(render: Render) -> None:
    assert targets(render("web-10", "web-3"))["deploy-database"] == ["web-3"]


def test_operator_command_predicts_the_migration_of_the_orchestration(render: Render) -> None:
    compiled = render(*DEPLOYMENT.machines_of("web"))
    (step,) = (chunk for chunk in compiled.chunks if chunk["__id__"] == "deploy-database")
    migration = Migration.of(DEPLOYMENT)
    assert (step["tgt"], step["sls"]) == ([migration.machine], migration.states)


def test_keys_of_no_role_are_ignored(render: Render) -> None:
    with_strangers = render("web-1", "web-2", *STRANGERS)
    assert targets(with_strangers) == targets(render("web-1", "web-2"))


@pytest.mark.parametrize(
    ("web", "others", "role"),
    [([], OTHERS, "web"), (["web-1"], [*OTHERS[:-1], "redis-sentinel-1"], "redis")],
)
def test_role_without_machine_stops_the_run(
    render: Render, web: list[str], others: list[str], role: str
) -> None:
    (error,) = render(*web, others=others).errors
    assert f"the master has accepted no minion of the role '{role}'" in error


def test_addresses_come_from_a_fresh_pillar(render: Render) -> None:
    steps = {chunk["__id__"]: chunk for chunk in render("web-1").chunks}
    assert steps["deploy-addresses"]["name"] == "mine.update"
    assert {"salt": "deploy-pillar"} in steps["deploy-addresses"]["require"]
    assert steps["deploy-pillar"]["name"] == "saltutil.refresh_pillar"
    assert steps["deploy-pillar"]["kwarg"]["wait"] is True


def test_drain_asks_every_load_balancer_and_waits_for_it(tmp_path: Path) -> None:
    drain = drained(tmp_path, "web-3")
    (step,) = drain.chunks
    assert targets(drain) == {"drain-edge": ["lb-1", "lb-2"]}
    assert (step["name"], step["tgt_type"], step["expect_minions"]) == ("edge.drain", "list", True)
    assert step["timeout"] > step["kwarg"]["seconds"]
    assert step["arg"] == [["web-3"]]


def test_load_balancer_that_goes_is_asked_to_leave(tmp_path: Path) -> None:
    drain = drained(tmp_path, "web-3", "lb-2")
    edge, clients = drain.chunks
    assert targets(drain) == {"drain-edge": ["lb-1"], "drain-clients": ["lb-2"]}
    assert (edge["name"], clients["name"]) == ("edge.drain", "edge.leave")
    # One that does not answer has to go too.
    assert "expect_minions" not in clients
    assert clients["timeout"] > clients["kwarg"]["seconds"]
