"""What the table of roles says is what the states do: pillar/base/roles.sls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plainpillar import DEPLOYMENT, PlainPillar
from rendering import Chunk, Compiler, addresses
from saltmodules import functions, load

ROLES = DEPLOYMENT.base_pillar("roles")


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    return PlainPillar(tmp_path_factory.mktemp("pillar"))


@pytest.fixture
def chunks(pillar: PlainPillar, tmp_path: Path, role: str) -> list[Chunk]:
    """What a machine of the role runs, where the map has machines of every role."""
    compiler = Compiler(f"{role}-1", tmp_path / "minion", pillar)
    compiler.know(addresses() | {"monitor-1": "10.20.1.30"})
    return compiler.highstate().chunks


@pytest.mark.parametrize("role", ROLES)
def test_unit_is_the_one_that_the_states_run(chunks: list[Chunk], role: str) -> None:
    running = {chunk["name"] for chunk in chunks if chunk["state"] == "service"}
    assert ROLES[role]["unit"] in running


@pytest.mark.parametrize("role", ROLES)
def test_base_writes_what_status_reads(chunks: list[Chunk], role: str) -> None:
    (written,) = (chunk for chunk in chunks if chunk["__id__"] == "base-role")
    assert written["name"] == load("_modules", "role").DESCRIPTION
    assert written["dataset"].items() >= ROLES[role].items()


@pytest.mark.parametrize("role", [role for role in ROLES if "certificate" in ROLES[role]])
def test_certificate_is_the_file_of_its_secret(
    chunks: list[Chunk], pillar: PlainPillar, role: str
) -> None:
    certificate = ROLES[role]["certificate"]
    (written,) = (
        chunk
        for chunk in chunks
        if chunk["state"] == "file" and chunk["name"] == certificate["path"]
    )
    secret = pillar.secrets[certificate["secret"]]["certificate"]
    assert secret.strip() in written["contents"]


@pytest.mark.parametrize("role", ROLES)
def test_copies_and_trusts_are_all_files_with_that_certificate_and_the_ca(
    chunks: list[Chunk], pillar: PlainPillar, role: str
) -> None:
    """A rotation of the CA looks at these files, and at no other."""
    of_files = [chunk for chunk in chunks if chunk["state"] == "file"]

    def holding(certificate: dict[str, Any]) -> set[str]:
        secret = pillar.secrets[certificate["secret"]]["certificate"].strip()
        return {chunk["name"] for chunk in of_files if secret in str(chunk.get("contents", ""))}

    trusting = {
        chunk["name"]
        for chunk in of_files
        if chunk.get("contents_pillar") == "settings:ca_certificate"
        # Patroni's listener has a copy beside the one that its clients have.
        and chunk["__id__"] != "postgres-listener-ca"
    }
    senders = ROLES["monitor"]["senders"]
    assert trusting == {*ROLES[role].get("trusts", []), *senders["trusts"]}
    assert holding(senders) == {senders["path"]}
    if "receiver" in ROLES[role]:
        assert holding(ROLES[role]["receiver"]) == {ROLES[role]["receiver"]["path"]}
    certificate = ROLES[role].get("certificate")
    if certificate:
        assert holding(certificate) == {certificate["path"], *certificate.get("copies", [])}
    for shared in (row["certificate"] for row in ROLES.values() if "certificate" in row):
        if "everywhere" in shared:
            assert holding(shared) == {shared["path"], *shared["everywhere"].get(role, [])}


@pytest.mark.parametrize("role", ROLES)
def test_checked_endpoint_is_served_by_the_role(role: str) -> None:
    everything: dict[str, Any] = {
        name: DEPLOYMENT.base_pillar(name) for name in ("aws", "endpoints", "roles")
    }
    salt = functions("operator", everything | {"settings": {}}, {})
    served = {endpoint["name"] for endpoint in salt["endpoints.served_by"](role)}
    assert ROLES[role]["check"]["endpoint"] in served


def test_every_profile_has_a_role_in_the_table() -> None:
    assert set(ROLES) == set(replace(DEPLOYMENT, map_name="production").machines().values())
    assert set(ROLES) == set(DEPLOYMENT.base_pillar("aws")["security_groups"])
