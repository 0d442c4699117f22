"""Values of another type than their option's."""

from __future__ import annotations

from typing import Any

from sandbox import Sandbox

# The options that are true or false, of the driver and of salt-cloud itself.
BOOLEANS = (
    "associate_public_ip",
    "del_all_vols_on_destroy",
    "del_root_vol_on_destroy",
    "deploy",
    "display_ssh_output",
    "ebs_optimized",
    "force_minion_config",
    "hibernation",
    "keep_tmp",
    "make_master",
    "make_minion",
    "make_syndic",
    "monitoring",
    "ssh_agent",
    "sudo",
    "termination_protection",
    "use_fqdn",
)
IN_LISTS: dict[str, dict[str, Any]] = {
    "encrypted": {"volumes": [{"device": "/dev/sdf", "size": 1, "encrypted": "False"}]},
    "Encrypted": {"block_device_mappings": [{"DeviceName": "/dev/sdf", "Ebs.Encrypted": "False"}]},
    "DeleteOnTermination": {
        "block_device_mappings": [
            {"DeviceName": "/dev/sda1", "Ebs": {"DeleteOnTermination": "False"}}
        ]
    },
    "AssociatePublicIpAddress": {
        "subnetname": None,
        "securitygroup": None,
        "network_interfaces": [
            {"DeviceIndex": 0, "subnetname": "a", "AssociatePublicIpAddress": "False"}
        ],
    },
    "SourceDestCheck": {
        "subnetname": None,
        "securitygroup": None,
        "network_interfaces": [{"DeviceIndex": 0, "subnetname": "a", "SourceDestCheck": "False"}],
    },
    "allocate_new_eip": {
        "subnetname": None,
        "securitygroup": None,
        "network_interfaces": [{"DeviceIndex": 0, "subnetname": "a", "allocate_new_eip": "False"}],
    },
}
OTHERS: dict[str, Any] = {
    "block_device_mappings": {"DeviceName": "/dev/sdf"},
    "cpu_options": 2,
    "iam_profile": {"name": "web"},
    "keyname": ["deploy"],
    "metadata_options": "required",
    "network_interfaces": {"DeviceIndex": 0},
    "placementgroup": ["a"],
    "size": ["t3.micro"],
    "spot_config": True,
    "subnetid": {"a": "b"},
    "tag": ["web"],
    "userdata": {"a": "b"},
    "volumes": "/dev/sdf",
}


def test_quoted_boolean_is_refused(sandbox: Sandbox) -> None:
    options = {name: {name: "False"} for name in BOOLEANS} | IN_LISTS
    machines = [{f"n{number}": values} for number, values in enumerate(options.values())]
    done = sandbox.apply({"p1": machines})
    sandbox.assert_refused(done, *options)


def test_quoted_boolean_is_refused_wherever_it_stands(sandbox: Sandbox) -> None:
    for options in (sandbox.main, sandbox.providers["one"], sandbox.profiles["p1"]):
        options["keep_tmp"] = "False"
        sandbox.assert_refused(sandbox.salt_cloud("--profile=p1", "n1"), "keep_tmp")
        del options["keep_tmp"]


def test_quoted_false_does_not_delete_root_volume(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["del_root_vol_on_destroy"] = "False"
    sandbox.assert_refused(sandbox.salt_cloud("--profile=p1", "n1"), "del_root_vol_on_destroy")


def test_quoted_rename_on_destroy_is_refused_before_destroying(sandbox: Sandbox) -> None:
    sandbox.launch("n1")
    sandbox.providers["one"]["rename_on_destroy"] = "False"
    done = sandbox.salt_cloud("--destroy", "n1")
    assert done.failed, done
    assert "rename_on_destroy" in done.output
    assert set(sandbox.instances()) == {"n1"}


def test_value_of_other_type_is_refused_with_its_option(sandbox: Sandbox) -> None:
    options = enumerate(OTHERS.items())
    done = sandbox.apply(
        {"p1": [{f"n{number}": {name: value}} for number, (name, value) in options]}
    )
    sandbox.assert_refused(done, *OTHERS)
    for python in ("TypeError", "AttributeError", "KeyError", "ValueError", "ParamValidation"):
        assert python not in done.output, done


def test_quoted_number_is_a_number(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"] |= {
        "ssh_port": "22",
        "ssh_connect_timeout": "60",
        "wait_for_ip_timeout": "60",
        "volumes": [{"device": "/dev/sdf", "size": "20", "type": "io1", "iops": "300"}],
        "block_device_mappings": [
            {"DeviceName": "/dev/sda1", "Ebs.VolumeSize": "30"},
            {"DeviceName": "/dev/sdg", "Ebs": {"VolumeSize": "40"}},
        ],
    }
    sandbox.launch("n1")
    volumes = sandbox.ec2.describe_volumes()["Volumes"]
    assert sorted(volume["Size"] for volume in volumes if volume["Attachments"]) == [20, 30, 40]


def test_boolean_has_its_effect(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["del_root_vol_on_destroy"] = False
    sandbox.launch("n1")
    assert sandbox.volumes("n1")["/dev/sda1"]["DeleteOnTermination"] is False
