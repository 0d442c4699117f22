"""Every state, pillar and template compiles for every machine of the map, and is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

from plainpillar import DEPLOYMENT, ROOT, PlainPillar
from rendering import (
    Chunk,
    Compiled,
    Compiler,
    addresses,
    missing_requisites,
    unknown_options,
)
from saltmodules import TREE

IDS = list(DEPLOYMENT.machines())
MONITOR = "monitor-1"
# Applied by the operator's own minion, before there is a machine: packages/stackctl.
OPERATOR = "operator"
BY_OPERATOR = ("aws",)
FIREWALL = "base-firewall-loaded"

Compile = Callable[[str], Compiler]


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    return PlainPillar(
        tmp_path_factory.mktemp("pillar"), ssh_public_key="ssh-ed25519 AAAA", operator_cidrs=[]
    )


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory, pillar: PlainPillar) -> Compile:
    """`compiler(id)`: Salt as that minion."""
    return cache(lambda minion_id: Compiler(minion_id, tmp_path_factory.mktemp(minion_id), pillar))


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, pillar: PlainPillar) -> Compile:
    """`monitored(id)`: Salt as that minion where there is a monitor machine."""

    @cache
    def new(minion_id: str) -> Compiler:
        compiler = Compiler(minion_id, tmp_path_factory.mktemp(minion_id), pillar)
        compiler.know(addresses() | {MONITOR: "10.20.1.30"})
        return compiler

    return new


@pytest.fixture(scope="module")
def everything(compiler: Compile, monitored: Compile) -> list[tuple[str, Compiled]]:
    """Minion ids and what the top file, the orchestration and the operator apply to each."""
    applied = [(minion_id, compiler(minion_id).highstate()) for minion_id in IDS]
    for orchestration in sorted((TREE / "orch").glob("*.sls")):
        plan = compiler(DEPLOYMENT.master()).states(f"orch.{orchestration.stem}")
        applied.append((DEPLOYMENT.master(), plan))
        for step in plan.chunks:
            if sls := step.get("sls"):
                target = step["tgt"][0]
                applied.append(
                    (target, compiler(target).states(*([sls] if isinstance(sls, str) else sls)))
                )
    applied += [(OPERATOR, compiler(OPERATOR).states(sls)) for sls in BY_OPERATOR]
    applied += [(minion_id, monitored(minion_id).highstate()) for minion_id in (*IDS, MONITOR)]
    return applied


@pytest.fixture(scope="module")
def chunks(everything: list[tuple[str, Compiled]]) -> list[tuple[str, Chunk]]:
    return [(minion_id, chunk) for minion_id, compiled in everything for chunk in compiled.chunks]


@pytest.mark.parametrize("minion_id", IDS)
def test_pillar_compiles(compiler: Compile, minion_id: str) -> None:
    assert compiler(minion_id).pillar().get("_errors", []) == []


def test_states_compile(everything: list[tuple[str, Compiled]]) -> None:
    assert [
        f"{minion_id}: {error}" for minion_id, compiled in everything for error in compiled.errors
    ] == []
    assert all(compiled.chunks for _, compiled in everything)


def test_requisites_exist(everything: list[tuple[str, Compiled]]) -> None:
    assert [
        missing for _, compiled in everything for missing in missing_requisites(compiled.chunks)
    ] == []


def test_state_options_exist(chunks: list[tuple[str, Chunk]]) -> None:
    assert sorted({unknown for _, chunk in chunks for unknown in unknown_options(chunk)}) == []


def test_machines_of_the_site_load_few_modules(chunks: list[tuple[str, Chunk]]) -> None:
    """A state with a condition makes Salt look through all of its modules, see salt/base/init.sls.

    PostgreSQL's ask what Patroni says after it has started, and the Salt master's are those of
    programs that run.
    """
    conditions = {"onlyif", "unless", "creates"}
    found = {
        (minion_id, chunk["__id__"]) for minion_id, chunk in chunks if conditions & chunk.keys()
    }
    assert {minion_id.partition("-")[0] for minion_id, _ in found} == {"postgres", "salt"}, found


def test_packages_that_one_call_installs_come_after_the_firewall(
    everything: list[tuple[str, Compiled]],
) -> None:
    """Debian starts what it installs, with its own settings. Salt loses packages of no list."""
    found = set()
    for minion_id, compiled in everything:
        order = [chunk["__id__"] for chunk in compiled.chunks]
        for chunk in compiled.chunks:
            if not chunk.get("aggregate"):
                continue
            found.add(chunk["__id__"])
            assert (chunk["state"], chunk["fun"]) == ("pkg", "installed")
            assert chunk["pkgs"], chunk["__id__"]
            if FIREWALL in order:
                before = order.index(FIREWALL)
                assert before < order.index(chunk["__id__"]), f"{minion_id}: {chunk['__id__']}"
    assert found == {"nginx-package", "stores-package"}


def test_every_sls_is_used(everything: list[tuple[str, Compiled]]) -> None:
    reached = {sls for _, compiled in everything for sls in compiled.sls}
    present = {
        ".".join(path.relative_to(TREE).with_suffix("").parts).removesuffix(".init")
        for path in TREE.rglob("*.sls")
        if path != TREE / "top.sls"
    }
    assert present - reached == set()


def test_every_file_is_used(chunks: list[tuple[str, Chunk]]) -> None:
    text = "\n".join(
        path.read_text()
        for path in TREE.rglob("*")
        if path.suffix in {".sls", ".yaml", ".j2", ".py", ".txt"}
    )
    unused = [
        str(path.relative_to(ROOT))
        for path in TREE.rglob("files/*")
        if path.is_file()
        and path.name not in text
        and f"salt://{path.relative_to(TREE).parent}\n" not in text
    ]
    assert unused == []


def test_sources_exist(chunks: list[tuple[str, Chunk]]) -> None:
    sources = {
        str(chunk["source"])
        for _, chunk in chunks
        if str(chunk.get("source", "")).startswith("salt://")
    }
    assert sources
    assert [
        source for source in sources if not (TREE / source.removeprefix("salt://")).exists()
    ] == []


def test_templates_render_from_their_context(
    compiler: Compile, chunks: list[tuple[str, Chunk]]
) -> None:
    failures = []
    for minion_id, chunk in chunks:
        if chunk.get("template") and chunk["fun"] == "managed":
            rendered = compiler(minion_id).render(chunk)
            if not rendered["result"]:
                failures.append(f"{minion_id}: {chunk['source']}: {rendered['data']}")
    assert failures == []


def test_files_with_secrets_are_private(
    compiler: Compile, pillar: PlainPillar, chunks: list[tuple[str, Chunk]]
) -> None:
    """A file with a secret, or its hash, is closed to other users and absent from the return."""
    open_files, checked = [], set()
    secrets = [value for name, value in pillar.values().items() if "certificate" not in name]
    secrets += [sha256(value.encode()).hexdigest() for value in secrets]
    for minion_id, chunk in chunks:
        if chunk["state"] != "file":
            continue
        content = str(chunk.get("contents", "")) + str(chunk.get("contents_pillar", ""))
        if chunk.get("template"):
            content += str(compiler(minion_id).render(chunk)["data"])
        if any(value in content for value in secrets) or (
            "secrets:" in str(chunk.get("contents_pillar", ""))
            and "certificate" not in str(chunk["contents_pillar"])
        ):
            checked.add(chunk["__id__"])
            if (
                not str(chunk.get("mode", "0644")).endswith("0")
                or chunk.get("show_changes") is not False
            ):
                open_files.append(f"{minion_id}: {chunk['__id__']}")
    assert open_files == []
    assert checked == {
        "airflow-owner",
        "airflow-secrets",
        "etcd-key",
        "haproxy-certificate",
        "haproxy-client",
        "haproxy-metrics",
        "journal-remote-certificate",
        "journal-upload-certificate",
        "master-cloud-key",
        "nginx-key",
        "node-exporter-certificate",
        "postgres-backup-config",
        "postgres-config",
        "postgres-key",
        "prometheus-password",
        "prometheus-postgres-config",
        "prometheus-redis-config",
        "redis-config",
        "redis-key",
        "redis-sentinel-config",
        "redis-sentinel-users",
        "redis-users",
        "stores-config",
    }


def test_checks_find_planted_mistakes(pillar: PlainPillar, tmp_path: Path) -> None:
    """The checks above can fail."""
    minion = Compiler("web-1", tmp_path / "minion", pillar)
    minion.opts["file_roots"] = {"base": [str(tmp_path)]}
    (tmp_path / "undefined.sls").write_text(
        "x:\n  file.managed:\n    - name: {{ pillar['absent'] }}\n"
    )
    assert any("absent" in error for error in minion.states("undefined").errors)
    (tmp_path / "wrong.sls").write_text(
        "x:\n  service.running:\n    - nmae: y\n    - require:\n      - file: z\n"
    )
    wrong = minion.states("wrong").chunks
    assert list(missing_requisites(wrong)) == ["wrong: x: require: file: z does not exist"]
    (tmp_path / "option.sls").write_text("x:\n  file.managed:\n    - show_diff: False\n")
    assert [
        text for chunk in minion.states("option").chunks for text in unknown_options(chunk)
    ] == ["x: file.managed does not take 'show_diff'"]
