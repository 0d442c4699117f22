"""Several providers of one account and region, as Salt documents them for availability zones."""

from __future__ import annotations

import pytest

from sandbox import REGION, Sandbox


@pytest.fixture
def two(sandbox: Sandbox) -> Sandbox:
    """Return a sandbox with a second provider, `two`, that differs by its zone, and profile p2."""
    sandbox.providers["two"] = {"extends": "one:ec2", "availability_zone": f"{REGION}b"}
    sandbox.profiles["p2"] = {**sandbox.profiles["p1"], "provider": "two", "subnetname": "b"}
    return sandbox


def listed(sandbox: Sandbox, query: str = "--query") -> list[str]:
    """Return the names that a query lists, one for each time that it is listed."""
    done = sandbox.salt_cloud(query)
    assert not done.code, done
    drivers = [driver for provider in done.answer.values() for driver in provider.values()]
    return sorted(name for machines in drivers for name in machines)


def test_query_lists_machine_once(two: Sandbox) -> None:
    two.launch("a1")
    two.launch("b1", profile="p2")
    assert listed(two) == ["a1", "b1"]
    assert listed(two, "--full-query") == ["a1", "b1"]


def test_same_account_and_region_written_differently_is_listed_once(sandbox: Sandbox) -> None:
    sandbox.environment["AWS_REGION"] = REGION
    role = "use-instance-role-credentials"
    sandbox.providers |= {
        "location": {"driver": "ec2", "location": REGION},
        "region": {"driver": "ec2", "region": REGION},
        "environment": {"driver": "ec2"},
        "keys": {"driver": "ec2", "location": REGION, "id": "test", "key": "test"},
        "role": {"driver": "ec2", "location": REGION, "id": role, "key": role},
    }
    sandbox.launch("a1")
    assert listed(sandbox) == ["a1"]


def test_two_regions_are_both_queried(sandbox: Sandbox) -> None:
    sandbox.providers["two"] = {"extends": "one:ec2", "location": "eu-central-1"}
    sandbox.launch("a1")
    assert listed(sandbox) == ["a1"]
    sandbox.server.calls.clear()
    sandbox.salt_cloud("--query")
    assert sandbox.server.calls.count("DescribeInstances") == 2


@pytest.mark.parametrize("arguments", [(), ("--parallel",)], ids=["serial", "parallel"])
def test_destroy_of_machines_of_both_providers_succeeds(
    two: Sandbox, arguments: tuple[str, ...]
) -> None:
    two.launch("a1", "a2")
    two.launch("b1", "b2", profile="p2")
    done = two.salt_cloud(*arguments, "--destroy", "a2", "b1", "b2")
    assert not done.failed, done
    assert two.server.calls.count("TerminateInstances") <= 3
    assert set(two.instances()) == two.accepted_keys() == {"a1"}


def test_destroy_of_map_of_both_providers_succeeds(two: Sandbox) -> None:
    machines = {"p1": ["a1"], "p2": ["b1"]}
    assert not two.apply(machines).failed
    done = two.apply(machines, "--destroy")
    assert not done.failed, done
    assert two.instances() == {}
    assert two.accepted_keys() == set()


@pytest.mark.parametrize("action", ["show_instance", "stop"])
def test_action_finds_machine_of_second_provider(two: Sandbox, action: str) -> None:
    two.launch("b1", profile="p2")
    done = two.salt_cloud(f"--action={action}", "b1")
    assert not done.failed, done
    assert "Not Found" not in done.output


def test_second_map_run_launches_nothing(two: Sandbox) -> None:
    machines = {"p1": ["a1"], "p2": ["b1"]}
    assert not two.apply(machines).failed
    two.server.calls.clear()
    done = two.apply(machines)
    assert not done.failed, done
    assert two.changing_calls() == []


def test_hard_map_keeps_machines_of_both_providers(two: Sandbox) -> None:
    two.main["enable_hard_maps"] = True
    machines = {"p1": ["a1"], "p2": ["b1"]}
    assert not two.apply(machines).failed
    done = two.apply(machines, "--hard")
    assert set(two.instances()) == two.accepted_keys() == {"a1", "b1"}, done


def test_failed_deployment_is_repaired_under_second_provider(two: Sandbox) -> None:
    two.write("deploy.sh", "exit 1\n")
    assert two.apply({"p2": ["b1"]}).failed
    two.write("deploy.sh", "true\n")
    done = two.apply({"p2": ["b1"]})
    assert not done.failed, done
    assert two.server.calls.count("RunInstances") == 1


@pytest.mark.parametrize("provider", ["one:ec2", "two:ec2"])
def test_map_chooses_provider_with_driver(two: Sandbox, provider: str) -> None:
    done = two.apply({"p1": [{"c1": {"provider": provider}}]})
    assert not done.failed, done
    assert set(two.instances()) == {"c1"}


def test_map_with_provider_without_driver_works_or_is_refused(two: Sandbox) -> None:
    done = two.apply({"p1": [{"c1": {"provider": "two"}}]})
    if done.failed:
        two.assert_refused(done, "c1", "two", "two:ec2")
    else:
        assert set(two.instances()) == {"c1"}


@pytest.mark.parametrize("provider", ["nosuch", "nosuch:ec2", "a:b:c"])
def test_map_with_unknown_provider_is_refused(two: Sandbox, provider: str) -> None:
    done = two.apply({"p1": [{"c1": {"provider": provider}}]})
    two.assert_refused(done, "c1", provider, "two:ec2")
