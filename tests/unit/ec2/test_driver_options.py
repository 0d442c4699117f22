"""The table of options: what it refuses, and what it tells the reader of the docs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import salt.config

from saltext.ec2 import _options
from saltext.ec2._errors import ConfigurationError

DOCS = Path(__file__).parents[3] / "docs" / "driver-options.md"

# Every option in the old driver's documentation, Salt 3007: topics/cloud/aws, and the head of the module.
OLD = """
    availability_zone block_device_mappings del_all_vols_on_destroy del_root_vol_on_destroy driver
    ebs_optimized endpoint grains iam_profile id image key keyname location minion network_interfaces owner
    placementgroup private_key rename_on_destroy role_arn script securitygroup securitygroupid seed
    service_url size spot_config ssh_connect_timeout ssh_gateway ssh_gateway_key ssh_gateway_port
    ssh_gateway_user ssh_interface ssh_username subnetid sync_after_install tag token userdata_file volumes
    wait_for_spot_interval wait_for_spot_interval_multiplier wait_for_spot_max_failures wait_for_spot_timeout
    win_deploy_auth_retries win_deploy_auth_retry_delay win_installer win_password win_username
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", OLD)
def test_no_option_of_the_old_driver_is_unknown(name: str) -> None:
    option = _options.TABLE[name]
    if option.status == "refused":
        with pytest.raises(ConfigurationError, match=f"{name} is not supported. {option.text}"):
            _options.check([name], "profile web")
    else:
        _options.check([name], "profile web")


def test_the_reference_is_the_table() -> None:
    """Write it again with: python -m saltext.ec2._options > docs/driver-options.md."""
    assert DOCS.read_text() == _options.document()


def test_no_option_stands_in_the_table_twice() -> None:
    names = [option.name for option in _options.OPTIONS]
    assert len(names) == len(set(names))


def test_a_refused_option_says_what_to_use() -> None:
    with pytest.raises(ConfigurationError, match=r"profile web: service_url is not supported. Set endpoint_url"):
        _options.check(["service_url"], "profile web")


def test_a_needless_option_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _options.check(["wait_for_spot_interval"], "profile web")
    assert "wait_for_spot_interval has no effect" in caplog.text


def test_an_option_of_the_main_configuration_is_salts_affair() -> None:
    _options.check(["worker_threads"], "web-1", {"worker_threads"})
    with pytest.raises(ConfigurationError, match="worker_threads"):
        _options.check(["worker_threads"], "profile web")


def test_map_outranks_profile_outranks_provider_outranks_the_main_configuration() -> None:
    opts: dict[str, Any] = {
        **salt.config.DEFAULT_CLOUD_OPTS,
        "ssh_interface": "main",
        "providers": {"cloud": {"ec2": {"ssh_interface": "provider", "size": "provider"}}},
        "profiles": {"web": {"size": "profile"}},
    }
    machine: dict[str, Any] = {"driver": "cloud:ec2", "profile": "web", "name": "web-1"}
    resolved = _options.resolve(machine, opts)
    assert resolved["ssh_interface"] == "provider"
    assert resolved["on_failure"] == "keep"
    opts["providers"]["cloud"]["ec2"].clear()
    resolved = _options.resolve(machine, opts)
    assert (resolved["ssh_interface"], resolved["size"]) == ("main", "profile")
    assert _options.resolve({**machine, "size": "map"}, opts)["size"] == "map"


def test_a_default_is_not_changed_by_what_a_profile_says() -> None:
    opts: dict[str, Any] = {
        "providers": {"cloud": {"ec2": {}}},
        "profiles": {"web": {"metadata_options": {"HttpTokens": "optional"}}, "db": {}},
    }
    machine = {"driver": "cloud:ec2", "name": "m"}
    assert _options.resolve({**machine, "profile": "web"}, opts)["metadata_options"] == {"HttpTokens": "optional"}
    assert _options.resolve({**machine, "profile": "db"}, opts)["metadata_options"] == {}
