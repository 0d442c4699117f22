"""An EC2 in this process, and the driver with the names that Salt's loader gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import salt._logging
import salt.config
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws
from moto.ec2.models.instances import Instance
from moto.ec2.models.spot_requests import SpotRequestBackend

import iamactions
from saltext.ec2 import _client, _context, options
from saltext.ec2.clouds import ec2 as driver

PROVIDER = {
    "driver": "ec2",
    "location": "eu-west-1",
    "allowed_regions": ["eu-west-1"],
    "ssh_interface": "private_ips",
    "wait_for_ip_interval": 0.05,
}


@pytest.fixture(scope="session", autouse=True)
def _no_early_log() -> None:
    """Stop Salt from collecting log messages for its own logging, which is never set up here."""
    salt._logging.shutdown_temp_handler()


@pytest.fixture(autouse=True)
def _no_warnings_yet() -> None:
    """Forget the warnings of earlier tests: the driver warns once in a process."""
    options._warned.clear()
    _context._WARNED.clear()


@pytest.fixture(autouse=True)
def used_actions(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[str]]]:
    """Return the IAM actions that each function uses, and check that its docstring names them."""
    used = iamactions.record(monkeypatch)
    yield used
    assert iamactions.undocumented(used) == {}


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of an account.

    It has a VPC with the subnet `a`, the security groups `web` and `db`, and the key pair `deploy`.
    """
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws(config={"core": {"mock_credentials": False}}):
        _client._connect.cache_clear()
        client = _client._new_session(region_name="eu-west-1").client("ec2")
        vpc = client.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        tags: Any = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "a"}]}]
        client.create_subnet(VpcId=vpc, CidrBlock="10.40.1.0/24", TagSpecifications=tags)
        for name in ("web", "db"):
            client.create_security_group(GroupName=name, Description=name, VpcId=vpc)
        public = (
            Ed25519PrivateKey.generate()
            .public_key()
            .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        )
        client.import_key_pair(KeyName="deploy", PublicKeyMaterial=public)
        yield client
        _client._connect.cache_clear()


@pytest.fixture
def image(ec2: Any) -> str:
    """Return the id of an image with a root volume."""
    image_id: str = ec2.register_image(
        Name="debian-13-amd64-1",
        RootDeviceName="/dev/sda1",
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}}],
    )["ImageId"]
    return image_id


@pytest.fixture
def opts(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the driver's `__opts__`, with the provider `cloud`, and set its other dunders."""
    provider: dict[str, Any] = {**PROVIDER, "profiles": {}}
    opts = {
        **salt.config.DEFAULT_CLOUD_OPTS,
        "sock_dir": str(tmp_path),
        "cachedir": str(tmp_path),
        "pki_dir": str(tmp_path / "pki"),
        "transport": "zeromq",
        "deploy": False,
        "providers": {"cloud": {"ec2": provider}},
        "profiles": {},
    }
    monkeypatch.setattr(driver, "__opts__", opts, raising=False)
    monkeypatch.setattr(driver, "__active_provider_name__", "cloud:ec2", raising=False)
    monkeypatch.setattr(
        driver, "__utils__", {"cloud.fire_event": lambda *_, **__: None}, raising=False
    )
    return opts


@pytest.fixture
def spot_requests(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the ids of cancelled spot requests.

    Every spot instance gets a persistent spot request, which moto does not know: as long as the
    request is not cancelled, an instance that terminates has a successor.
    """
    cancelled: set[str] = set()
    terminate = Instance.terminate

    def request_id(instance: Instance) -> str | None:
        return instance.id.replace("i-", "sir-") if instance.lifecycle == "spot" else None

    def cancel(_: SpotRequestBackend, ids: list[str]) -> list[Any]:
        cancelled.update(ids)
        return [SimpleNamespace(id=request) for request in ids]

    def end(instance: Instance) -> Any:
        if instance.lifecycle == "spot" and request_id(instance) not in cancelled:
            instance.ec2_backend.run_instances(
                instance.image_id, 1, "", [], is_instance_type_default=True
            )
        return terminate(instance)

    monkeypatch.setattr(Instance, "spot_instance_request_id", property(request_id), raising=False)
    monkeypatch.setattr(Instance, "terminate", end)
    monkeypatch.setattr(SpotRequestBackend, "cancel_spot_instance_requests", cancel)
    return cancelled


Machine = Callable[..., dict[str, Any]]


@pytest.fixture
def machine(opts: dict[str, Any], image: str) -> Machine:
    """Return a function that makes what the core passes to `create`."""
    profile = {
        "provider": "cloud:ec2",
        "image": image,
        "size": "t2.micro",
        "subnetname": "a",
        "securitygroup": "web",
    }

    def make(name: str, **options: Any) -> dict[str, Any]:
        opts["profiles"]["small"] = profile
        return {
            **opts["providers"]["cloud"]["ec2"],
            **profile,
            **options,
            "profile": "small",
            "name": name,
        }

    return make
