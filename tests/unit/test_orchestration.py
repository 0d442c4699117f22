"""The orchestration: which machines each step names, in which order, for which accepted keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plainpillar import DEPLOYMENT, PlainPillar
from rendering import Compiled, Compiler
from saltmodules import load
from stackctl.states import Migration

OTHERS = ["salt-1", "lb-1", "postgres-1", "redis-1"]
# Accepted keys that are no machines of the stack.
STRANGERS = ["web-evil", "web-proxy-1", "redis-sentinel-1", "web-0", "web-01", "web-1.evil"]

Render = Callable[..., Compiled]


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """`render('web-1', …)`: the orchestration when these keys and `OTHERS` are accepted."""
    pillar = PlainPillar(tmp_path_factory.mktemp("pillar"), ssh_public_key="x", operator_cidrs=[])

    def compiled(
        *web: str,
        others: list[str] = OTHERS,
        new: Sequence[str] = (),
        unsettled: Sequence[str] = (),
        without_tls: Sequence[str] = (),
    ) -> Compiled:
        # The id under which the master renders an orchestration.
        master = f"{DEPLOYMENT.master()}_master"
        folder = tmp_path_factory.mktemp("master")
        compiler = Compiler(master, folder, pillar, given={"new": [*new]})
        # As the master lists them.
        compiler.opts["test_accepted"] = sorted([*web, *others])
        compiler.opts["test_new"] = [*unsettled]
        compiler.opts["test_without_tls"] = [*without_tls]
        return compiler.states("orch.deploy")

    return compiled


def drained(tmp_path: Path, *names: str, others: Sequence[str] = OTHERS) -> Compiled:
    """Return the orchestration that drains these machines, with two load balancers."""
    pillar = PlainPillar(tmp_path, ssh_public_key="x", operator_cidrs=[])
    (tmp_path / "master").mkdir()
    given = {"drain": list(names)}
    compiler = Compiler(f"{DEPLOYMENT.master()}_master", tmp_path / "master", pillar, given=given)
    compiler.opts["test_accepted"] = sorted([*others, "lb-2", "web-1", *STRANGERS])
    return compiler.states("orch.drain")


def rebooted(tmp_path: Path, **given: Any) -> Compiled:
    """Return the orchestration that reboots machines."""
    pillar = PlainPillar(tmp_path, ssh_public_key="x", operator_cidrs=[])
    (tmp_path / "master").mkdir()
    compiler = Compiler(f"{DEPLOYMENT.master()}_master", tmp_path / "master", pillar, given=given)
    compiler.opts["test_accepted"] = sorted([*STORES, "lb-2", "web-1", *STRANGERS])
    return compiler.states("orch.reboot")


def targets(compiled: Compiled) -> dict[str, Any]:
    assert compiled.errors == []
    return {chunk["__id__"]: chunk["tgt"] for chunk in compiled.chunks if "tgt" in chunk}


def requires(compiled: Compiled, step: str) -> list[str]:
    """Return the steps that have to succeed before this one."""
    (chunk,) = (chunk for chunk in compiled.chunks if chunk["__id__"] == step)
    return [required for entry in chunk["require"] for required in entry.values()]


def test_every_step_names_its_machines(render: Render) -> None:
    steps = targets(render("web-1", "web-2"))
    everything = ["salt-1", "lb-1", "web-1", "web-2", "postgres-1", "redis-1"]
    assert steps == {
        "deploy-modules": everything,
        "deploy-states": everything,
        "deploy-pillar": everything,
        "deploy-addresses": ["salt-1"],
        "deploy-artefact": ["salt-1"],
        "deploy-release": ["web-1", "web-2"],
        "deploy-postgres-1": ["postgres-1"],
        "deploy-redis-1": ["redis-1"],
        "deploy-database": ["web-1"],
        "deploy-web-1": ["web-1"],
        "deploy-web-2": ["web-2"],
        "deploy-edge": ["lb-1", "salt-1"],
        "deploy-smoke": ["salt-1"],
    }


STORES = ["salt-1", "lb-1", *(f"{role}-{n}" for role in ("postgres", "redis") for n in (1, 2, 3))]


def test_machines_of_no_step_are_set_up_with_the_stores(render: Render) -> None:
    compiled = render("web-1", "web-2", others=[*OTHERS, "lb-2", "monitor-1", "monitor-2"])
    steps = targets(compiled)
    assert steps["deploy-others"] == ["monitor-1", "monitor-2"]
    assert (steps["deploy-edge"], steps["deploy-lb-2"]) == (["lb-1", "salt-1"], ["lb-2"])
    assert requires(compiled, "deploy-lb-2") == ["deploy-stores", "deploy-edge"]
    assert requires(compiled, "deploy-smoke") == ["deploy-lb-2"], "the last one"
    assert requires(compiled, "deploy-stores") == [
        "deploy-others", "deploy-postgres-1", "deploy-redis-1"
    ]  # fmt: skip


def test_web_machines_take_plain_http_until_no_edge_sends_it(render: Render) -> None:
    compiled = render("web-1", "web-2", others=[*OTHERS, "lb-2"], without_tls=["lb-2"])
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    given = {name: step["pillar"] for name, step in steps.items() if "pillar" in step}
    assert {"deploy-web-1", "deploy-web-2"} <= given.keys()
    assert "deploy-web-tls" not in given
    assert [*given.values()] == [{"edges_without_tls": True}] * len(given)
    assert requires(compiled, "deploy-edges-reloaded") == ["deploy-lb-2"]
    assert steps["deploy-edges-reloaded"]["tgt"] == ["lb-1", "lb-2"]
    assert requires(compiled, "deploy-web-tls") == ["deploy-edges-reloaded"]
    assert steps["deploy-web-tls"]["tgt"] == ["web-1", "web-2"]
    assert requires(compiled, "deploy-smoke") == ["deploy-web-tls"]


def test_machines_of_a_store_change_one_after_the_other(render: Render) -> None:
    compiled = render("web-1", others=STORES)
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    for role in ("postgres", "redis"):
        names = [f"{role}-{number}" for number in (1, 2, 3)]
        before = "pillar"
        for name in names:
            step = steps[f"deploy-{name}"]
            assert (step["tgt"], step["highstate"]) == ([name], True)
            assert requires(compiled, f"deploy-{name}") == [f"deploy-{before}"]
            # Beside those of the other store, and the build of the release.
            assert step["parallel"] is True
            before = name
    everything = {f"deploy-{name}" for name in STORES[2:]}
    assert set(requires(compiled, "deploy-stores")) == everything
    assert "deploy-others" not in steps


@pytest.mark.parametrize("role", ["postgres", "redis"])
def test_stores_know_a_new_machine_before_it_asks_them(render: Render, role: str) -> None:
    """A machine that replaces the first one comes last: the others have the data."""
    compiled = render("web-1", others=STORES, unsettled=[f"{role}-1"])
    order = [f"deploy-{role}-{number}" for number in (2, 3, 1)]
    for before, step in pairwise(["deploy-pillar", *order]):
        assert requires(compiled, step) == [before]


def test_no_step_skips_a_silent_machine(render: Render) -> None:
    for chunk in render("web-1", "web-2").chunks:
        if chunk["__id__"] == "deploy-stores":  # runs nothing
            assert (chunk["state"], chunk["fun"]) == ("test", "nop")
            continue
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
    assert steps["deploy-release"]["parallel"] is True
    begun = [*steps]
    for store in ("deploy-postgres-1", "deploy-redis-1"):
        assert begun.index("deploy-artefact") < begun.index(store) < begun.index("deploy-release")
    assert begun.index("deploy-release") < begun.index("deploy-stores"), "beside the stores"
    assert {"test": "deploy-stores"} in steps["deploy-database"]["require"]


def test_machines_whose_turn_comes_late_get_their_base_meanwhile(render: Render) -> None:
    """Only new ones: a machine that serves changes in its turn."""
    assert "deploy-bases" not in targets(render("web-1", "web-2"))
    compiled = render("web-1", "web-2", unsettled=["web-2", "lb-1", "redis-1", "salt-1"])
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    bases = steps["deploy-bases"]
    assert (bases["tgt"], bases["sls"]) == (["web-2", "lb-1"], "base")
    assert bases["parallel"] is True
    assert [*steps].index("deploy-bases") < [*steps].index("deploy-postgres-1")
    # Two states never run on a machine at once.
    assert set(requires(compiled, "deploy-release")) == {"deploy-artefact", "deploy-bases"}
    assert "deploy-bases" not in targets(
        render("web-1", "web-2", new=["web-2"], unsettled=["web-2"])
    )


def test_new_web_machines_serve_before_the_others_are_looked_at(render: Render) -> None:
    compiled = render("web-1", "web-2", "web-3", "web-4", new=["web-3", "web-4"])
    assert targets(compiled) == {
        "deploy-modules": ["web-3", "web-4"],
        "deploy-states": ["web-3", "web-4"],
        "deploy-addresses": ["salt-1"],
        "deploy-artefact": ["salt-1"],
        "deploy-postgres-1": ["postgres-1"],
        "deploy-redis-1": ["redis-1"],
        "deploy-new": ["web-3", "web-4"],
        "deploy-pillar": ["web-3", "web-4"],
        "deploy-edge": ["lb-1"],
        "deploy-web-1": ["web-1"],
        "deploy-web-2": ["web-2"],
        "deploy-master": ["salt-1"],
        "deploy-smoke": ["salt-1"],
    }
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    order = ["addresses", "new", "edge", "web-1", "web-2", "master", "smoke"]
    for before, step in pairwise(order):
        assert {"salt": f"deploy-{before}"} in steps[f"deploy-{step}"]["require"]
    # The stores let them in meanwhile, and nothing is told of them before.
    assert steps["deploy-new"]["pillar"] == {"stores_follow": True}
    assert requires(compiled, "deploy-new") == [
        *("deploy-artefact", "deploy-modules", "deploy-states", "deploy-addresses")
    ]
    # The look at the release begins first, beside all that is before the new machines.
    assert next(iter(steps)) == "deploy-artefact"
    assert steps["deploy-artefact"]["parallel"] is True
    assert "require" not in steps["deploy-artefact"]
    assert {"test": "deploy-stores"} in steps["deploy-edge"]["require"]
    for store in ("deploy-postgres-1", "deploy-redis-1"):
        assert steps[store]["parallel"] is True
        assert [*steps].index(store) < [*steps].index("deploy-new"), "they begin before"
    assert [*steps].index("deploy-new") < [*steps].index("deploy-stores"), "nobody waits for them"
    assert {"salt": "deploy-new"} in steps["deploy-pillar"]["require"]
    assert {"salt": "deploy-pillar"} in steps["deploy-smoke"]["require"]


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


def test_pillar_has_the_addresses_that_the_master_has_just_recorded(render: Render) -> None:
    steps = {chunk["__id__"]: chunk for chunk in render("web-1").chunks}
    assert steps["deploy-addresses"]["name"] == "machine_addresses.record"
    assert steps["deploy-addresses"]["tgt"] == ["salt-1"]
    assert {"salt": "deploy-addresses"} in steps["deploy-pillar"]["require"]
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
    edge, _, address, clients = drain.chunks
    of_leaving = ("drain-leaving-modules", "drain-address", "drain-clients")
    assert targets(drain) == {"drain-edge": ["lb-1"], **{step: ["lb-2"] for step in of_leaving}}
    assert [edge["name"], address["name"], clients["name"]] == [
        "edge.drain", "site_address.leave", "edge.leave"
    ]  # fmt: skip
    assert requires(drain, "drain-clients") == ["drain-address"], "nobody is refused"
    assert "expect_minions" not in address, "one that is lost has no address"
    # One that does not answer has to go too.
    assert "expect_minions" not in clients
    assert clients["timeout"] > clients["kwarg"]["seconds"]


def test_database_server_that_goes_leaves_its_cluster(tmp_path: Path) -> None:
    drain = drained(tmp_path, "web-3", "postgres-3", "postgres-1", others=STORES)
    assert targets(drain) == {
        "drain-edge": ["lb-1", "lb-2"],
        "drain-modules": ["postgres-2", "postgres-1", "postgres-3"],
        "drain-lost": ["postgres-2"],
        "drain-postgres-1": ["postgres-1"],
        "drain-postgres-3": ["postgres-3"],
        "drain-places": ["postgres-2"],
    }
    _, modules, lost, first, second, places = drain.chunks
    assert "expect_minions" not in modules
    assert requires(drain, "drain-lost") == ["drain-modules"]
    assert requires(drain, "drain-postgres-1") == ["drain-edge", "drain-lost"]
    assert requires(drain, "drain-postgres-3") == ["drain-postgres-1", "drain-lost"]
    assert requires(drain, "drain-places") == ["drain-postgres-3"]
    assert (lost["name"], lost["kwarg"]) == ("etcd_member.forget", {"silent": True})
    for server in (first, second):
        assert server["name"] == "patroni.leave"
        # Nobody takes over that leaves as well.
        assert server["kwarg"] == {"leaving": ["postgres-1", "postgres-3"]}
        # One that does not answer has to go too.
        assert "expect_minions" not in server
        assert server["timeout"] > load("_modules", "patroni").SWITCH_SECONDS
    assert (places["name"], places["arg"]) == (
        "etcd_member.forget", [["postgres-1", "postgres-3"]]
    )  # fmt: skip
    assert places["expect_minions"] is True


def test_last_database_servers_leave_no_cluster(tmp_path: Path) -> None:
    """Nobody is there who could lead, or give its place up."""
    drain = drained(tmp_path, *(f"postgres-{number}" for number in (1, 2, 3)), others=STORES)
    assert targets(drain) == {"drain-edge": ["lb-1", "lb-2"]}


def test_reboots_are_one_after_the_other(tmp_path: Path) -> None:
    compiled = rebooted(tmp_path, reboot=["web-1", "postgres-2", "lb-2"], upgrade=True)
    assert set(targets(compiled)["reboot-modules"]) == {*STORES, "lb-2", "web-1"}
    steps = {chunk["__id__"]: chunk for chunk in compiled.chunks}
    before = "reboot-modules"
    for name in ("web-1", "postgres-2", "lb-2"):
        assert requires(compiled, f"reboot-{name}") == [before]
        before = f"reboot-{name}"
        options = [{"name": name}, {"upgrade": True}, {"interrupt": False}]
        assert steps[before]["maintenance.reboot"] == options


def test_reboot_of_nobody_reboots_nobody(tmp_path: Path) -> None:
    assert [chunk["__id__"] for chunk in rebooted(tmp_path).chunks] == ["reboot-modules"]
