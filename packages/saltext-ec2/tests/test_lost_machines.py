"""The key of a machine that EC2 has lost goes, or salt-cloud says with an error how it goes."""

from __future__ import annotations

import pytest

from sandbox import Sandbox


@pytest.fixture
def lost(sandbox: Sandbox) -> Sandbox:
    """A machine `n1` that somebody terminated without salt-cloud, and `n2`, which runs."""
    sandbox.launch("n1", "n2")
    sandbox.ec2.terminate_instances(InstanceIds=[sandbox.instances()["n1"]["InstanceId"]])
    return sandbox


@pytest.mark.parametrize(
    "arguments", [("-d", "n1"), ("-d", "n1", "n2"), ("-d", "-m", "{folder}/map")]
)
def test_destroy_removes_key_of_lost_machine_or_says_how(
    lost: Sandbox, arguments: tuple[str, ...]
) -> None:
    lost.write("map", {"p1": ["n1"]})
    done = lost.salt_cloud(*(word.format(folder=lost.folder) for word in arguments))
    if "n1" in lost.accepted_keys():
        assert done.code
        assert "salt-key" in done.output
        assert "n1" in done.output


def test_destroy_of_lost_machine_spares_nobody_else(lost: Sandbox) -> None:
    lost.salt_cloud("-d", "n1")
    assert set(lost.instances()) == {"n2"}
    assert "n2" in lost.accepted_keys()


def test_destroy_beside_lost_machine_destroys_the_others(lost: Sandbox) -> None:
    lost.salt_cloud("-d", "n1", "n2")
    assert not lost.instances()
    assert "n2" not in lost.accepted_keys()


def test_execution_module_removes_key_of_lost_machine_or_says_how(lost: Sandbox) -> None:
    done = lost.run("salt-call", "--local", "cloud.destroy", "n1")
    assert "Traceback" not in done.output
    if "n1" in lost.accepted_keys():
        assert done.code
        assert "salt-key" in done.output


def test_state_removes_key_of_lost_machine_or_says_how(lost: Sandbox) -> None:
    done = lost.run("salt-call", "--local", "state.single", "cloud.absent", "n1")
    (result,) = done.answer["local"].values()
    if "n1" in lost.accepted_keys():
        assert not result["result"]
        assert "salt-key" in result["comment"]


def test_destroy_of_name_without_machine_and_key_changes_nothing(lost: Sandbox) -> None:
    done = lost.salt_cloud("-d", "n9")
    assert "n9" not in done.stdout.replace("No machines", "")
    assert set(lost.instances()) == {"n2"}
    assert lost.accepted_keys() == {"n1", "n2"}
