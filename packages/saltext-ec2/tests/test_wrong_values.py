"""A value of a wrong kind gives a sentence that names it, and none of Python's words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox import REGION, Run, Sandbox

# The last: the letters of a text, or the keys of a mapping, where a list is meant.
PYTHON = re.compile(
    r"Traceback|\b[A-Z]\w+Error: |NoneType|has no attribute|positional argument|multiple values"
    r"|unexpected keyword|not iterable|unhashable|invalid literal|object is not|<class "
    r"|Invalid type|indices must be|not subscriptable|dictionary update sequence"
    r"|not enough values|could not convert|unknown: .[,;]"
)


def assert_sentence(text: str, *names: str) -> None:
    """Insist that a message is in words of Salt's configuration.

    Args:
        text: the message.
        names: what it has to name; any of them does.
    """
    assert not (found := PYTHON.search(text)), f"{found.group()!r} in: {text}"
    assert any(name in text for name in names), f"none of {names} in: {text}"


@dataclass(frozen=True)
class Value:
    """What an option is set to.

    Attributes:
        option: its name.
        value: what it cannot be.
    """

    option: str
    value: Any


VALUES = [
    Value("block_device_mappings", {"DeviceName": "/dev/sda1", "Ebs.VolumeSize": 10}),
    Value("block_device_mappings", ["/dev/sda1"]),
    Value("block_device_mappings", [{"DeviceName": "/dev/sda1", "Ebs": 10}]),
    Value("block_device_mappings", [{"DeviceName": "/dev/sda1", "Ebs.Iops": "big"}]),
    Value("volumes", {"device": "/dev/sdf", "size": 10}),
    Value("volumes", [10]),
    Value("volumes", "/dev/sdf"),
    Value("volumes", [{"device": "/dev/sdf", "size": "large"}]),
    Value("network_interfaces", {"DeviceIndex": 0, "subnetname": "a"}),
    Value("network_interfaces", ["eth0"]),
    Value("network_interfaces", [{"DeviceIndex": "first", "subnetname": "a"}]),
    Value("tag", ["team", "blue"]),
    Value("tag", "blue"),
    Value("spot_config", True),
    Value("spot_config", {"spot_price": [0.1]}),
    Value("securitygroup", {"web": True}),
    Value("subnetname", {"a": "b"}),
    Value("metadata_options", "required"),
    Value("cpu_options", 2),
    Value("size", ["t3.micro"]),
    Value("image", 42),
    Value("image", ["debian"]),
    Value("launch_template", "web"),
    Value("iam_profile", ["worker"]),
    Value("keyname", {"name": "deploy"}),
    Value("placementgroup", ["near"]),
    Value("tenancy", {"default": True}),
    Value("userdata", ["echo"]),
    Value("userdata_file", {"path": "x"}),
    Value("availability_zone", {"zone": "a"}),
    Value("private_ip", ["10.40.0.9"]),
    Value("associate_eip", ["edge"]),
    Value("wait_for_ip_timeout", "soon"),
]
# Those that are read when a minion is installed.
DEPLOYMENT = [
    Value("ssh_username", 5),
    Value("ssh_username", {"admin": True}),
    Value("ssh_port", "ssh"),
    Value("script_env", ["A=b"]),
    Value("file_map", ["/etc/hosts"]),
    Value("preflight_cmds", {"first": "true"}),
    Value("preflight_cmds", "true"),
    Value("inline_script", {"first": "true"}),
    Value("ssh_gateway", ["gateway.test"]),
    Value("private_key", ["key.pem"]),
]


def cases(values: list[Value]) -> list[Any]:
    """Return the tests' parameters."""
    return [
        pytest.param(f"m{number}", value.option, id=f"{value.option}-{value.value}")
        for number, value in enumerate(values)
    ]


def applied(server: Any, folder: Any, values: list[Value], *arguments: str) -> Sandbox:
    """Apply a map with a machine for each value."""
    server.reset()
    sandbox = Sandbox(server, folder)
    base = sandbox.profiles["p1"]
    interface = ("subnetname", "securitygroup")
    for number, value in enumerate(values):
        kept = {
            key: base[key]
            for key in base
            if value.option != "network_interfaces" or key not in interface
        }
        sandbox.profiles[f"p{number}"] = {**kept, "provider": "one", value.option: value.value}
    machines = {f"p{number}": [f"m{number}"] for number in range(len(values))}
    sandbox.answer = sandbox.apply(machines, *arguments)  # type: ignore[attr-defined]
    return sandbox


@pytest.fixture(scope="module")
def launched(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """What became of machines without a minion, each with a wrong value."""
    return applied(server, tmp_path_factory.mktemp("values") / "salt", VALUES, "--no-deploy")


@pytest.fixture(scope="module")
def deployed(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """What became of machines with a minion, each with a wrong value."""
    return applied(server, tmp_path_factory.mktemp("deployments") / "salt", DEPLOYMENT)


@pytest.mark.parametrize(("name", "option"), cases(VALUES))
def test_wrong_value_is_refused_by_option(launched: Sandbox, name: str, option: str) -> None:
    check_refused(launched, name, option)


@pytest.mark.parametrize(("name", "option"), cases(DEPLOYMENT))
def test_wrong_value_of_deployment_is_refused_by_option(
    deployed: Sandbox, name: str, option: str
) -> None:
    check_refused(deployed, name, option)


def check_refused(sandbox: Sandbox, name: str, option: str) -> None:
    """Insist on a sentence with the option's name, before anything is launched.

    All faults of a map stop it together: each is a line, with the profile or machine that has it.
    """
    done: Run = sandbox.answer  # type: ignore[attr-defined]
    assert done.failed, done
    source = re.compile(rf"(profile p|\bm){name.removeprefix('m')}\b")
    lines = [line for line in done.output.splitlines() if source.search(line)]
    assert lines, f"nothing is wrong with {option} of {name}: {done}"
    for line in lines:
        assert_sentence(line, option)
    assert sandbox.instances() == {}, f"a machine is launched before {option} of {name} is read"


@pytest.fixture(scope="module")
def machine(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A machine `n1` without a minion."""
    server.reset()
    sandbox = Sandbox(server, tmp_path_factory.mktemp("arguments") / "salt")
    done = sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy")
    assert not done.code, done
    return sandbox


def broken(*arguments: str, names: tuple[str, ...]) -> Any:
    """Return a test's parameters: a command, and what its message has to name."""
    return pytest.param(arguments, names, id=" ".join(arguments))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        broken("-S", names=("query.selection",)),
        broken("-f", "start", "one", names=("-a start",)),
        broken("-f", "rename", "one", "newname=n2", names=("-a rename",)),
        broken(
            "-f", "create_volume", "one", f"zone={REGION}a", "size=large",
            names=("size",),
        ),
        broken("-a", "avail_images", "n1", names=("-f avail_images", "--list-images")),
        broken("-a", "stop", "n1", "force=yes", names=("force",)),
        broken("-f", "list_nodes", "one", "name=n1", names=("name",)),
        broken("-f", "avail_sizes", "one", "size=t3.micro", names=("size",)),
        broken("-f", "show_volumes", "one", "name=n1", names=("-a show_volumes",)),
        broken("-a", "attach_volume", "n1", "volume_id=vol-1", names=("device",)),
        broken("-a", "del_tags", "n1", names=("tags",)),
        broken("-a", "delvol_on_destroy", "n1", "device=/dev/zz", names=("device", "/dev/zz")),
        broken("-f", "register_image", "one", "ami_name=x", names=("root_device_name",)),
        broken("-f", "show_image", "one", names=("image",)),
        broken("-f", "create_snapshot", "one", names=("volume_id",)),
        broken("-f", "import_keypair", "one", "keyname=x", names=("file",)),
    ],
)  # fmt: skip
def test_wrong_argument_is_refused_by_name(
    machine: Sandbox, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    done = machine.salt_cloud(*arguments)
    assert done.code, done
    assert_sentence(done.stderr, *names)


@pytest.mark.parametrize("argument", ["name=n1", "instance_id={id}"])
def test_show_instance_is_a_function_too(machine: Sandbox, argument: str) -> None:
    (instance,) = machine.instances().values()
    found = machine.salt_cloud(
        "-f", "show_instance", "one", argument.format(id=instance["InstanceId"])
    )
    assert not found.code, found
    assert found.answer["one"]["ec2"]["id"] == instance["InstanceId"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("location", ["eu-west-1"]),
        ("allowed_regions", {"eu-west-1": True}),
        ("endpoint_url", 5),
        ("max_attempts", "many"),
    ],
)
def test_wrong_value_of_provider_is_refused_by_option(
    sandbox: Sandbox, option: str, value: Any
) -> None:
    sandbox.providers["one"][option] = value
    done = sandbox.salt_cloud("--query")
    assert done.code, done
    assert_sentence(done.output, option)


NO_TEXT = "<Response><Errors><Error><Code>Unsupported</Code></Error></Errors></Response>"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("RunInstances", ("-p", "p1", "n1", "--no-deploy")),
        ("DescribeInstances", ("--query",)),
    ],
)
def test_api_error_without_text_is_a_sentence(
    sandbox: Sandbox, call: str, arguments: tuple[str, ...]
) -> None:
    sandbox.server.answers[call] = lambda _: ("400 Bad Request", NO_TEXT)
    done = sandbox.salt_cloud(*arguments)
    assert done.code, done
    assert_sentence(done.output, call)
    assert "None" not in done.output


def state(sandbox: Sandbox, *arguments: str) -> tuple[Run, dict[str, Any]]:
    """Run one state, and return its result too."""
    done = sandbox.run("salt-call", "--local", "state.single", *arguments)
    (result,) = done.answer["local"].values()
    return done, result


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("cloud.present", "n1", "cloud_provider=one", "imagge=x"), "imagge"),
        (("cloud.present", "n1", "cloud_provider=one", "image=x", "volumes={a: b}"), "volumes"),
        (("cloud.profile", "n1", "profile=wrong"), "imagge"),
        (("cloud.profile", "n1", "profile=untagged"), "tag"),
    ],
)
def test_state_fails_with_sentence(
    sandbox: Sandbox, arguments: tuple[str, ...], option: str
) -> None:
    sandbox.profiles["wrong"] = {**sandbox.profiles["p1"], "imagge": "x"}
    sandbox.profiles["untagged"] = {**sandbox.profiles["p1"], "tag": "blue"}
    done, result = state(sandbox, *arguments)
    assert result["result"] is False, done
    assert_sentence(done.output, option)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("cloud.create", "one", "n1", "imagge=x"), "imagge"),
        (("cloud.profile", "wrong", "n1"), "imagge"),
        (("cloud.action", "show_image", "provider=one"), "image"),
        (("cloud.action", "create_volume", "provider=one"), "zone"),
    ],
)
def test_execution_module_fails_with_sentence(
    sandbox: Sandbox, arguments: tuple[str, ...], name: str
) -> None:
    sandbox.profiles["wrong"] = {**sandbox.profiles["p1"], "imagge": "x"}
    done = sandbox.run("salt-call", "--local", *arguments)
    assert done.code, done
    assert_sentence(done.output, name)
