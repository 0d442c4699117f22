"""A machine that is renamed is one machine, on EC2, on the master and on itself."""

from __future__ import annotations

from sandbox import Sandbox


def test_rename_of_running_minion_renames_minion_or_is_refused(sandbox: Sandbox) -> None:
    sandbox.launch("n1")
    logins = (sandbox.folder / "hosts/ssh.log").read_text()
    done = sandbox.salt_cloud("-a", "rename", "n1", "newname=n2")
    if done.code:
        assert set(sandbox.instances()) == sandbox.accepted_keys() == {"n1"}
        assert "minion" in done.stderr
    else:
        assert (sandbox.folder / "hosts/ssh.log").read_text() != logins, "nobody told the minion"
        assert set(sandbox.instances()) == sandbox.accepted_keys() == {"n2"}


def test_map_after_rename_finds_machine_by_its_new_name(sandbox: Sandbox) -> None:
    done = sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy")
    assert not done.code, done
    assert not sandbox.salt_cloud("-a", "rename", "n1", "newname=n2").code
    done = sandbox.apply({"p1": ["n2"]}, "--no-deploy")
    assert not done.code, done
    assert set(sandbox.instances()) == {"n2"}


def test_rename_to_name_of_another_machine_is_refused(sandbox: Sandbox) -> None:
    done = sandbox.apply({"p1": ["n1", "n2"]}, "--no-deploy")
    assert not done.code, done
    done = sandbox.salt_cloud("-a", "rename", "n1", "newname=n2")
    assert done.code
    assert "n2" in done.stderr
    assert set(sandbox.instances()) == {"n1", "n2"}


def test_rename_without_new_name_is_refused(sandbox: Sandbox) -> None:
    assert not sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy").code
    done = sandbox.salt_cloud("-a", "rename", "n1")
    assert done.code
    assert "newname" in done.stderr
