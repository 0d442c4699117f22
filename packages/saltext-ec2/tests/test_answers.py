"""What salt-cloud prints is an answer that programs read, in words of Salt's own driver too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox import Run, Sandbox

SCRIPT = "echo printed-by-script\necho wrong-by-script >&2\n"


@pytest.mark.parametrize(
    "command",
    [
        ("salt-cloud", "--assume-yes", "--profile=p1", "n1"),
        ("salt-cloud", "--assume-yes", "--map={folder}/map"),
        ("salt-cloud", "--assume-yes", "--map={folder}/map", "--parallel"),
        ("salt-call", "--local", "cloud.profile", "p1", "n1"),
    ],
    ids=["profile", "map", "parallel", "salt-call"],
)
def test_answer_is_json_beside_script_that_prints(
    sandbox: Sandbox, command: tuple[str, ...]
) -> None:
    sandbox.main["display_ssh_output"] = True
    sandbox.write("deploy.sh", SCRIPT)
    sandbox.write("map", {"p1": ["n1"]})
    program, *arguments = command
    done = sandbox.run(program, *(word.format(folder=sandbox.folder) for word in arguments))
    assert not done.code, done
    assert "n1" in json.dumps(done.answer)
    assert "by-script" not in done.stdout


def test_script_output_is_shown_on_stderr(sandbox: Sandbox) -> None:
    sandbox.main["display_ssh_output"] = True
    sandbox.write("deploy.sh", SCRIPT)
    done = sandbox.salt_cloud("--profile=p1", "n1")
    assert "printed-by-script" in done.stderr
    assert "wrong-by-script" in done.stderr


def test_script_output_is_shown_only_when_asked_for(sandbox: Sandbox) -> None:
    sandbox.main["display_ssh_output"] = False
    sandbox.write("deploy.sh", SCRIPT)
    done = sandbox.salt_cloud("--profile=p1", "n1")
    assert not done.code, done
    assert "by-script" not in done.output


@pytest.fixture(scope="module")
def answers(server: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of one machine's life, by what was asked."""
    server.reset()
    sandbox = Sandbox(server, tmp_path_factory.mktemp("answers") / "salt")
    sandbox.profiles["p1"]["tag"] = {"team": "blue"}
    found: dict[str, Any] = {"create": sandbox.salt_cloud("-p", "p1", "n1").answer["n1"]}
    for action in ("show_instance", "stop", "start", "reboot", "get_tags", "show_volumes"):
        found[action] = only(sandbox.salt_cloud("-a", action, "n1"))
    found["query"] = only(sandbox.salt_cloud("--query"))
    found["full"] = only(sandbox.salt_cloud("--full-query"))
    volume = only(
        sandbox.salt_cloud("-f", "create_volume", "one", "zone=eu-west-1a", "size=1"), name=""
    )
    found["create_volume"] = volume
    found["destroy"] = only(sandbox.salt_cloud("-d", "n1"))
    return found


def only(done: Run, name: str = "n1") -> Any:
    """Return the answer for one machine, or for the provider."""
    assert not done.code, done
    answer = done.answer["one"]["ec2"]
    return answer[name] if name else answer


@pytest.mark.parametrize("asked", ["create", "show_instance", "full"])
@pytest.mark.parametrize(
    "key",
    [
        "instanceId", "imageId", "instanceType", "privateIpAddress", "subnetId", "vpcId", "keyName",
        "launchTime", "privateDnsName", "rootDeviceName", "instanceState", "placement", "tagSet",
    ],
)  # fmt: skip
def test_instance_has_key_in_old_spelling(answers: dict[str, Any], asked: str, key: str) -> None:
    assert key in answers[asked]


@pytest.mark.parametrize("asked", ["create", "show_instance", "full"])
def test_instance_has_keys_of_every_cloud(answers: dict[str, Any], asked: str) -> None:
    assert answers[asked].keys() >= {
        "id", "image", "size", "state", "name", "private_ips", "public_ips",
    }  # fmt: skip


def test_query_tells_name(answers: dict[str, Any]) -> None:
    assert answers["query"]["name"] == "n1"


def test_destroy_tells_states_as_mappings(answers: dict[str, Any]) -> None:
    assert answers["destroy"]["instanceId"].startswith("i-")
    assert answers["destroy"]["currentState"]["name"] == "shutting-down"
    assert answers["destroy"]["previousState"]["name"] == "running"


@pytest.mark.parametrize(("action", "state"), [("stop", "stopping"), ("start", "pending")])
def test_stop_and_start_tell_states_in_list(
    answers: dict[str, Any], action: str, state: str
) -> None:
    (change,) = answers[action]
    assert change["instanceId"].startswith("i-")
    assert change["currentState"]["name"] == state


def test_reboot_is_complete(answers: dict[str, Any]) -> None:
    assert answers["reboot"]["Reboot"] == "Complete"


def test_created_volume_tells_its_id(answers: dict[str, Any]) -> None:
    assert answers["create_volume"]["volumeId"].startswith("vol-")


@pytest.mark.parametrize(
    "arguments",
    [
        ("cloud.profile", "n1", "profile=p1"),
        ("cloud.present", "n1", "cloud_provider=one", "image={image}", "size=t3.micro"),
    ],
    ids=["profile", "present"],
)
def test_state_repairs_machine_without_minion_or_says_so(
    sandbox: Sandbox, arguments: tuple[str, ...]
) -> None:
    sandbox.write("deploy.sh", "exit 3\n")
    assert sandbox.salt_cloud("-p", "p1", "n1").code
    sandbox.write("deploy.sh", "touch deployed\n")
    words = [word.format(image=sandbox.image) for word in arguments]
    done = sandbox.run("salt-call", "--local", "state.single", *words)
    (result,) = done.answer["local"].values()
    if result["result"]:
        (instance,) = sandbox.instances().values()
        host = sandbox.folder / "hosts" / instance["PrivateIpAddress"]
        assert (host / "deployed").exists(), result
    else:
        assert "deploy" in result["comment"]
        assert "Traceback" not in result["comment"]
