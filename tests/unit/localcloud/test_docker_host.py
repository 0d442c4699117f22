"""The machines of a cloud as containers: what the host asks of Docker, and what it makes of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException, NotFound

from localcloud import machines
from localcloud.errors import MachineError, MachineGone
from localcloud.machines import DockerHost, Machine, Observed
from localcloud.reachability import Policy
from localcloud.ruleset import Places

WEB = Machine(
    instance_id="i-1",
    name="web-1",
    subnet_id="subnet-1",
    cidr="10.0.0.0/24",
    address="10.0.0.4",
    hostname="ip-10-0-0-4",
    domain="ec2.internal",
    cpus=1,
    memory=1024,
    authorized_key=" ssh-ed25519 AAAA \n",
    user_data=b"#!/bin/sh\n",
)
REFUSED = APIError("500 Server Error", explanation="no space left on device")


class Container:
    """A container, which keeps what is asked of it."""

    def __init__(self, instance_id: str = "i-1", **state: Any) -> None:
        self.name = f"demo-{instance_id}"
        self.labels = {machines.INSTANCE_LABEL: instance_id}
        self.attrs = {"State": {"Status": "running", "Running": True, "ExitCode": 0, **state}}
        self.printed = b""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, tarfile.TarInfo] = {}
        self.texts: dict[str, bytes] = {}
        self.error: Exception | None = None

    def reload(self) -> None:
        """The container is as it was."""

    def _ask(self, what: str, **options: Any) -> None:
        self.asked.append((what, options))
        if self.error:
            raise self.error

    def start(self) -> None:
        self._ask("start")

    def stop(self, *, timeout: int) -> None:
        self._ask("stop", timeout=timeout)

    def restart(self, *, timeout: int) -> None:
        self._ask("restart", timeout=timeout)

    def remove(self, *, force: bool, v: bool) -> None:
        self._ask("remove", force=force, v=v)

    def update(self, **limits: Any) -> None:
        self._ask("update", **limits)

    def put_archive(self, path: str, archive: bytes) -> None:
        assert path == "/"
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                assert content
                self.files[entry.name], self.texts[entry.name] = entry, content.read()
        self._ask("put_archive")

    def logs(self, **which: float) -> bytes:
        self._ask("logs", **which)
        return b"\n".join(self.printed.split(b"\n")[-int(which.get("tail", 0)) :])

    @property
    def did(self) -> list[str]:
        return [what for what, _ in self.asked]


class Named:
    """A network or a volume."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = f"{name}-0123456789abcdef"
        self.attrs = {"Labels": {machines.SUBNET_LABEL: name}}
        self.removed = False
        self.error: Exception | None = None

    def remove(self) -> None:
        if self.error:
            raise self.error
        self.removed = True


class Docker:
    """Docker's engine, which has the containers, networks and volumes that a test gives it."""

    def __init__(self) -> None:
        self.kept: dict[str, Container] = {}
        self.made: list[dict[str, Any]] = []
        self.filters: list[dict[str, Any]] = []
        self.found_networks: list[Named] = []
        self.found_volumes: list[Named] = []
        self.made_networks: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.happened: list[Any] = []
        self.containers = SimpleNamespace(
            get=self.get, create=self.create, list=self.list_containers
        )
        self.networks = SimpleNamespace(list=self.list_networks, create=self.create_network)
        self.volumes = SimpleNamespace(list=self.list_volumes)
        self.api = SimpleNamespace(create_endpoint_config=lambda **given: given)

    def get(self, name: str) -> Container:
        if self.error:
            raise self.error
        if name not in self.kept:
            raise NotFound(f"No such container: {name}")
        return self.kept[name]

    def create(self, image: str, **options: Any) -> Container:
        assert image == "image:1"
        self.made.append(options)
        made = Container(options["labels"][machines.INSTANCE_LABEL])
        made.name = options["name"]
        self.kept[made.name] = made
        return made

    def list_containers(self, *, filters: dict[str, Any], **options: Any) -> list[Container]:
        # A stopped machine is a machine as well; and docker-py fails when a container is removed
        # while it lists them, unless it is told to ignore that.
        assert options == {"all": True, "ignore_removed": True}
        self.filters.append(filters)
        if self.error:
            raise self.error
        return list(self.kept.values())

    def list_networks(self, *, filters: dict[str, Any]) -> list[Named]:
        self.filters.append(filters)
        if self.error:
            raise self.error
        return self.found_networks

    def list_volumes(self, *, filters: dict[str, Any]) -> list[Named]:
        self.filters.append(filters)
        return self.found_volumes

    def create_network(self, name: str, **options: Any) -> Named:
        self.made_networks.append((name, options))
        return Named(name)

    def events(self, *, decode: bool, filters: dict[str, Any]) -> Iterator[Any]:
        assert decode
        self.filters.append(filters)
        for event in self.happened:
            if isinstance(event, Exception):
                raise event
            yield event


class Rules:
    """The host's kernel, which keeps what it is to enforce."""

    def __init__(self) -> None:
        self.loaded: list[tuple[Policy, Places]] = []

    def load(self, policy: Policy, places: Places) -> bool:
        self.loaded.append((policy, places))
        return True


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def rules() -> Rules:
    return Rules()


@pytest.fixture
def host(docker: Docker, rules: Rules) -> DockerHost:
    client: Any = docker
    return DockerHost(client, "demo", Path("/cloud"), "image:1", rules)


@pytest.fixture
def web(docker: Docker) -> Container:
    """The container of a machine."""
    docker.kept["demo-i-1"] = Container()
    return docker.kept["demo-i-1"]


# -- the life of a machine -------------------------------------------------------------------------


def test_new_machine_has_its_first_boot_data_before_it_starts(
    docker: Docker, host: DockerHost
) -> None:
    host.create(WEB)
    made = docker.kept["demo-i-1"]
    assert made.did == ["put_archive", "start"]
    seed = "var/lib/cloud/seed"
    assert made.texts[f"{seed}/hostname"] == b"ip-10-0-0-4\n"
    assert b"127.0.1.1 ip-10-0-0-4.ec2.internal ip-10-0-0-4\n" in made.texts[f"{seed}/hosts"]
    assert made.texts[f"{seed}/user-data"] == b"#!/bin/sh\n"
    assert made.texts["home/admin/.ssh/authorized_keys"] == b"ssh-ed25519 AAAA\n"
    modes = {name: (entry.mode, entry.uid, entry.gid) for name, entry in made.files.items()}
    assert modes == {
        f"{seed}/hosts": (0o644, 0, 0),
        f"{seed}/hostname": (0o644, 0, 0),
        f"{seed}/resolv.conf": (0o644, 0, 0),
        f"{seed}/user-data": (0o600, 0, 0),
        "home/admin/.ssh/authorized_keys": (0o600, 1000, 1000),
    }


def test_network_is_guarded_before_the_machine_starts_and_its_port_after_that(
    docker: Docker, host: DockerHost, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_port", lambda container: f"veth-{container.name}")
    started: list[bool] = []
    load = rules.load

    def note(policy: Policy, places: Places) -> bool:
        container = docker.kept.get("demo-i-1")
        started.append(bool(container and "start" in container.did))
        return load(policy, places)

    monkeypatch.setattr(rules, "load", note)
    host.enforce(Policy())
    host.create(WEB)
    seen = [(set(places.bridges), places.ports.get("i-1", "")) for _, places in rules.loaded]
    assert list(zip(started, seen, strict=True)) == [
        (False, (set(), "")),
        (False, ({"subnet-1"}, "")),
        (True, ({"subnet-1"}, "veth-demo-i-1")),
    ]
    host.reboot("i-1")
    assert rules.loaded[-1][1].ports == {"i-1": "veth-demo-i-1"}


def test_running_machines_and_networks_of_an_earlier_process_are_guarded(
    docker: Docker, host: DockerHost, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_port", lambda container: f"veth-{container.name}")
    docker.kept["demo-i-1"] = Container()
    docker.found_networks = [Named("subnet-1")]
    host.enforce(Policy())
    host.observe()
    assert rules.loaded[-1][1] == Places(
        {"subnet-1": f"br-{docker.found_networks[0].id[:12]}"}, {"i-1": "veth-demo-i-1"}
    )


def test_faults_of_a_machine_are_on_its_disk(docker: Docker, host: DockerHost) -> None:
    host.create(replace(WEB, sshd=False, authorized_key=""))
    files = docker.kept["demo-i-1"].texts
    drop_in = docker.kept["demo-i-1"].files["etc/systemd/system/ssh.service.d/fault.conf"]
    assert (drop_in.mode, drop_in.uid) == (0o644, 0)
    assert b"ConditionPathExists" in files["etc/systemd/system/ssh.service.d/fault.conf"]
    assert "home/admin/.ssh/authorized_keys" not in files


def test_container_is_found_by_its_cloud_and_instance(docker: Docker, host: DockerHost) -> None:
    host.create(WEB)
    (options,) = docker.made
    assert options["name"] == "demo-i-1"
    assert options["tty"] is True, "systemd needs a console"
    assert (options["hostname"], options["domainname"]) == ("ip-10-0-0-4", "ec2.internal")
    assert options["labels"] == {
        "localcloud.cloud": "demo",
        "localcloud.instance": "i-1",
        "localcloud.name": "web-1",
    }
    assert options["network"] == "demo-subnet-1"


def test_first_machine_of_a_subnet_makes_its_network(docker: Docker, host: DockerHost) -> None:
    host.create(WEB)
    ((name, options),) = docker.made_networks
    assert name == "demo-subnet-1"
    assert options["check_duplicate"] is True, "Docker allows two networks of one name"
    assert options["ipam"]["Config"] == [
        {
            "Subnet": "10.0.0.0/24",
            "Gateway": "10.0.0.1",
            "IPRange": None,
            "AuxiliaryAddresses": None,
        }
    ]
    labels = {"localcloud.cloud": "demo", "localcloud.subnet": "subnet-1"}
    assert options["labels"] == labels | {"localcloud.folder": "/cloud"}
    assert docker.filters[-1] == {"label": [f"{key}={value}" for key, value in labels.items()]}
    docker.found_networks = [Named("demo-subnet-1")]
    host.create(WEB)
    assert len(docker.made_networks) == 1


def test_what_a_killed_process_left_is_removed_first(
    docker: Docker, host: DockerHost, web: Container
) -> None:
    host.create(WEB)
    assert web.asked == [("remove", {"force": True, "v": True})]
    assert docker.kept["demo-i-1"] is not web


def test_machine_starts_with_its_present_size_and_name_servers(
    host: DockerHost, web: Container
) -> None:
    host.start(WEB)
    assert web.did == ["update", "put_archive", "start"]
    assert web.asked[0][1] == machines.size_limits(1, 1024)
    assert list(web.files) == ["var/lib/cloud/seed/resolv.conf"]
    assert web.texts["var/lib/cloud/seed/resolv.conf"] == machines.resolver().encode()


def test_cpu_of_a_running_machine_changes_and_nothing_else(
    host: DockerHost, web: Container
) -> None:
    host.limit_cpu("i-1", 0.1)
    assert web.asked == [("update", {"cpu_period": 100_000, "cpu_quota": 10_000})]


def test_machine_has_time_to_shut_down(host: DockerHost, web: Container) -> None:
    host.stop("i-1")
    host.reboot("i-1")
    host.remove("i-1")
    patience = {"timeout": machines.STOP_SECONDS}
    assert web.asked == [
        ("stop", patience),
        ("restart", patience),
        ("remove", {"force": True, "v": True}),
    ]


CALLS: dict[str, Callable[[DockerHost], object]] = {
    "create": lambda host: host.create(WEB),
    "start": lambda host: host.start(WEB),
    "stop": lambda host: host.stop("i-1"),
    "reboot": lambda host: host.reboot("i-1"),
    "remove": lambda host: host.remove("i-1"),
}


@pytest.mark.parametrize("name", CALLS)
def test_refusal_of_docker_is_an_error_with_its_reason(
    host: DockerHost, web: Container, name: str
) -> None:
    web.error = REFUSED
    with pytest.raises(MachineError, match=r"^no space left on device$"):
        CALLS[name](host)


@pytest.mark.parametrize("name", CALLS)
def test_engine_that_does_not_answer_is_an_error(
    docker: Docker, host: DockerHost, name: str
) -> None:
    docker.error = DockerException("Connection refused")
    with pytest.raises(MachineError, match=r"^Connection refused$"):
        CALLS[name](host)


@pytest.mark.parametrize("name", ["start", "stop", "reboot"])
def test_machine_that_is_gone_is_an_error(host: DockerHost, name: str) -> None:
    with pytest.raises(MachineGone, match=r"^container demo-i-1 does not exist$"):
        CALLS[name](host)


def removing() -> APIError:
    """Return Docker's answer when the removal of a container is under way."""
    response = requests.Response()
    response.status_code = 409
    return APIError("409 Client Error", response=response)


@pytest.mark.parametrize("error", [NotFound("gone"), removing()])
def test_removing_what_another_removes_is_no_error(
    host: DockerHost, web: Container, error: Exception
) -> None:
    web.error = error
    host.remove("i-1")
    host.remove("i-2")  # it never was


def test_network_goes_with_its_subnet(docker: Docker, host: DockerHost) -> None:
    host.drop_network("subnet-1")
    network = Named("demo-subnet-1")
    docker.found_networks = [network]
    host.drop_network("subnet-1")
    assert network.removed
    assert docker.filters[-1]["label"] == ["localcloud.cloud=demo", "localcloud.subnet=subnet-1"]
    network.error = NotFound("gone")
    host.drop_network("subnet-1")
    network.error = REFUSED
    with pytest.raises(MachineError, match="no space"):
        host.drop_network("subnet-1")


# -- what the machines do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "printed", "observed"),
    [
        ({}, b"", Observed(running=True)),
        ({}, b"Rebooting.", Observed(running=True)),
        ({"Running": False}, b"Powering off.", Observed(running=False)),
        ({"Running": False}, b"a\nRebooting.\nb\nc", Observed(running=False, exit_code=129)),
        ({"Running": False}, b"Rebooting.\na\nb\nc", Observed(running=False)),
        ({"Running": False, "ExitCode": 130}, b"", Observed(running=False, exit_code=130)),
        (
            {"Running": False, "ExitCode": 130},
            b"Rebooting.",
            Observed(running=False, exit_code=129),
        ),
        (
            {"Running": False, "ExitCode": 137},
            b"Rebooting.",
            Observed(running=False, exit_code=137),
        ),
    ],
)
def test_machine_is_observed_with_how_it_ended(
    docker: Docker,
    host: DockerHost,
    web: Container,
    state: dict[str, Any],
    printed: bytes,
    observed: Observed,
) -> None:
    web.attrs["State"] |= state
    web.printed = printed
    assert host.observe() == {"i-1": observed}
    assert docker.filters == [{"label": ["localcloud.cloud=demo"]}]


@pytest.mark.parametrize(
    ("status", "counts"),
    [("running", True), ("exited", True), ("created", False), ("removing", False)],
)
def test_machine_that_is_made_or_removed_is_not_observed(
    host: DockerHost, web: Container, status: str, *, counts: bool
) -> None:
    web.attrs["State"]["Status"] = status
    assert bool(host.observe()) is counts


def test_machines_of_an_engine_that_does_not_answer_are_unknown(
    docker: Docker, host: DockerHost
) -> None:
    docker.error = DockerException("Connection refused")
    with pytest.raises(MachineError, match="Connection refused"):
        host.observe()


def test_console_has_the_output_since_the_last_start(host: DockerHost, web: Container) -> None:
    web.attrs["State"]["StartedAt"] = "1970-01-01T00:01:00+00:00"
    web.printed = b"Debian \xff\n"
    until = datetime.fromtimestamp(90, UTC)
    assert host.console("i-1", until) == "Debian \ufffd\n"
    assert web.asked == [("logs", {"since": 60.0, "until": 90.0})]
    assert host.console("i-1", datetime.fromtimestamp(59, UTC)) == "", "it has started since"
    assert host.console("i-2", until) == ""
    web.error = REFUSED
    assert host.console("i-1", until) == ""


def happens(instance_id: str) -> dict[str, Any]:
    return {"Actor": {"Attributes": {machines.INSTANCE_LABEL: instance_id}}}


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ([], "event stream ended"),
        ([DockerException("gone")], "^gone$"),
        ([requests.ConnectionError("reset")], "^reset$"),
    ],
)
def test_events_name_instances_until_the_engine_ends(
    docker: Docker, host: DockerHost, end: list[Exception], said: str
) -> None:
    docker.happened = [happens("i-1"), happens("i-2"), *end]
    events = host.events()
    assert [next(events), next(events)] == ["i-1", "i-2"]
    with pytest.raises(MachineError, match=said):
        next(events)
    assert docker.filters == [
        {"type": "container", "event": ["die", "destroy"], "label": ["localcloud.cloud=demo"]}
    ]


# -- the whole cloud -------------------------------------------------------------------------------


def test_everything_of_a_cloud_is_removed(docker: Docker) -> None:
    client: Any = docker
    gone = Container("i-0")
    gone.error = NotFound("gone")
    docker.kept = {"a": Container("i-2"), "b": gone, "c": Container("i-1")}
    docker.found_networks, docker.found_volumes = [Named("net")], [Named("vol")]
    assert machines.container_names(client, "demo") == ["demo-i-0", "demo-i-1", "demo-i-2"]
    assert machines.remove_everything(client, "demo") == ["demo-i-2", "demo-i-1", "net", "vol"]
    assert docker.found_networks[0].removed
    assert docker.found_volumes[0].removed
    assert docker.kept["a"].asked == [("remove", {"force": True, "v": True})]
    assert {str(found) for found in docker.filters} == {"{'label': 'localcloud.cloud=demo'}"}
    docker.found_networks[0].error = REFUSED
    with pytest.raises(MachineError, match="no space left"):
        machines.remove_everything(client, "demo")
