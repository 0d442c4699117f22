"""The driver's policy.json is enough to launch, query and destroy, and holds nothing that this does not need.

moto weighs actions, not resources or conditions: those are left out here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moto.core import set_initial_no_auth_action_count

from saltext.ec2 import _archive, _client, _login, _session, host_keys
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import Ec2Error, QueryFailed

POLICY = json.loads((Path(driver.__file__).parents[1] / "docs" / "policy.json").read_text())
ACTIONS = sorted(
    action
    for statement in POLICY["Statement"]
    for action in (
        [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
    )
)
UNSEEN = {"iam:PassRole"}  # moto asks for it nowhere


@pytest.fixture
def life(
    ec2: Any,
    spot_requests: set[str],
    machine: Callable[..., dict[str, Any]],
    opts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[list[str]], None]:
    """Return the life of a machine, lived by a user who may do the given actions."""
    iam = _client._new_session(region_name="eu-west-1").client("iam")
    iam.create_user(UserName="salt")
    key = iam.create_access_key(UserName="salt")["AccessKey"]
    monkeypatch.setattr(_archive, "build", lambda *_: b"")
    monkeypatch.setattr(_login, "wait_for_port", lambda *_: None)
    monkeypatch.setattr(_session, "run", lambda *_: None)
    monkeypatch.setattr(host_keys, "from_console", lambda _: ["ssh-ed25519 AAAA"])
    (tmp_path / "key").touch()
    opts |= {"deploy": True, "private_key": str(tmp_path / "key")}
    given = machine(
        "web-1", securitygroup="web", subnetname="a", spot_config={"type": "persistent"}
    )

    def live(actions: list[str]) -> None:
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="salt", PolicyName="salt-cloud", PolicyDocument=document)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        _client._connect.cache_clear()

        def lived() -> None:
            driver.create(dict(given))
            driver.list_nodes_full()
            for act in (driver.reboot, driver.stop, driver.start):
                act("web-1", call="action")
            driver.destroy("web-1")

        set_initial_no_auth_action_count(0)(lived)()

    return live


def test_the_policy_is_enough(life: Callable[[list[str]], None]) -> None:
    life(ACTIONS)


@pytest.mark.parametrize(
    "action",
    [action for action in ACTIONS if action not in UNSEEN and action != "ssm:GetParameters"],
)
def test_nothing_in_the_policy_is_needless(life: Callable[[list[str]], None], action: str) -> None:
    with pytest.raises((Ec2Error, QueryFailed), match=action.partition(":")[2]):
        life([other for other in ACTIONS if other != action])
