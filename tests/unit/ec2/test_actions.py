"""What `salt-cloud -a` and `-f` can do to machines, volumes, snapshots, tags and key pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import salt.loader

from saltext.ec2 import _instance, _nodes
from saltext.ec2 import options as _options
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import ConfigurationError, Ec2Error, NotFound

QUERIES = {
    "get_configured_provider", "optimize_providers", "list_nodes", "list_nodes_full",
    "list_nodes_min", "list_nodes_select", "avail_images", "avail_locations", "avail_sizes",
    "show_image", "list_availability_zones",
}  # fmt: skip
LIFE = {
    "create",
    "destroy",
    "start",
    "stop",
    "reboot",
    "rename",
    "check",
    "optimize_providers",
    "show_instance",
    "get_console_output",
}
TAGS = {"get_tags", "set_tags", "del_tags"}
ATTRIBUTES = {
    "show_term_protect", "enable_term_protect", "disable_term_protect",
    "show_detailed_monitoring", "enable_detailed_monitoring", "disable_detailed_monitoring",
    "show_delvol_on_destroy", "delvol_on_destroy", "keepvol_on_destroy",
}  # fmt: skip
VOLUMES = {
    "show_volumes", "show_volume", "describe_volumes", "volume_list", "create_volume",
    "volume_create", "delete_volume", "attach_volume", "detach_volume",
    "create_snapshot", "copy_snapshot", "describe_snapshots", "delete_snapshot", "register_image",
}  # fmt: skip
KEY_PAIRS = {"create_keypair", "import_keypair", "show_keypair", "delete_keypair"}


@pytest.fixture
def web(machine: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return the machine web-1."""
    return driver.create(machine("web-1"))


def test_loader_finds_exactly_these_functions(opts: dict[str, Any]) -> None:
    loader_opts = {
        **salt.config.DEFAULT_MASTER_OPTS,
        **opts,
        "extension_modules": "",
        "optimization_order": [0],
    }
    found = {
        name.removeprefix("ec2.")
        for name in salt.loader.clouds(loader_opts)
        if name.startswith("ec2.")
    }
    assert found == QUERIES | LIFE | TAGS | ATTRIBUTES | VOLUMES | KEY_PAIRS


def test_every_function_has_docstring() -> None:
    for name in QUERIES | LIFE | TAGS | ATTRIBUTES | VOLUMES | KEY_PAIRS:
        assert getattr(driver, name).__doc__, name


@pytest.mark.parametrize(
    "name", sorted(ATTRIBUTES | {"start", "stop", "reboot", "show_instance", "show_volumes"})
)
def test_action_refuses_call_as_function(opts: dict[str, Any], name: str) -> None:
    with pytest.raises(Ec2Error, match=f"salt-cloud -a {name} NAME"):
        getattr(driver, name)("cloud", call="function")


@pytest.mark.parametrize("name", sorted((KEY_PAIRS | VOLUMES) - {"show_volumes", "show_volume", "attach_volume", "detach_volume"}))  # fmt: skip  # noqa: E501
def test_function_refuses_call_as_action(opts: dict[str, Any], name: str) -> None:
    with pytest.raises(Ec2Error, match="is not an action"):
        getattr(driver, name)(kwargs={}, call="action")


def test_action_names_missing_machine(ec2: Any, opts: dict[str, Any]) -> None:
    for function in (driver.stop, driver.show_instance):
        with pytest.raises(NotFound, match="no machine called web-9"):
            function("web-9", call="action")


def test_action_refuses_ambiguous_name(
    ec2: Any, web: dict[str, Any], machine: Callable[..., dict[str, Any]], opts: dict[str, Any]
) -> None:
    other = driver.create(machine("web-2"))
    ec2.create_tags(Resources=[other["id"]], Tags=[{"Key": "Name", "Value": "web-1"}])
    with pytest.raises(NotFound, match="2 machines are called web-1"):
        driver.destroy("web-1")
    assert set(driver.list_nodes()) == {web["id"], other["id"]}
    opts["map"] = "small.map"
    assert set(driver.list_nodes_min()) == {"web-1"}, (
        "a map with --hard destroys what it does not know"
    )
    del opts["map"]
    driver.destroy(other["id"])
    assert set(driver.list_nodes()) == {"web-1"}


def test_unexpected_exception_is_raised_as_ec2_error(
    web: dict[str, Any], machine: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("State")

    monkeypatch.setattr(_instance, "terminate", fail)
    with pytest.raises(Ec2Error, match="destroy stopped: KeyError: 'State'"):
        driver.destroy("web-1")
    monkeypatch.setattr(_nodes, "describe", fail)
    with pytest.raises(Ec2Error, match="create stopped: KeyError: 'State'"):
        driver.create(machine("web-1"))


def test_stop_start_and_reboot_change_state(web: dict[str, Any]) -> None:
    (stopped,) = driver.stop("web-1", call="action")
    assert (stopped["id"], stopped["previousState"]["name"]) == (web["id"], "running")
    assert driver.list_nodes()["web-1"]["state"] == "stopped"
    (started,) = driver.start("web-1", call="action")
    assert (started["id"], started["previousState"]["name"]) == (web["id"], "stopped")
    assert driver.reboot("web-1", call="action") == {
        "id": web["id"],
        "rebooted": True,
        "Reboot": "Complete",
    }
    assert driver.show_instance("web-1", call="action")["state"] == "running"


def test_rename_changes_name_and_key(web: dict[str, Any], opts: dict[str, Any]) -> None:
    keys = Path(opts["pki_dir"]) / "minions"
    keys.mkdir(parents=True)
    (keys / "web-1").write_text("key")
    driver.rename("web-1", {"newname": "web-3"}, call="action")
    assert list(driver.list_nodes()) == ["web-3"]
    assert [path.name for path in keys.iterdir()] == ["web-3"]
    with pytest.raises(NotFound, match="there is a machine called web-3"):
        driver.rename("web-3", {"newname": "web-3"}, call="action")


def test_rename_refuses_machine_while_its_minion_runs(web: dict[str, Any]) -> None:
    driver.set_tags("web-1", {"salt-cloud:deploy": "done"}, call="action")
    with pytest.raises(ConfigurationError, match="its minion runs and would keep the id web-1"):
        driver.rename("web-1", {"newname": "web-3"}, call="action")
    driver.stop("web-1", call="action")
    driver.rename("web-1", {"newname": "web-3"}, call="action")
    assert list(driver.list_nodes()) == ["web-3"]


def test_destroy_renames_machine_if_main_configuration_says_so(
    ec2: Any, web: dict[str, Any], opts: dict[str, Any]
) -> None:
    opts["rename_on_destroy"] = True
    assert driver.destroy("web-1")["newname"].startswith("web-1-DEL")


def test_tags_are_set_read_and_removed(web: dict[str, Any]) -> None:
    assert driver.set_tags("web-1", {"tier": "front"}, call="action")["tier"] == "front"
    assert driver.get_tags(kwargs={"resource_id": web["id"]}, call="function")["tier"] == "front"
    assert "tier" not in driver.del_tags("web-1", {"tags": "tier"}, call="action")
    with pytest.raises(ConfigurationError, match="leaves Name alone"):
        driver.set_tags("web-1", {"Name": "x"}, call="action")
    with pytest.raises(ConfigurationError, match="resource_id"):
        driver.get_tags(kwargs={}, call="function")


def test_destroy_refuses_protected_machine(ec2: Any, web: dict[str, Any]) -> None:
    assert driver.show_term_protect("web-1", call="action") is False
    assert driver.enable_term_protect("web-1", call="action") is True
    with pytest.raises(
        Ec2Error, match="destroying web-1 failed: TerminateInstances: OperationNotPermitted"
    ):
        driver.destroy("web-1")
    assert driver.disable_term_protect("web-1", call="action") is False
    assert driver.destroy("web-1")["currentState"]["name"] == "shutting-down"


def test_deletion_of_volumes_is_switched(web: dict[str, Any]) -> None:
    (device,) = driver.show_delvol_on_destroy("web-1", call="action")
    assert (
        driver.keepvol_on_destroy("web-1", {"device": device}, call="action")[device]["deleted"]
        is False
    )
    assert driver.delvol_on_destroy("web-1", call="action")[device]["deleted"] is True
    with pytest.raises(NotFound, match="no such volume"):
        driver.delvol_on_destroy("web-1", {"device": "/dev/nowhere"}, call="action")


def test_volume_is_created_attached_detached_and_deleted(web: dict[str, Any]) -> None:
    zone = web["Placement"]["AvailabilityZone"]
    volume = driver.create_volume({"zone": zone, "size": "3"}, call="function")
    assert (volume["VolumeType"], volume["Encrypted"], volume["Size"]) == ("gp3", True, 3)
    name = {"volume_id": volume["VolumeId"]}
    assert (
        driver.attach_volume("web-1", {**name, "device": "/dev/sdf"}, call="action")["device"]
        == "/dev/sdf"
    )
    assert volume["VolumeId"] in driver.show_volumes("web-1", call="action")
    assert driver.show_volume("web-1", name, call="action")["State"] == "in-use"
    driver.detach_volume("web-1", name, call="action")
    with pytest.raises(NotFound):
        driver.show_volume("web-1", name, call="action")
    assert driver.delete_volume(name, call="function")["deleted"]
    assert volume["VolumeId"] not in driver.describe_volumes(call="function")
    with pytest.raises(ConfigurationError, match="create_volume needs zone=…"):
        driver.create_volume({}, call="function")


def test_snapshot_is_created_copied_and_deleted(web: dict[str, Any]) -> None:
    volume = web["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    made = driver.create_snapshot({"volume_id": volume, "description": "d"}, call="function")[
        "snapshot_id"
    ]
    copy = driver.copy_snapshot(
        {"source_region": "eu-west-1", "source_snapshot_id": made}, call="function"
    )
    assert {made, copy["snapshot_id"]} <= set(driver.describe_snapshots(call="function"))
    with pytest.raises(Ec2Error, match="eu-west-2 is refused"):
        driver.copy_snapshot(
            {"source_region": "eu-west-2", "source_snapshot_id": made}, call="function"
        )
    driver.delete_snapshot({"snapshot_id": made}, call="function")
    assert made not in driver.describe_snapshots(call="function")


def test_image_is_registered_from_snapshot(web: dict[str, Any]) -> None:
    volume = web["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    snapshot = driver.create_snapshot({"volume_id": volume}, call="function")["snapshot_id"]
    wanted = {"ami_name": "mine", "root_device_name": "/dev/xvda", "snapshot_id": snapshot}
    asked: list[dict[str, Any]] = []
    events = driver._context().connect().ec2.meta.events
    events.register(
        "provide-client-params.ec2.RegisterImage", lambda params, **_: asked.append(params)
    )
    made = driver.register_image(wanted, call="function")["image_id"]
    assert driver.show_image({"image": made}, call="function")["Name"] == "mine"
    # moto does not keep what is on the volume: the request has to do.
    ebs = {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True}
    assert asked[0]["BlockDeviceMappings"] == [{"DeviceName": "/dev/xvda", "Ebs": ebs}]
    assert asked[0]["RootDeviceName"] == "/dev/xvda"
    with pytest.raises(ConfigurationError, match="register_image needs snapshot_id=…"):
        driver.register_image(
            {"ami_name": "mine", "root_device_name": "/dev/xvda"}, call="function"
        )


def test_key_pair_is_created_imported_and_deleted(
    ec2: Any, opts: dict[str, Any], tmp_path: Path
) -> None:
    made = driver.create_keypair({"keyname": "k"}, call="function")
    assert made["KeyMaterial"].startswith("-----BEGIN")
    assert (
        driver.show_keypair({"keyname": "k"}, call="function")["KeyFingerprint"]
        == made["KeyFingerprint"]
    )
    driver.delete_keypair({"keyname": "k"}, call="function")
    with pytest.raises(Ec2Error, match=r"InvalidKeyPair.NotFound"):
        driver.show_keypair({"keyname": "k"}, call="function")
    (tmp_path / "key.pub").write_text(
        ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"][0]["PublicKey"]
    )
    imported = driver.import_keypair(
        {"keyname": "i", "file": str(tmp_path / "key.pub")}, call="function"
    )
    assert imported["KeyName"] == "i"


def test_queries_list_what_exists(ec2: Any, image: str, opts: dict[str, Any]) -> None:
    assert set(driver.avail_locations()) == {"eu-west-1"}, "allowed_regions holds here, too"
    assert driver.avail_sizes()["t2.micro"]["ram_mib"] == 1024
    assert image in driver.avail_images()
    assert driver.show_image({"image": image}, call="function")["Name"] == "debian-13-amd64-1"
    assert driver.list_availability_zones()["eu-west-1a"] == "available"


@pytest.fixture
def elastic(machine: Callable[..., dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Return a function that creates a machine whose only public address is an elastic one."""

    def make(name: str) -> dict[str, Any]:
        interface = {
            "DeviceIndex": 0,
            "SubnetName": "a",
            "SecurityGroupId": "web",
            "allocate_new_eip": True,
        }
        given = machine(
            name, network_interfaces=[interface], ssh_interface="public_ips", wait_for_ip_timeout=5
        )
        del given["subnetname"], given["securitygroup"]
        driver.__opts__["profiles"]["small"] = {
            key: given[key] for key in ("provider", "image", "size")
        }
        return driver.create(given)

    return make


def test_destroy_releases_elastic_address(
    ec2: Any, elastic: Callable[[str], dict[str, Any]]
) -> None:
    made = elastic("web-1")
    (address,) = ec2.describe_addresses()["Addresses"]
    assert made["public_ips"] == [address["PublicIp"]]
    elastic("web-1")
    assert len(ec2.describe_addresses()["Addresses"]) == 1
    driver.destroy(made["id"])
    assert ec2.describe_addresses()["Addresses"] == []


def test_destroy_keeps_elastic_address_of_renamed_machine(
    ec2: Any, elastic: Callable[[str], dict[str, Any]]
) -> None:
    kept = elastic("web-1")
    driver.rename("web-1", {"newname": "web-3"}, call="action")
    elastic("web-1")
    driver.destroy("web-1")
    assert [address["PublicIp"] for address in ec2.describe_addresses()["Addresses"]] == kept[
        "public_ips"
    ]


@pytest.mark.parametrize(
    ("message", "launched"),
    [(("Value (airflow-salt) for parameter iamInstanceProfile.name is invalid."
       " Invalid IAM Instance Profile name"), True),
     ("Value (t9.huge) for parameter instanceType is invalid", False)],
)  # fmt: skip
def test_launch_waits_for_new_instance_profile(
    opts: dict[str, Any],
    machine: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    *,
    launched: bool,
) -> None:
    monkeypatch.setattr(_instance, "PROFILE_INTERVAL", 0)
    refusals = [message, message]

    def refuse(**_: Any) -> Any:
        if refusals:
            error = {"Code": "InvalidParameterValue", "Message": refusals.pop()}
            return SimpleNamespace(status_code=400), {"Error": error}
        return None

    given = machine("web-1")
    connection = driver._context().connect(_options.resolve(given, opts))
    connection.ec2.meta.events.register("before-call.ec2.RunInstances", refuse)
    if launched:
        assert driver.create(given)["state"] == "running"
    else:
        with pytest.raises(Ec2Error, match=r"t9\.huge"):
            driver.create(given)
        assert len(refusals) == 1, "it is not tried again"
