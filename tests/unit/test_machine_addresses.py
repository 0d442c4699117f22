"""Addresses from EC2: what the master records of them, and the pillar that a minion gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import salt.config
import salt.pillar
import yaml
from salt.exceptions import CommandExecutionError

from plainpillar import ROOT
from saltmodules import load

PILLAR = {
    "aws": {"region": "eu-west-1", "project": "stack", "vpc": {"cidr": "10.20.0.0/16"}},
    "settings": {"deployment": "prod"},
}
KNOWN = {"lb-1": "10.20.1.4", "web-1": "10.20.1.2"}


def instance(name: str, address: str | None, state: str = "running") -> dict[str, Any]:
    """Return an instance as EC2 describes it; a terminated one has no address."""
    tags = {"Name": name, "project": "stack", "deployment": "prod"}
    told = {} if address is None else {"PrivateIpAddress": address}
    return {
        "State": {"Name": state},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        **told,
    }


class Ec2:
    """The client of EC2 in the module `aws`."""

    def __init__(self, *instances: dict[str, Any]) -> None:
        self.instances = instances
        self.failure: CommandExecutionError | None = None

    def describe_instances(self, **asked: Any) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        names = {one["Name"]: one["Values"] for one in asked["Filters"]}
        assert names == {"tag:project": ["stack"], "tag:deployment": ["prod"]}
        return {"Reservations": [{"Instances": [one]} for one in self.instances]}


Record = Callable[..., dict[str, str]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """`record(ec2, accepted)`: have the master record what EC2 says."""
    memory: dict[str, Any] = {}  # of Salt, which lives longer than a run on a minion

    def recorded(ec2: Ec2, accepted: Sequence[str] = tuple(KNOWN)) -> dict[str, str]:
        opts = {"test": False}
        aws = load("_modules", "aws", __context__=memory, __pillar__=PILLAR, __opts__=opts)
        monkeypatch.setattr(aws, "_client", lambda *_, **__: ec2)
        salt = {f"aws.{name}": getattr(aws, name) for name in ("forget", "own", "tags_of")}
        module = addresses_module(salt | {"role.accepted": lambda: [*accepted]})
        answer = module.record(str(tmp_path / "folder/addresses.json"))
        assert answer == pillar_of(tmp_path / "folder/addresses.json")
        return dict(answer)

    return recorded


def addresses_module(salt: Mapping[str, Any]) -> ModuleType:
    return load("_modules", "machine_addresses", __pillar__=PILLAR, __salt__=salt)


def pillar_of(path: Path) -> dict[str, str]:
    """Return the pillar `addresses` that is made of a record."""
    given: dict[str, dict[str, str]] = load("_pillar", "machine_addresses").ext_pillar(
        "web-1", {}, str(path)
    )
    assert list(given) == ["addresses"]
    return given["addresses"]


def ec2_of(addresses: Mapping[str, str]) -> Ec2:
    return Ec2(*(instance(name, address) for name, address in addresses.items()))


def test_record_has_what_ec2_says_of_accepted_machines(record: Record) -> None:
    assert record(ec2_of(KNOWN | {"web-9": "10.20.1.9"})) == KNOWN


def test_record_follows_ec2(record: Record) -> None:
    record(ec2_of(KNOWN))
    moved = KNOWN | {"web-1": "10.20.3.7"}
    assert record(ec2_of(moved)) == moved


def test_machine_without_a_key_is_forgotten(record: Record) -> None:
    record(ec2_of(KNOWN))
    assert record(ec2_of(KNOWN), ["lb-1"]) == {"lb-1": KNOWN["lb-1"]}


def test_stopped_machine_keeps_its_address_and_a_terminated_one_its_last(record: Record) -> None:
    record(ec2_of(KNOWN))
    lost = Ec2(
        instance("web-1", KNOWN["web-1"], "stopped"), instance("lb-1", None, "shutting-down")
    )
    assert record(lost) == KNOWN


def test_last_address_of_a_lost_machine_is_not_another_ones(record: Record) -> None:
    """EC2 gives a free address to whoever is launched next."""
    record(ec2_of(KNOWN))
    assert record(ec2_of({"web-2": KNOWN["web-1"]}), ["web-1", "web-2"]) == {
        "web-2": KNOWN["web-1"]
    }


def test_machine_that_is_being_replaced_has_the_new_address(record: Record) -> None:
    record(ec2_of(KNOWN))
    both = Ec2(
        instance("web-1", KNOWN["web-1"], "shutting-down"),
        instance("web-1", "10.20.2.2"),
        instance("lb-1", None, "pending"),
    )
    assert record(both) == KNOWN | {"web-1": "10.20.2.2"}


def test_silent_ec2_leaves_the_record(record: Record) -> None:
    record(ec2_of(KNOWN))
    silent = Ec2()
    silent.failure = CommandExecutionError("no route to EC2")
    assert record(silent) == KNOWN


def test_silent_ec2_stops_a_run_that_needs_a_new_address(record: Record) -> None:
    record(ec2_of(KNOWN))
    silent = Ec2()
    silent.failure = CommandExecutionError("no route to EC2")
    with pytest.raises(CommandExecutionError, match=r"^the address of web-2 .*no route to EC2"):
        record(silent, [*KNOWN, "web-2"])


@pytest.mark.parametrize(
    ("instances", "reason"),
    [
        (
            [instance("web-1", "10.20.1.2"), instance("web-1", "10.20.1.3")],
            "EC2 has two machines web-1: 10.20.1.2 and 10.20.1.3",
        ),
        ([instance("web-1", "172.31.0.9")], "172.31.0.9, which is not in 10.20.0.0/16"),
    ],
)
def test_what_cannot_be_stops_the_run(
    record: Record, instances: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(CommandExecutionError, match=reason):
        record(Ec2(*instances), ["web-1"])


def test_damaged_record_is_written_anew(record: Record, tmp_path: Path) -> None:
    file = tmp_path / "folder/addresses.json"
    file.parent.mkdir()
    file.write_text('{"web-1": "10.2')
    with pytest.raises(ValueError, match="Unterminated"):
        pillar_of(file)
    assert record(ec2_of(KNOWN)) == KNOWN
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_unchanged_record_is_not_written(record: Record, tmp_path: Path) -> None:
    record(ec2_of(KNOWN))
    before = (tmp_path / "folder/addresses.json").stat()
    record(ec2_of(KNOWN))
    after = (tmp_path / "folder/addresses.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_pillar_before_the_first_record_is_empty(tmp_path: Path) -> None:
    assert pillar_of(tmp_path / "absent.json") == {}


def test_master_gives_every_minion_the_record(tmp_path: Path) -> None:
    """By Salt's own compiler, with the lines of the master's configuration."""
    template = (ROOT / "salt/master/files/master.conf.j2").read_text()
    record = tmp_path / "addresses.json"
    record.write_text(json.dumps(KNOWN))
    begin = template.index("ext_pillar:")
    lines = template[begin : template.index("#", begin)].replace("{{ addresses }}", str(record))
    (tmp_path / "pillar").mkdir()
    (tmp_path / "pillar/top.sls").write_text("base: {'*': [own]}")
    (tmp_path / "pillar/own.sls").write_text("addresses: {web-1: 10.20.1.99}")
    opts = salt.config.apply_master_config(
        {
            "module_dirs": [str(ROOT / "salt")],
            "pillar_roots": {"base": [str(tmp_path / "pillar")]},
            "cachedir": str(tmp_path / "cache"),
            **yaml.safe_load(lines),
        }
    )
    grains = {"id": "web-1", "ipv4": ["10.20.1.99"], "fqdn_ip4": ["10.20.1.99"]}
    compiled = salt.pillar.Pillar(opts, grains, "web-1", "base").compile_pillar()
    assert compiled["addresses"] == KNOWN


def test_nothing_asks_machines_for_what_steers_others() -> None:
    """No state, module or template reads Salt's mine, or asks other minions by `publish`."""
    files = [path for path in (ROOT / "salt").rglob("*") if path.suffix in (".py", ".sls", ".j2")]
    assert len(files) > 100
    asking = ("mine.get", "publish.publish", "publish.full_data", "mine_functions")
    assert [
        f"{path}: {word}" for path in files for word in asking if word in path.read_text()
    ] == []
