"""The options of the driver: their table, their types, and the documents made from the table."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.config

import driver_docs
from saltext.ec2 import _option_types, _preflight, options
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import ConfigurationError

# The options that the documentation of Salt 3007 has for its ec2 driver: topics/cloud/aws, the head
# of the module, and of topics/cloud/misc and map what is not for other drivers alone.
DOCUMENTED = """
    availability_zone block_device_mappings del_all_vols_on_destroy del_root_vol_on_destroy
    deploy display_ssh_output driver ebs_optimized endpoint file_map file_transport
    force_minion_config grains iam_profile id image keep_tmp key keyname known_hosts_file
    location make_master master minion network_interfaces owner placementgroup preflight_cmds
    private_key provider rename_on_destroy requires role_arn salt_interface script script_args
    securitygroup securitygroupid securitygroupname seed service_url size spot_config ssh_agent
    ssh_connect_timeout ssh_gateway ssh_gateway_command ssh_gateway_password ssh_gateway_port
    ssh_gateway_private_key ssh_gateway_username ssh_interface ssh_port ssh_username
    start_action subnetid subnetname sync_after_install tag termination_protection token
    userdata_file userdata_template volumes wait_for_ip_interval wait_for_ip_timeout
    wait_for_passwd_maxtries wait_for_passwd_timeout wait_for_spot_interval
    wait_for_spot_interval_multiplier wait_for_spot_max_failures wait_for_spot_timeout
    win_deploy_auth_retries win_deploy_auth_retry_delay win_installer win_password win_username
""".split()  # noqa: SIM905
# The further options that the driver of Salt 3007 read.
READ = """
    deploy_command ec2_api_version hard_timeout inline_script key_filename keysize make_minion
    master_finger master_sign_pub_file max_instance min_instance password reactor script_env
    smb_port ssh_keyfile ssm_document sudo sudo_password tenancy tmp_dir tty use_winrm userdata
    wait_for_ip_interval_multiplier winrm_port winrm_use_ssl winrm_verify_ssl
""".split()  # noqa: SIM905


def of_status(*statuses: str) -> list[options.Option]:
    return [option for option in options.OPTIONS if option.status in statuses]


@pytest.mark.parametrize("name", DOCUMENTED + READ)
def test_option_of_the_old_driver_is_known_and_not_new(name: str) -> None:
    assert options.TABLE[name].status != "new"


def test_option_that_is_not_new_was_in_the_old_driver() -> None:
    old = {option.name for option in of_status("same", "changed", "ignored", "refused")}
    assert sorted(old - set(DOCUMENTED + READ)) == []


# -- the document --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", driver_docs.documents(), ids=lambda path: path.name)
def test_document_is_up_to_date(path: Path) -> None:
    """To write the documents again: python scripts/driver_docs.py."""
    assert path.read_text() == driver_docs.documents()[path]


def test_check_names_a_document_that_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver_docs, "ROOT", tmp_path)
    monkeypatch.setattr(driver_docs, "TESTS_DOCUMENT", tmp_path / "tests.md")
    assert driver_docs.main(["--check"]) == 1
    assert capsys.readouterr().out == "tests.md is out of date: run scripts/driver_docs.py\n"
    assert not (tmp_path / "tests.md").exists()
    assert driver_docs.main([]) == 0
    assert driver_docs.main(["--check"]) == 0


def test_option_has_a_test_and_mark_names_an_option() -> None:
    covered = driver_docs.covered()
    assert sorted(set(covered) - set(options.TABLE)) == []
    assert [name for name, tests in covered.items() if not tests] == []


def test_option_with_an_effect_has_a_test_that_names_it() -> None:
    named = {name for _, names, _ in driver_docs.marks(driver_docs.TESTS) for name in names}
    assert [
        option.name for option in of_status("same", "changed", "new") if option.name not in named
    ] == []


def test_marks_are_read_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        '@pytest.mark.covers("size", "image")\n'
        '@pytest.mark.parametrize("x", [1])\n'
        "def test_one(): ...\n"
        '@pytest.mark.covers("sizes")\n'
        "def test_two(): ...\n"
        '@pytest.mark.covers(status="core")\n'
        "def test_three(): ...\n"
        "def test_four(): ...\n"
    )
    covered = driver_docs.covered(tmp_path)
    assert covered["size"] == covered["image"] == ["some::test_one"]
    assert covered["sizes"] == ["some::test_two"]
    assert covered["script"] == covered["grains"] == ["some::test_three"]
    assert covered["keyname"] == []
    (tmp_path / "test_some.py").write_text("@pytest.mark.covers(*names)\ndef test_one(): ...\n")
    with pytest.raises(ValueError, match="malformed"):
        driver_docs.covered(tmp_path)


# -- the table -----------------------------------------------------------------------------------


def test_table_has_no_option_twice() -> None:
    names = [option.name for option in options.OPTIONS]
    assert len(names) == len(set(names))


@pytest.mark.covers(status="refused")
@pytest.mark.parametrize("option", of_status("refused"), ids=lambda option: option.name)
def test_refused_option_is_an_error_that_says_what_to_use(option: options.Option) -> None:
    assert option.text
    message = re.escape(f"profile web: {option.name} is not supported. {option.text}")
    with pytest.raises(ConfigurationError, match=message):
        options.check({"image": "x", option.name: "x"}, "profile web")


@pytest.mark.covers(status="ignored")
@pytest.mark.covers(status="obsolete")
@pytest.mark.parametrize("option", of_status("ignored", "obsolete"), ids=lambda option: option.name)
def test_option_without_effect_warns_once(
    option: options.Option, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        options.check({"image": "x", option.name: "x"}, "profile web")
        options.check({"image": "x", option.name: "x"}, "profile db")
    assert [record.getMessage() for record in caplog.records] == [
        f"profile web: {option.name} has no effect. {option.text}"
    ]


@pytest.mark.covers(status="core")
@pytest.mark.parametrize("option", of_status("core"), ids=lambda option: option.name)
def test_core_option_is_left_to_the_core(
    option: options.Option, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        options.check({option.name: None}, "profile web")
    assert caplog.records == []
    assert option.name not in options.resolve({"driver": "ec2"}, {"providers": {}})


def test_main_configuration_is_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert options.main_faults({"wait_for_spot_timeout": 30}) == []
    assert "the main cloud configuration: wait_for_spot_timeout has no effect" in caplog.text
    (fault,) = options.main_faults({"keep_tmp": "False"})
    assert str(fault) == "the main cloud configuration: keep_tmp must be true or false, not 'False'"


def test_main_configuration_belongs_to_all_clouds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert options.main_faults({"win_installer": "/salt.exe", "ssh_user": "root"}) == []
        # `reactor` is the master's own there.
        opts = {**salt.config.DEFAULT_MASTER_OPTS, **salt.config.DEFAULT_CLOUD_OPTS}
        assert options.main_faults(opts) == []
    assert caplog.records == []


@pytest.mark.parametrize("where", ["provider", "machine"])
def test_provider_and_machine_are_checked(
    ec2: Any, machine: Callable[..., dict[str, Any]], opts: dict[str, Any], where: str
) -> None:
    for option, hint in (
        ("service_url", "Set endpoint_url"),
        ("subnet_name", "did you mean subnetname"),
    ):
        if where == "provider":
            opts["providers"]["cloud"]["ec2"] = {
                "driver": "ec2",
                "location": "eu-west-1",
                option: "x",
            }
            assert driver.get_configured_provider()
            with pytest.raises(ConfigurationError, match=f"provider cloud:ec2: .*{option}.*{hint}"):
                driver.create(machine("web-1"))
        else:
            with pytest.raises(
                ConfigurationError, match=rf"web-1 \(profile small\): .*{option}.*{hint}"
            ):
                driver.create(machine("web-1", **{option: "x"}))
    assert ec2.describe_instances()["Reservations"] == []


def test_word_of_salt_is_known_in_the_main_configuration_only() -> None:
    # With --profile, salt-cloud merges the main configuration into each machine.
    profiles: dict[str, Any] = {"web": {}, "db": {"timeout": 5}}
    opts: dict[str, Any] = {"timeout": 5, "profiles": profiles, "profile": "web"}
    assert _preflight.own({"timeout": 5}, {}, profiles["web"], opts) == {}
    for given, profile in (({"timeout": 5}, profiles["web"]), (profiles["db"], {})):
        in_map = _preflight.own(given, {}, profile, {**opts, "profile": None})
        with pytest.raises(
            ConfigurationError,
            match="unknown option timeout; timeout belongs in the main cloud configuration file",
        ):
            options.check(in_map, "db-1")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("append_domain", "append_domain belongs under minion"),
        ("id_function", "id_function belongs under minion"),
        ("pool_size", "pool_size belongs in the main cloud configuration file"),
        ("interface", "belongs in the main cloud configuration file, or under minion"),
        ("subnet_name", "did you mean subnetname?"),
        ("rubbish", "options.md lists all options"),
    ],
)
def test_unknown_option_has_hint(name: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(place)):
        options.check({name: 1}, "profile web")


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"profile web: monitoring must be true or false, not 'no'; profile web: unknown",
    ):
        options.check({"monitoring": "no", "sizze": "x"}, "profile web")


def test_map_outranks_profile_provider_and_main_configuration() -> None:
    opts: dict[str, Any] = {
        **salt.config.DEFAULT_CLOUD_OPTS,
        "ssh_username": "main",
        "providers": {"cloud": {"ec2": {"ssh_username": "provider", "size": "provider"}}},
        "profiles": {"web": {"size": "profile"}},
    }
    machine: dict[str, Any] = {"driver": "cloud:ec2", "profile": "web", "name": "web-1"}
    resolved = options.resolve(machine, opts)
    assert resolved["ssh_username"] == ["provider"]
    assert resolved["on_failure"] == "keep"
    opts["providers"]["cloud"]["ec2"].clear()
    resolved = options.resolve(machine, opts)
    assert (resolved["ssh_username"], resolved["size"]) == (["main"], "profile")
    assert options.resolve({**machine, "size": "map"}, opts)["size"] == "map"


# -- types ---------------------------------------------------------------------------------------


def test_every_option_with_an_effect_has_a_type() -> None:
    untyped = [option.name for option in options.OPTIONS if option.type is _option_types.ANYTHING]
    assert untyped == [option.name for option in of_status("ignored", "obsolete", "refused")]


@pytest.mark.parametrize(
    "option", of_status("same", "changed", "new"), ids=lambda option: option.name
)
def test_default_has_the_type_of_its_option(option: options.Option) -> None:
    if option.default is not None:
        assert option.type.read(option.default) == option.default


@pytest.mark.parametrize(
    ("name", "given", "typed"),
    [
        ("size", "t3.micro", "t3.micro"),
        ("owner", 136693071363, "136693071363"),
        ("keyname", 2024, "2024"),
        ("monitoring", True, True),
        ("monitoring", 0, False),
        ("ssh_port", "2222", 2222),
        ("max_attempts", 3, 3),
        ("deploy_timeout", "90", 90.0),
        ("deploy_timeout", "0.5", 0.5),
        ("wait_for_ip_interval", 0, 0.0),
        ("host_keys", "none", "none"),
        ("securitygroup", "web", ["web"]),
        ("securitygroup", ("web", "db"), ["web", "db"]),
        ("securitygroup", "", []),
        ("ssh_username", "admin", ["admin"]),
        ("subnetid", "subnet-1", "subnet-1"),
        ("subnetid", ("subnet-1", "subnet-2"), ["subnet-1", "subnet-2"]),
        ("image", "ami-1", "ami-1"),
        ("image", {"owner": "self", "name": "x"}, {"owner": "self", "name": "x"}),
        ("userdata_template", False, False),
        ("userdata_template", "jinja", "jinja"),
        ("volumes", ({"device": "/dev/sdf"},), [{"device": "/dev/sdf"}]),
        ("tag", {"a": 1}, {"a": 1}),
        ("ssh_port", None, 22),
        ("ssh_username", None, ["ec2-user", "ubuntu", "admin", "bitnami", "root"]),
        ("private_key", None, None),
        ("del_root_vol_on_destroy", None, None),
    ],
)
def test_value_has_the_type_of_its_option(name: str, given: Any, typed: Any) -> None:
    read = options.value(name, given, "web-1")
    assert (type(read), read) == (type(typed), typed)
    again = options.value(name, read, "web-1")
    assert (type(again), again) == (type(typed), typed)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("size", True, "size must be text, not True"),
        ("tag", ["a"], "tag must be a mapping, not ['a']"),
        ("volumes", {}, "volumes must be a list of mappings, not {}"),
        ("volumes", [{"size": "big"}], "volumes[0].size must be a whole number from 1, not 'big'"),
        ("volumes", [10], "volumes[0] must be a mapping, not 10"),
        ("monitoring", "no", "monitoring must be true or false, not 'no'"),
        ("securitygroup", {}, "securitygroup must be a name or a list of names, not {}"),
        ("ssh_username", [""], "ssh_username must be a user or a list of users, not ['']"),
        ("key", ["secret"], "key must be text"),
    ],
)
def test_value_of_another_type_is_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        options.value(name, given, "web-1")
    assert str(raised.value) == f"web-1: {message}"


@pytest.mark.covers("ssh_username")
@pytest.mark.parametrize("given", ["", [], True, {"admin": None}])
def test_deployment_without_a_user_is_refused(
    machine: Callable[..., dict[str, Any]], ec2: Any, given: Any
) -> None:
    with pytest.raises(
        ConfigurationError, match="ssh_username must be a user or a list of users, not "
    ):
        driver.create(machine("web-1", ssh_username=given))
    assert ec2.describe_instances()["Reservations"] == []


def test_number_is_a_number_in_every_place(machine: Callable[..., dict[str, Any]]) -> None:
    resolved = options.resolve(
        machine("web-1", ssh_port="22", wait_for_ip_timeout="5"), driver.__opts__
    )
    assert (resolved["ssh_port"], resolved["wait_for_ip_timeout"]) == (22, 5.0)


def test_profile_does_not_change_a_default() -> None:
    opts: dict[str, Any] = {
        "providers": {"cloud": {"ec2": {}}},
        "profiles": {"web": {"metadata_options": {"HttpTokens": "optional"}}, "db": {}},
    }
    machine = {"driver": "cloud:ec2", "name": "m"}
    assert options.resolve({**machine, "profile": "web"}, opts)["metadata_options"] == {
        "HttpTokens": "optional"
    }
    assert options.resolve({**machine, "profile": "db"}, opts)["metadata_options"] == {}
