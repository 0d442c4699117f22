"""Options that had no effect in the old driver and stand in many files."""

from __future__ import annotations

from typing import Any

from sandbox import Run, Sandbox

# What stands in files, and what to write instead; empty where there is nothing to write.
OBSOLETE: dict[str, tuple[Any, str]] = {
    "seed": (True, "deploy"),
    "win_deploy_auth_retries": (5, ""),
    "delete_ssh_keys": (True, ""),
    "del_all_vol_on_destroy": (True, "del_all_vols_on_destroy"),
    "delvol_on_destroy": (True, "del_root_vol_on_destroy"),
    "enable_term_protect": (True, "termination_protection"),
    "ssh_user": ("admin", "ssh_username"),
    "usernames": (["admin"], "ssh_username"),
}
# Options of Salt that people put into a profile, and where they belong.
PLACES = {
    "append_domain": "minion",
    "id_function": "minion",
    "flush_mine_on_destroy": "reactor",  # nothing in Salt reads it
    "enable_hard_maps": "main cloud configuration",
    "update_cachedir": "main cloud configuration",
    "diff_cache_events": "main cloud configuration",
    "pool_size": "main cloud configuration",
}


def assert_warned_once(done: Run) -> None:
    """Insist on one line for each obsolete option, which names its successor."""
    for name, (_, successor) in OBSOLETE.items():
        (line,) = [line for line in done.stderr.splitlines() if f" {name} " in line]
        assert successor in line


def test_obsolete_option_in_provider_is_a_warning(sandbox: Sandbox) -> None:
    sandbox.providers["one"] |= {name: value for name, (value, _) in OBSOLETE.items()}
    done = sandbox.salt_cloud("--profile=p1", "n1", "n2")
    assert not done.failed, done
    assert set(sandbox.instances()) == {"n1", "n2"}
    assert_warned_once(done)


def test_obsolete_option_in_profile_or_map_is_a_warning(sandbox: Sandbox) -> None:
    words = {name: value for name, (value, _) in OBSOLETE.items()}
    sandbox.profiles["p2"] = {**sandbox.profiles["p1"], **words}
    done = sandbox.apply({"p1": [{"n1": dict(words)}, {"n2": dict(words)}], "p2": ["n3"]})
    assert not done.failed, done
    assert set(sandbox.instances()) == {"n1", "n2", "n3"}
    assert_warned_once(done)


def test_mount_point_of_volume_is_a_warning(sandbox: Sandbox) -> None:
    volume = {"device": "/dev/sdf", "size": 1, "mount_point": "/srv"}
    sandbox.profiles["p1"]["volumes"] = [volume]
    done = sandbox.apply({"p1": ["n1", "n2"]})
    assert not done.failed, done
    assert done.stderr.count("mount_point") == 1
    assert set(sandbox.volumes("n1")) == {"/dev/sda1", "/dev/sdf"}


def test_option_without_effect_is_reported_once(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"] |= {"tty": True, "wait_for_spot_timeout": 5}
    done = sandbox.apply({"p1": ["n1", "n2", "n3"]}, "--parallel")
    assert not done.failed, done
    assert done.stderr.count("tty has no effect") == 1, done
    assert done.stderr.count("wait_for_spot_timeout has no effect") == 1, done


def test_word_that_nobody_used_stops_the_launch(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["sizze"] = "t3.micro"
    done = sandbox.salt_cloud("--profile=p1", "n1")
    sandbox.assert_refused(done, "p1", "sizze", "did you mean size")


def test_hint_names_where_option_belongs(sandbox: Sandbox) -> None:
    for option in PLACES:
        sandbox.profiles[f"p-{option}"] = {**sandbox.profiles["p1"], option: True}
    done = sandbox.apply({f"p-{option}": [f"n-{option}"] for option in PLACES})
    sandbox.assert_refused(done)
    for option, place in PLACES.items():
        lines = [line for line in done.output.splitlines() if f" {option}" in line]
        assert [line for line in lines if place in line], option
        assert [line for line in lines if "did you mean" in line] == []
