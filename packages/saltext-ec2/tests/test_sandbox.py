"""The tests' own sandbox launches, deploys and destroys as salt-cloud does."""

from __future__ import annotations

from sandbox import Sandbox


def test_map_launches_and_deploys_machines(sandbox: Sandbox) -> None:
    sandbox.write("deploy.sh", "touch deployed\n")
    done = sandbox.apply({"p1": ["n1", {"n2": {"size": "t3.small"}}]})
    assert not done.code, done
    assert set(done.answer) == set(sandbox.instances()) == sandbox.accepted_keys() == {"n1", "n2"}
    assert sandbox.instances()["n2"]["InstanceType"] == "t3.small"
    for instance in sandbox.instances().values():
        assert (sandbox.folder / "hosts" / instance["PrivateIpAddress"] / "deployed").exists()
    assert "RunInstances" in sandbox.changing_calls()


def test_destroy_removes_machine_and_key(sandbox: Sandbox) -> None:
    sandbox.launch("n1", "n2")
    done = sandbox.salt_cloud("--destroy", "n1")
    assert not done.code, done
    assert set(sandbox.instances()) == sandbox.accepted_keys() == {"n2"}
