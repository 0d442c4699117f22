"""The table of roles is read as pillar/base/roles.sls has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stackctl.deployment import Deployment
from stackctl.errors import StackError
from stackctl.roles import Role, RoleTable

ROOT = Path(__file__).parents[3]


def test_production_table_names_role_of_every_machine_and_profile() -> None:
    deployment = Deployment("local", ROOT)
    table = deployment.role_table()
    for minion_id, profile in deployment.machines().items():
        role = table.of(minion_id)
        assert role is not None
        assert role.name == profile
    assert table.edge.name == "lb"
    assert table.of("mail-1") is None


def table(tmp_path: Path, text: str) -> RoleTable:
    (tmp_path / "roles.sls").write_text(text)
    return RoleTable.read(tmp_path, tmp_path / "roles.sls")


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    read = table(tmp_path, "{domain: example.internal, roles: {mail: {unit: postfix}}}")
    assert read.of("mail-3") == Role("mail", "postfix", "mail")
    row = (
        "{unit: a, service: b, certificate: {secret: c, members: 5, path: /f, copies: [/g]},"
        " check: {path: /d, expect: e}, trusts: [/h]}"
    )
    full = table(tmp_path, f"{{domain: example.internal, roles: {{web: {row}}}}}")
    assert full.of("web-1") == Role(
        "web",
        "a",
        "b",
        "c",
        "/d",
        "e",
        members=5,
        certificate_paths=("/f", "/g"),
        trusts=("/h",),
    )
    with pytest.raises(StackError, match=r"^No role of .* has the certificate edge-tls\."):
        _ = read.edge


@pytest.mark.parametrize("missing", ["domain", "roles", "unit", "secret"])
def test_missing_key_is_named(tmp_path: Path, missing: str) -> None:
    row = {"unit": "haproxy", "certificate": {"secret": "edge-tls"}}
    data = {"domain": "example.internal", "roles": {"lb": row}}
    for part in (data, row, row["certificate"]):
        if isinstance(part, dict):
            part.pop(missing, None)
    with pytest.raises(StackError, match=rf"roles\.sls has no key '{missing}'\."):
        table(tmp_path, yaml.safe_dump(data))
