"""The execution module `role`: the role that a minion id names."""

from __future__ import annotations

import pytest

from saltmodules import functions


@pytest.mark.parametrize(("minion_id", "role"), [("web-2", "web"), ("big-web-10", "big-web")])
def test_role_is_the_id_without_its_number(minion_id: str, role: str) -> None:
    assert functions(minion_id, {}, {})["role.own"]() == role
