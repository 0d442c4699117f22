"""The modules of the foundation, each branch: `ec2`, `key_pair`, `security_group`, `master_key`.

EC2 answers from memory; test_foundation.py applies the same states to an emulated account.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from salt.exceptions import CommandExecutionError

from saltmodules import load

REGION = "eu-west-1"
KEY = "ssh-ed25519 AAAA"
OTHER_KEY = "ssh-ed25519 BBBB"


class Calls:
    """EC2 as the module `ec2` calls it: answers by operation, and what was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.made: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, operation: str, region: str, **arguments: Any) -> Any:
        self.made.append((operation, region, arguments))
        return self.answers.get(operation, {})


# -- ec2 -------------------------------------------------------------------------------------------


class Client:
    """A client of boto3 with two operations."""

    def describe_things(self, **arguments: Any) -> dict[str, Any]:
        return {"asked": arguments}

    def refuse(self) -> None:
        raise ClientError({"Error": {"Code": "Denied", "Message": "no"}}, "Refuse")

    def lose(self) -> None:
        raise EndpointConnectionError(endpoint_url="https://ec2")


def test_call_asks_the_region_and_returns_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def client(service: str, region_name: str) -> Client:
        asked.append((service, region_name))
        return Client()

    ec2 = load("_modules", "ec2")
    monkeypatch.setattr(ec2.boto3, "client", client)
    assert ec2.call("describe_things", REGION, Name="a") == {"asked": {"Name": "a"}}
    assert asked == [("ec2", REGION)]


@pytest.mark.parametrize(("operation", "reason"), [("refuse", "Denied"), ("lose", "https://ec2")])
def test_failed_call_names_operation_and_reason(
    monkeypatch: pytest.MonkeyPatch, operation: str, reason: str
) -> None:
    ec2 = load("_modules", "ec2")
    monkeypatch.setattr(ec2.boto3, "client", lambda *_, **__: Client())
    with pytest.raises(CommandExecutionError, match=f"^{operation}: .*{reason}"):
        ec2.call(operation, REGION)


# -- key_pair --------------------------------------------------------------------------------------

DELETE = call.delete("deploy", REGION)
UPLOAD = call.upload("deploy", f"{KEY} a comment", REGION)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [([], None), ([{"PublicKey": f"{KEY} a comment"}], KEY), ([{}], "")],
)
def test_public_key(pairs: list[dict[str, str]], expected: str | None) -> None:
    ec2 = Calls(describe_key_pairs={"KeyPairs": pairs})
    module = load("_modules", "key_pair", __salt__={"ec2.call": ec2})
    assert module.public_key("deploy", REGION) == expected
    filters = [{"Name": "key-name", "Values": ["deploy"]}]
    assert ec2.made == [
        ("describe_key_pairs", REGION, {"Filters": filters, "IncludePublicKey": True})
    ]


def test_upload_and_delete_of_a_key_pair() -> None:
    ec2 = Calls()
    module = load("_modules", "key_pair", __salt__={"ec2.call": ec2})
    module.upload("deploy", KEY, REGION)
    module.delete("deploy", REGION)
    assert ec2.made == [
        ("import_key_pair", REGION, {"KeyName": "deploy", "PublicKeyMaterial": KEY.encode()}),
        ("delete_key_pair", REGION, {"KeyName": "deploy"}),
    ]


@pytest.mark.parametrize(
    ("old", "test", "result", "comment", "done"),
    [
        (KEY, False, True, "deploy holds the key", []),
        (KEY, True, True, "deploy holds the key", []),
        (None, True, None, "deploy would be created", []),
        (OTHER_KEY, True, None, "deploy would be replaced", []),
        (None, False, True, "deploy was created", [UPLOAD]),
        (OTHER_KEY, False, True, "deploy was replaced", [DELETE, UPLOAD]),
    ],
)
def test_key_pair_present(
    old: str | None, *, test: bool, result: bool | None, comment: str, done: list[Any]
) -> None:
    ec2 = Calls(describe_key_pairs={"KeyPairs": [{"PublicKey": old}] if old else []})
    writes = Mock()
    module = load("_modules", "key_pair", __salt__={"ec2.call": ec2})
    salt = {f"key_pair.{name}": getattr(module, name) for name in ("public_key", "material")}
    salt |= {f"key_pair.{name}": getattr(writes, name) for name in ("upload", "delete")}
    state = load("_states", "key_pair", __salt__=salt, __opts__={"test": test})
    assert state.present("deploy", f"{KEY} a comment", REGION) == {
        "name": "deploy",
        "result": result,
        "changes": {} if old == KEY else {"old": old, "new": KEY},
        "comment": comment,
    }
    assert writes.method_calls == done


# -- security_group --------------------------------------------------------------------------------

RULES = [
    {"SecurityGroupRuleId": "sgr-4", "IsEgress": False, "CidrIpv4": "10.0.0.0/8"},
    {"SecurityGroupRuleId": "sgr-6", "IsEgress": False, "CidrIpv6": "::/0"},
    {"SecurityGroupRuleId": "sgr-l", "IsEgress": False, "PrefixListId": "pl-1"},
    {"SecurityGroupRuleId": "sgr-e", "IsEgress": True, "CidrIpv6": "::/0"},
]
PORTS = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 23}


def test_unmanaged_rules_are_those_of_other_sources() -> None:
    rules = [rule | PORTS for rule in RULES]
    ec2 = Calls(describe_security_group_rules={"SecurityGroupRules": rules})
    module = load("_modules", "security_group", __salt__={"ec2.call": ec2})
    assert module.unmanaged_ingress("sg-1", REGION) == {
        "sgr-6": "tcp 22-23 from ::/0",
        "sgr-l": "tcp 22-23 from pl-1",
    }
    filters = [{"Name": "group-id", "Values": ["sg-1"]}]
    module.revoke_ingress("sg-1", ("sgr-6",), REGION)
    assert ec2.made == [
        ("describe_security_group_rules", REGION, {"Filters": filters}),
        (
            "revoke_security_group_ingress",
            REGION,
            {"GroupId": "sg-1", "SecurityGroupRuleIds": ["sgr-6"]},
        ),
    ]


@pytest.mark.parametrize(
    ("group_id", "found", "test", "result", "comment", "revoked"),
    [
        (None, {}, True, None, "there is no group web in main", []),
        (None, {}, False, False, "there is no group web in main", []),
        ("sg-1", {}, True, True, "web holds no such rule", []),
        ("sg-1", {}, False, True, "web holds no such rule", []),
        ("sg-1", {"b": "2", "a": "1"}, True, None, "2 rules would be removed from web", []),
        ("sg-1", {"b": "2", "a": "1"}, False, True, "2 rules were removed from web", ["b", "a"]),
    ],
)
def test_no_unmanaged_ingress(
    group_id: str | None,
    found: dict[str, str],
    *,
    test: bool,
    result: bool | None,
    comment: str,
    revoked: list[str],
) -> None:
    salt = {
        "boto3_secgroup.get_group_id": Mock(return_value=group_id),
        "security_group.unmanaged_ingress": Mock(return_value=found),
        "security_group.revoke_ingress": (revoke := Mock()),
    }
    state = load("_states", "security_group", __salt__=salt, __opts__={"test": test})
    assert state.no_unmanaged_ingress("web", "main", REGION) == {
        "name": "web",
        "result": result,
        "changes": {"old": ["1", "2"], "new": []} if found else {},
        "comment": comment,
    }
    salt["boto3_secgroup.get_group_id"].assert_called_once_with(
        "web", vpc_name="main", region=REGION
    )
    assert revoke.mock_calls == ([call("sg-1", revoked, REGION)] if revoked else [])


# -- master_key ------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_key_between_the_pem_lines(tmp_path: Path) -> None:
    body = b64encode(b"a key").decode()
    pem = tmp_path / "master.pub"
    pem.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    module = load("_modules", "master_key")
    digest = hashlib.sha256(f"{body}\n".encode()).hexdigest()
    assert module.finger(str(pem)).replace(":", "") == digest


def test_missing_key_is_named(tmp_path: Path) -> None:
    module = load("_modules", "master_key")
    with pytest.raises(CommandExecutionError, match="has salt-master started"):
        module.finger(str(tmp_path / "master.pub"))
