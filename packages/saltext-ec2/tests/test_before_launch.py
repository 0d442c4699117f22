"""What is wrong for a launch is found before it, and costs nothing."""

from __future__ import annotations

from typing import Any

from sandbox import Sandbox

WRONG: tuple[dict[str, Any], ...] = (
    {"ssh_username": None},
    {"ssh_username": ""},
    {"ssh_username": []},
    {"ssh_username": [None]},
    {"ssh_username": {"admin": True}},
    {"preflight_cmds": "apt-get update"},
    {"preflight_cmds": {"apt-get": "update"}},
    {"inline_script": {"a": "b"}},
    {"file_map": ["/etc/hosts"]},
    {"grains": "role"},
    {"known_hosts_file": "/nosuch/known_hosts"},
    # The map is a template itself.
    {"userdata": "{% raw %}{{ nosuch.x }}{% endraw %}", "userdata_template": "jinja"},
    {"userdata": "x", "userdata_template": "nosuch"},
)
SCRIPTS = {
    "undefined": "{{ nosuch.value }}\n",
    "syntax": "{% if %}\n",
    "division": "{{ 1 / 0 }}\n",
}


def test_private_key_that_others_may_use_is_refused(sandbox: Sandbox) -> None:
    keys = {
        f"n{mode:o}": str(sandbox.write(f"key-{mode:o}.pem", "", mode=mode))
        for mode in (0o644, 0o640, 0o604, 0o660)
    }
    done = sandbox.apply({"p1": [{name: {"private_key": key}} for name, key in keys.items()]})
    sandbox.assert_refused(done, "private_key", "0600", *keys.values())


def test_private_key_of_owner_is_accepted(sandbox: Sandbox) -> None:
    (sandbox.folder / "key.pem").chmod(0o400)
    sandbox.launch("n1")


def test_missing_private_key_is_refused(sandbox: Sandbox) -> None:
    sandbox.providers["one"]["private_key"] = "/nosuch/key.pem"
    sandbox.assert_refused(sandbox.salt_cloud("--profile=p1", "n1"), "private_key")


def test_key_of_gateway_is_checked(sandbox: Sandbox) -> None:
    readable = str(sandbox.write("readable.pem", "", mode=0o644))
    option = "ssh_gateway_private_key"
    done = sandbox.apply({"p1": [{"n1": {option: readable}}, {"n2": {option: "/nosuch.pem"}}]})
    sandbox.assert_refused(done, option, readable, "/nosuch.pem")


def test_wrong_options_are_refused_with_their_names(sandbox: Sandbox) -> None:
    sandbox.main["ssh_connect_timeout"] = 10
    machines = [{f"n{number}": options} for number, options in enumerate(WRONG)]
    done = sandbox.apply({"p1": machines})
    options = [next(iter(options)) for options in WRONG]
    sandbox.assert_refused(done, *options)
    for option in options:
        assert done.output.count(option) >= options.count(option), option


def test_minion_configuration_as_text_is_refused(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["minion"] = "master: salt"
    done = sandbox.salt_cloud("--profile=p1", "n1")
    sandbox.assert_refused(done, "minion")
    assert "'str' object" not in done.output


def test_script_that_does_not_render_is_refused_with_its_name(sandbox: Sandbox) -> None:
    for name, script in SCRIPTS.items():
        sandbox.write(f"{name}.sh", script)
    machines = [{f"n-{name}": {"script": name}} for name in SCRIPTS]
    done = sandbox.apply({"p1": machines})
    sandbox.assert_refused(done, "script", *(f"{name}.sh" for name in SCRIPTS))


def test_mapping_of_other_root_device_is_refused(sandbox: Sandbox) -> None:
    devices = ("/dev/xvda", "/dev/sda", "/dev/xvda1")
    machines = [
        {f"n{number}": {"block_device_mappings": [{"DeviceName": device, "Ebs.VolumeSize": 30}]}}
        for number, device in enumerate(devices)
    ]
    done = sandbox.apply({"p1": machines})
    sandbox.assert_refused(done, "block_device_mappings", "/dev/sda1", *devices)


def test_mapping_of_data_device_adds_volume(sandbox: Sandbox) -> None:
    sandbox.profiles["p1"]["block_device_mappings"] = [
        {"DeviceName": "/dev/sdf", "Ebs.VolumeSize": 30},
    ]
    sandbox.launch("n1")
    assert set(sandbox.volumes("n1")) == {"/dev/sda1", "/dev/sdf"}


def test_device_that_is_named_twice_is_refused(sandbox: Sandbox) -> None:
    mapping = {"DeviceName": "/dev/sdf", "Ebs.VolumeSize": 1}
    volume = {"device": "/dev/sdf", "size": 1}
    machines = [
        {"n1": {"block_device_mappings": [mapping, mapping]}},
        {"n2": {"volumes": [volume, volume]}},
        {"n3": {"block_device_mappings": [mapping], "volumes": [volume]}},
    ]
    done = sandbox.apply({"p1": machines})
    sandbox.assert_refused(done)
    assert done.output.count("/dev/sdf") >= 3
