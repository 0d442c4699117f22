"""Options that stand where nothing reads them."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Sandbox

# Words of Salt's own configuration, which is handed to the driver along with the cloud's.
OF_SALT: dict[str, Any] = {
    "cachedir": "/tmp",
    "hash_type": "md5",
    "interface": "10.0.0.1",
    "log_level": "debug",
    "pool_size": 3,
    "root_dir": "/srv",
    "timeout": 5,
    "user": "root",
}
MAIN_ONLY: dict[str, Any] = {
    "enable_hard_maps": True,
    "update_cachedir": True,
    "filter_events": {"created": {"keys": ["name"]}},
}
# These stand in many profiles and never did anything there: a warning, with what to do instead.
WITHOUT_EFFECT: dict[str, tuple[Any, str]] = {
    "sync_after_install": ("all", "main cloud configuration"),
    "flush_mine_on_destroy": (True, "reactor on salt/cloud/NAME/destroyed"),
}


def test_word_of_salt_in_map_is_refused(sandbox: Sandbox) -> None:
    options = enumerate(OF_SALT.items())
    done = sandbox.apply(
        {"p1": [{f"n{number}": {name: value}} for number, (name, value) in options]}
    )
    sandbox.assert_refused(done, *OF_SALT)


def test_word_of_salt_in_profile_is_refused(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["timeout"] = 5
    sandbox.assert_refused(sandbox.salt_cloud("--profile=p1", "n1"), "timeout")


@pytest.mark.parametrize("where", ["profile", "map"])
def test_option_of_main_file_elsewhere_is_refused(sandbox: Sandbox, where: str) -> None:
    machines: dict[str, Any] = {}
    for number, (option, value) in enumerate(MAIN_ONLY.items()):
        wrong = {option: value}
        sandbox.profiles[f"p-{number}"] = sandbox.profiles["p1"] | (
            wrong if where == "profile" else {}
        )
        machines[f"p-{number}"] = [{f"n{number}": wrong if where == "map" else {}}]
    done = sandbox.apply(machines)
    sandbox.assert_refused(done, "main cloud configuration", *MAIN_ONLY)


def test_option_of_main_file_in_provider_is_refused(sandbox: Sandbox) -> None:
    sandbox.providers["one"] |= MAIN_ONLY
    done = sandbox.salt_cloud("--profile=p1", "n1")
    sandbox.assert_refused(done, "main cloud configuration", *MAIN_ONLY)


@pytest.mark.parametrize("where", ["provider", "profile", "map"])
def test_option_that_is_read_nowhere_else_is_a_warning(sandbox: Sandbox, where: str) -> None:
    wrong = {name: value for name, (value, _) in WITHOUT_EFFECT.items()}
    if where != "map":
        (sandbox.providers["one"] if where == "provider" else sandbox.profiles["p1"]).update(wrong)
    done = sandbox.apply({"p1": [{"n1": wrong if where == "map" else {}}]})
    assert not done.failed, done
    assert set(sandbox.instances()) == {"n1"}
    for name, (_, hint) in WITHOUT_EFFECT.items():
        (line,) = [line for line in done.stderr.splitlines() if f" {name} " in line]
        assert hint in line


def start_actions(sandbox: Sandbox) -> list[str]:
    """Return what `salt-call` was told to run, on all machines."""
    return [path.read_text().strip() for path in sandbox.folder.glob("hosts/*/started")]


def test_start_action_of_main_file_runs_on_machine(sandbox: Sandbox) -> None:
    sandbox.write("bin/salt-call", 'echo "$*" > started\n', mode=0o755)
    sandbox.main["start_action"] = "state.apply"
    sandbox.launch("n1")
    assert start_actions(sandbox) == ["state.apply"]


def test_start_action_of_profile_or_map_runs_or_is_refused(sandbox: Sandbox) -> None:
    sandbox.write("bin/salt-call", 'echo "$*" > started\n', mode=0o755)
    action = {"start_action": "state.apply"}
    sandbox.profiles["p2"] = {**sandbox.profiles["p1"], **action}
    done = sandbox.apply({"p1": [{"n1": action}], "p2": ["n2"]})
    if done.failed:
        sandbox.assert_refused(done, "start_action", "main cloud configuration", "n1", "n2")
    else:
        assert start_actions(sandbox) == ["state.apply"] * 2
