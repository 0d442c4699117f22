"""salt-cloud's events are those of Salt's manual: a reactor that was written for them works."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import salt.config
import salt.utils.reactor

from eventbus import EventBus, event_bus
from sandbox import Sandbox

# What the manual and Salt's own driver say of the steps of a deployment, in their order.
STEPS = ["creating", "requesting", "querying", "tagging", "waiting_for_ssh", "deploying", "created"]


@pytest.fixture(scope="module")
def life(server: Any, tmp_path_factory: pytest.TempPathFactory) -> EventBus:
    """The events of one machine with a volume: launched, stopped, started and destroyed."""
    server.reset()
    sandbox = Sandbox(server, tmp_path_factory.mktemp("events") / "salt")
    sandbox.profiles["p1"] |= {
        "tag": {"team": "blue"},
        "volumes": [{"device": "/dev/sdf", "size": 5}],
    }
    with event_bus(sandbox.folder / "run") as bus:
        sandbox.launch("n1")
        for arguments in (["-a", "stop"], ["-a", "start"], ["-d"]):
            done = sandbox.salt_cloud(*arguments, "n1")
            assert not done.code, done
    return bus


def test_events_follow_each_other(life: EventBus) -> None:
    tags = [tag.removeprefix("n1/") for tag in life.tags()]
    assert [tag for tag in tags if tag in STEPS] == STEPS


def test_events_frame_what_happens(life: EventBus) -> None:
    tags = [tag.removeprefix("n1/") for tag in life.tags()]
    assert tags[0] == "creating"
    assert tags[-2:] == ["destroying", "destroyed"]
    assert tags.index("requesting") < tags.index("deploying") < tags.index("created")


def test_creating_tells_name_profile_and_provider(life: EventBus) -> None:
    data = life.data("n1/creating")
    assert data["event"] == "starting create"
    assert {key: data[key] for key in ("name", "profile", "provider")} == {
        "name": "n1",
        "profile": "p1",
        "provider": "one:ec2",
    }


def test_created_tells_name_profile_provider_and_instance(life: EventBus) -> None:
    data = life.data("n1/created")
    assert data["event"] == "created instance"
    assert data["instance_id"].startswith("i-")
    assert {key: data[key] for key in ("name", "profile", "provider")} == {
        "name": "n1",
        "profile": "p1",
        "provider": "one:ec2",
    }


def test_created_tells_volumes(life: EventBus) -> None:
    assert life.data("n1/created")["volumes"] == [{"device": "/dev/sdf", "size": 5}]


def test_requesting_tells_request_and_location(life: EventBus) -> None:
    data = life.data("n1/requesting")
    assert data["event"] == "requesting instance"
    assert data["location"] == "eu-west-1"
    assert data["kwargs"]["ImageId"].startswith("ami-")
    assert data["kwargs"]["InstanceType"] == "t3.micro"
    assert data["kwargs"]["KeyName"] == "deploy"


@pytest.mark.parametrize(
    ("event", "message", "key"),
    [
        ("querying", "querying instance", "instance_id"),
        ("waiting_for_ssh", "waiting for ssh", "ip_address"),
        ("tagging", "setting tags", "tags"),
        ("attaching_volumes", "attaching volumes", "volumes"),
        ("stopping", "stopping instance", "instance_id"),
        ("starting", "starting instance", "instance_id"),
    ],
)
def test_step_of_old_driver_is_an_event(life: EventBus, event: str, message: str, key: str) -> None:
    data = life.data(f"n1/{event}")
    assert data["event"] == message
    assert data[key]


def test_tagging_tells_all_tags(life: EventBus) -> None:
    assert {"team": "blue", "Name": "n1"}.items() <= life.data("n1/tagging")["tags"].items()


def test_deploying_tells_what_deployment_uses(life: EventBus) -> None:
    data = life.data("n1/deploying")
    assert data["event"] == "executing deploy script"
    assert data["kwargs"]["name"] == "n1"
    assert data["kwargs"]["host"].startswith("10.40.0.")
    assert data["kwargs"]["minion_conf"]["master"] == "127.0.0.1"


def test_deploy_script_tells_name_and_host(life: EventBus) -> None:
    data = life.data("n1/deploy_script")
    assert data["event"].startswith("n1 has been deployed at 10.40.0.")
    assert data["name"] == "n1"
    assert data["host"].startswith("10.40.0.")


@pytest.mark.parametrize("event", ["destroying", "destroyed"])
def test_destroy_tells_name_and_instance(life: EventBus, event: str) -> None:
    data = life.data(f"n1/{event}")
    assert data["event"] == f"{event} instance"
    assert (data["name"], data["instance_id"][:2]) == ("n1", "i-")


def test_events_hold_no_secret(life: EventBus) -> None:
    assert "PRIVATE KEY" not in str(life.events)


def test_filter_events_adds_and_removes_keys(sandbox: Sandbox) -> None:
    sandbox.main["filter_events"] = {
        "creating": {"keys": ["size"]},
        "requesting": {"keys": ["ImageId", "MinCount"], "use_defaults": False},
        "created": {"keys": ["instance_id"], "use_defaults": False},
    }
    with event_bus(sandbox.folder / "run") as bus:
        done = sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy")
    assert not done.code, done
    assert bus.data("n1/creating").keys() >= {"name", "profile", "provider", "size"}
    assert bus.data("n1/created").keys() == {"event", "instance_id"}
    assert bus.data("n1/requesting")["kwargs"].keys() == {"ImageId", "MinCount"}


def test_filter_events_hides_default_keys(sandbox: Sandbox) -> None:
    sandbox.main["filter_events"] = {"creating": {"keys": ["name"], "use_defaults": False}}
    with event_bus(sandbox.folder / "run") as bus:
        done = sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy")
    assert not done.code, done
    assert bus.data("n1/creating").keys() == {"event", "name"}


# One file of /srv/reactor for each: the manual's two, and what others made of the steps between.
REACTORS = {
    "creating": """
        note:
          runner.event.send:
            - args:
                tag: notes/{{ data['name'] }}
                data: {from: "{{ data['profile'] }} of {{ data['provider'].split(':')[0] }}"}
    """,
    "requesting": """
        note:
          runner.event.send:
            - args: {tag: "notes/{{ data['kwargs']['InstanceType'] }}/{{ data['location'] }}"}
    """,
    "querying": """
        note:
          runner.event.send:
            - args: {tag: "notes/{{ data['instance_id'] }}"}
    """,
    "tagging": """
        note:
          runner.event.send:
            - args: {tag: "notes/{{ data['tags']['team'] }}"}
    """,
    "waiting_for_ssh": """
        note:
          runner.event.send:
            - args: {tag: "notes/{{ data['ip_address'] }}"}
    """,
    "deploying": """
        note:
          runner.event.send:
            - args: {tag: "notes/{{ data['kwargs']['host'] }}"}
    """,
    "created": """
        alert:
          local.cmd.run:
            - tgt: alerts
            - args:
                cmd: "alert '{{ data['name'] }}' '{{ data['profile'] }} on {{ data['provider'] }}'"
        highstate:
          local.state.apply:
            - tgt: {{ data['name'] }}
    """,
    "destroyed": """
        forget:
          wheel.key.delete:
            - args: {match: "{{ data['name'] }}"}
    """,
}


@pytest.fixture(scope="module")
def reactor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Salt's reactor, of a master that does not run."""
    folder = tmp_path_factory.mktemp("master")
    (folder / "master").write_text(f"root_dir: {folder}\n")
    return salt.utils.reactor.Reactor(salt.config.master_config(str(folder / "master")))


@pytest.mark.parametrize("event", REACTORS)
def test_reactor_of_old_driver_renders(
    life: EventBus, reactor: Any, tmp_path: Path, event: str
) -> None:
    (tmp_path / "reactor.sls").write_text(dedent(REACTORS[event]))
    data = life.data(f"n1/{event}")
    rendered = reactor.render_reaction(
        str(tmp_path / "reactor.sls"), f"salt/cloud/n1/{event}", data
    )
    assert rendered, f"the reactor cannot be rendered with {data}"
