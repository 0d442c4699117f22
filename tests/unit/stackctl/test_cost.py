"""Costs follow from the price file, the profiles, the map and the settings; a budget is kept."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import yaml

from stackctl import cli, cost, profiles
from stackctl.counts import Bounds
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError, StackError

# 730 hours: t2.micro 9.198, gp3 10 GB 0.88, address 3.65
PRIVATE = Decimal("10.078")
MACHINE = Decimal("13.728")


def total(deployment: Deployment, **usage: Any) -> Decimal:
    counts = cost.machine_counts(deployment)
    return cost.estimate(deployment, counts, cost.Usage(**usage)).total


def settings(deployment: Deployment, **changed: Any) -> None:
    data = yaml.safe_load(deployment.settings_path.read_text())
    deployment.settings_path.write_text(yaml.safe_dump({"settings": data["settings"] | changed}))


def change_profile(deployment: Deployment, old: str, new: str) -> None:
    path = deployment.root / "cloud.profiles.d" / "machines.conf"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_small_map_is_six_machines_of_which_two_are_public(prod: Deployment) -> None:
    found = cost.estimate(prod, cost.machine_counts(prod))
    assert {row.role: row.machines for row in found.rows} == {
        "salt": 1, "lb": 1, "postgres": 1, "redis": 1, "web": 2,
    }  # fmt: skip
    assert {row.role: row.total / row.machines for row in found.rows} == {
        "salt": MACHINE, "lb": MACHINE, "postgres": PRIVATE, "redis": PRIVATE, "web": PRIVATE,
    }  # fmt: skip
    assert found.total == Decimal("67.77")


def test_number_that_the_master_chooses_counts_with_its_maximum(prod: Deployment) -> None:
    settings(prod, machines={"web": {"minimum": 2, "maximum": 5}})
    assert cost.machine_counts(prod)["web"] == 5
    assert cost.machine_counts(prod, {"web": Bounds(3, 3)})["web"] == 3


def test_profile_decides(prod: Deployment) -> None:
    change_profile(prod, "associate_public_ip: true", "associate_public_ip: false")
    # The site keeps its Elastic IP.
    assert total(prod) == (5 * PRIVATE + MACHINE).quantize(cost.CENT)
    change_profile(prod, "Ebs.VolumeSize: 10", "Ebs.VolumeSize: 20")
    assert total(prod) == (5 * PRIVATE + MACHINE + 6 * Decimal("0.88")).quantize(cost.CENT)


def test_unlimited_credits_are_counted_as_if_they_were_used(prod: Deployment) -> None:
    change_profile(prod, "credit_specification: standard", "credit_specification: unlimited")
    rows = cost.estimate(prod, {"web": 2}).rows
    assert rows[0].surplus == 2 * 730 * Decimal("0.9") * Decimal("0.05")
    change_profile(prod, "  credit_specification: unlimited\n", "")
    assert cost.estimate(prod, {"web": 2}).rows[0].surplus == 0, "T2 is standard by default"
    change_profile(prod, "size: t2.micro", "size: t3.micro")
    surplus = 2 * 730 * Decimal("1.8") * Decimal("0.05")
    assert cost.estimate(prod, {"web": 2}).rows[0].surplus == surplus, "T3 is unlimited by default"


def test_traffic_and_storage(prod: Deployment) -> None:
    base = total(prod)
    assert total(prod, transfer_gb=Decimal(100)) == base, "100 GB are free"
    assert total(prod, transfer_gb=Decimal(300)) == base + 18
    assert total(prod, s3_gb=Decimal(100)) == base + Decimal("2.30")


def test_type_without_a_price_is_named(prod: Deployment) -> None:
    change_profile(prod, "size: t2.micro", "size: m7i.large")
    with pytest.raises(StackError, match=r"prices\.yaml has no price of m7i\.large"):
        total(prod)


def test_each_alternative_is_compared_with_what_it_replaces(prod: Deployment) -> None:
    found = cost.estimate(prod, cost.machine_counts(prod))
    others = {other.what.split(",")[0]: other for other in cost.alternatives(prod, found)}
    assert others["6 x t3.micro"].change == 6 * 730 * (Decimal("0.0114") - Decimal("0.0126"))
    assert others["6 x t4g.micro"].change < others["6 x t3.micro"].change < 0
    alb = 730 * (Decimal("0.0252") + Decimal("0.008") + 2 * Decimal("0.005"))
    assert others["ALB with one LCU"].change == alb - MACHINE
    assert {"RDS", "ElastiCache", "MWAA"} <= {*others}
    ways_out = {
        "NAT gateway in each of 3 zones": 3 * 730 * Decimal("0.053"),
        "NAT instance": Decimal("9.198") + 8 * Decimal("0.088") + Decimal("3.65"),
        "public addresses of 4 private machines": 4 * Decimal("3.65"),
    }
    for what, month in ways_out.items():
        assert (others[what].instead_of, others[what].change) == ("proxy on the Salt master", month)
    assert not others["MWAA"].confirmed, "nobody has seen that price in a list"


def test_extends_is_followed_to_the_end(prod: Deployment) -> None:
    path = prod.root / "cloud.profiles.d" / "more.conf"
    path.write_text("a: {extends: web, size: t3.micro}\nb: {extends: c}\nc: {extends: b}\n")
    found = profiles.resolve(prod, "a")
    assert (found["size"], found["securitygroupname"]) == ("t3.micro", "airflow-web")
    assert found["credit_specification"] == "standard"
    assert profiles.resolve(prod, "b") == {}, "a circle ends"


# -- the budget ------------------------------------------------------------------------------------


def test_budget_is_kept(prod: Deployment) -> None:
    cost.require_within_budget(prod)  # there is none
    settings(prod, budget=67.77)
    cost.require_within_budget(prod)
    with pytest.raises(PreflightError) as caught:
        cost.require_within_budget(prod, {"web": Bounds(2, 3)})
    assert caught.value.what == (
        "prod would cost 77.85 USD a month at most, and settings:budget in"
        " pillar/prod/settings.sls is 67.77."
    )
    assert "--over-budget" in caught.value.hint


@pytest.mark.parametrize(
    "verb",
    [["plan"], ["up"], ["up", "--dry-run"], ["scale", "web=9"], ["scale", "web=2..9", "--dry-run"]],
    ids=" ".join,
)
def test_no_verb_exceeds_the_budget_without_the_flag(
    prod: Deployment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: list[str],
) -> None:
    settings(prod, budget=60)
    monkeypatch.setattr(cli, "repository_root", lambda: prod.root)
    went_on: list[str] = []
    for name in ("up", "plan"):
        monkeypatch.setattr(cli, name, _stop(went_on))
    monkeypatch.setattr("stackctl.planning.plan", lambda *_: iter(["a line"]))
    monkeypatch.setattr("stackctl.scale.scale", _stop(went_on))
    monkeypatch.setattr("stackctl.scale.plan", _stop(went_on))
    assert cli.main([*verb, "-d", "prod"]) == 1
    assert "settings:budget" in capsys.readouterr().err
    assert went_on == []
    code = cli.main([*verb, "--over-budget", "-d", "prod"])
    assert "settings:budget" not in capsys.readouterr().err
    assert code == 0 if verb == ["plan"] else went_on


def _stop(went_on: list[str]) -> Any:
    def act(*_: object, **__: object) -> None:
        went_on.append("yes")
        raise StackError("It went on.")

    return act


# -- the command -----------------------------------------------------------------------------------


def test_cost_is_printed_by_role(
    prod: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "repository_root", lambda: prod.root)
    assert cli.main(["cost", "-d", "prod"]) == 0
    printed = capsys.readouterr().out
    assert any(line.split() == ["all", "67.77"] for line in printed.splitlines())
    assert any(line.startswith("web ") and line.endswith("20.16") for line in printed.splitlines())
    assert all(len(line) <= 80 for line in printed.splitlines()[:-1]), printed
    assert cost.prices().date in printed
    assert cli.main(["cost", "-d", "prod", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 67.77
