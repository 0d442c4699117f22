"""A local cloud without Docker: the API is real, the machines exist in memory only."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Any

import boto3
from botocore.config import Config
from botocore.utils import InstanceMetadataFetcher
from moto.core.base_backend import BackendDict
from werkzeug.serving import make_server

from localcloud import catalog
from localcloud.auth import Gate
from localcloud.cloud import Cloud
from localcloud.config import METADATA, CloudConfig, Credentials, Endpoint
from localcloud.delays import INSTANT, Delays
from localcloud.errors import MachineError, MachineGone
from localcloud.faults import FaultClient
from localcloud.hooks import Hooks
from localcloud.machines import Machine, Observed
from localcloud.reachability import Policy
from localcloud.server import Api, Handler
from localcloud.state import StateFile

_SESSION: Any = boto3.Session()
"""The session of all clients, which caches the models of the services."""


class MemoryHost:
    """Machines that are entries of a dictionary."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.observed: dict[str, Observed] = {}
        self.cpus: dict[str, float] = {}
        self.log: list[str] = []
        self.networks_dropped: list[str] = []
        self.policy = Policy()
        self.broken: str | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._events: Queue[str | None] = Queue()

    def create(self, machine: Machine) -> None:
        self._act("create", machine.instance_id)
        self.machines[machine.instance_id] = machine
        self.observed[machine.instance_id] = Observed(running=True)

    def start(self, machine: Machine) -> None:
        self._act("start", machine.instance_id)
        if machine.instance_id not in self.observed:
            raise MachineGone("gone")
        self.machines[machine.instance_id] = machine
        self.observed[machine.instance_id] = Observed(running=True)

    def stop(self, instance_id: str) -> None:
        self._act("stop", instance_id)
        self.observed[instance_id] = Observed(running=False, exit_code=130)

    def reboot(self, instance_id: str) -> None:
        self._act("reboot", instance_id)

    def limit_cpu(self, instance_id: str, cpus: float) -> None:
        if instance_id not in self.machines:
            raise MachineGone(instance_id)
        self.cpus[instance_id] = cpus

    def remove(self, instance_id: str) -> None:
        self.log.append(f"remove {instance_id}")
        self.gate.wait(60)
        self.machines.pop(instance_id, None)
        self.observed.pop(instance_id, None)

    def drop_network(self, subnet_id: str) -> None:
        self.networks_dropped.append(subnet_id)

    def enforce(self, policy: Policy) -> None:
        self.policy = policy

    def console(self, instance_id: str, until: datetime) -> str:  # noqa: ARG002
        return f"console of {instance_id}\n"

    def observe(self) -> dict[str, Observed]:
        return dict(self.observed)

    def events(self) -> Iterator[str]:
        while (event := self._events.get()) is not None:
            yield event

    def end(self, instance_id: str, exit_code: int | None) -> None:
        """Have a machine end with an exit code, or be removed (None)."""
        if exit_code is None:
            del self.observed[instance_id]
        else:
            self.observed[instance_id] = Observed(running=False, exit_code=exit_code)
        self._events.put(instance_id)

    def close(self) -> None:
        self._events.put(None)

    def _act(self, verb: str, instance_id: str) -> None:
        self.log.append(f"{verb} {instance_id}")
        self.gate.wait(60)
        if self.broken:
            raise MachineError(self.broken)


class From:
    """The API, as seen by requests from one address.

    Attributes:
        address: where requests seem to come from; empty: from this host.
    """

    def __init__(self, api: Api) -> None:
        self.api, self.address = api, ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self.address:
            environ["REMOTE_ADDR"] = self.address
        return self.api(environ, start_response)


@dataclass
class Running:
    """A local cloud that is served by this process."""

    cloud: Cloud
    host: MemoryHost
    credentials: Credentials
    url: str
    api: From
    file: StateFile

    def client(
        self,
        service: str,
        *,
        key: str = "",
        secret: str = "",
        region: str = "eu-west-1",
        token: str | None = None,
        patience: float = 60,
    ) -> Any:
        """Return a boto3 client without retries that ignores the environment.

        Its read times out after `patience` seconds.
        """
        return _SESSION.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=key or self.credentials.access_key_id,
            aws_secret_access_key=secret or self.credentials.secret_access_key,
            aws_session_token=token,
            config=Config(
                signature_version="s3v4" if service == "s3" else "v4",
                retries={"total_max_attempts": 1},
                proxies={},
                connect_timeout=60,
                read_timeout=patience,
            ),
        )

    @property
    def faults(self) -> FaultClient:
        return FaultClient(
            Endpoint(
                self.url,
                self.url,
                self.credentials.access_key_id,
                self.credentials.secret_access_key,
            )
        )

    def session_of(self, instance_id: str) -> dict[str, Any]:
        """Return the arguments of `client` for a machine's role, by the metadata service."""
        found = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        self.api.address = found[0]["Instances"][0]["PrivateIpAddress"]
        try:
            got = InstanceMetadataFetcher(
                base_url=f"{self.url}{METADATA}/", env={}
            ).retrieve_iam_role_credentials()
        finally:
            self.api.address = ""
        assert got, f"{instance_id} has no credentials of a role"
        return {"key": got["access_key"], "secret": got["secret_key"], "token": got["token"]}

    @functools.cached_property
    def ec2(self) -> Any:
        return self.client("ec2")

    def settle(self) -> None:
        assert self.cloud.idle(60), "an instance stayed in a transitional state"

    def age(self, seconds: float) -> None:
        """Make the last transition of every instance older."""
        with self.cloud.lock:
            for instance in self.cloud.instances():
                instance.transition -= timedelta(seconds=seconds)

    def state(self, instance_id: str) -> str:
        reservations = self.ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        return str(reservations[0]["Instances"][0]["State"]["Name"])


@contextmanager
def running(directory: Path, host: MemoryHost, delays: Delays = INSTANT) -> Iterator[Running]:
    """Serve a cloud from its saved state; afterwards moto is empty."""
    _empty_moto()
    config = CloudConfig("unit", directory, 0, "image", delays=delays)
    state = StateFile(directory)
    made = Cloud(host, state.save, config.delays)
    hooks = Hooks(made)
    server = None
    try:
        state.load()
        catalog.publish()
        credentials = Credentials.ensure(directory)
        api = From(Api(made, state, Gate(credentials), config))
        server = make_server("127.0.0.1", 0, api, threaded=True, request_handler=Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        threading.Thread(target=made.watch, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Running(made, host, credentials, url, api, state)
    finally:
        if server:
            server.shutdown()
            server.server_close()
        host.gate.set()
        host.close()
        made.close()
        _empty_moto()
        hooks.remove()


def emptied(made: Running) -> Running:
    """Return a running cloud after everything in its account is gone."""
    made.settle()
    with made.cloud.lock:
        _empty_moto()
        catalog.publish()
        made.host.machines.clear()
        made.host.observed.clear()
    return made


def saved(made: Running) -> bytes:
    """Return what an account without machines and objects holds, for `restore`."""
    made.settle()
    with made.cloud.lock:
        made.file.save()
        return made.file.path.read_bytes()


def restore(made: Running, content: bytes) -> None:
    """Have the account hold what it held when it was saved, and nothing else."""
    emptied(made)
    with made.cloud.lock:
        made.file.path.write_bytes(content)
        assert made.file.load()
        catalog.publish()


def _empty_moto() -> None:
    """Delete all backends of moto.

    moto's own reset first makes them anew, with thousands of images.
    """
    for backends in BackendDict._instances:
        backends.clear()
        if hasattr(backends, "bucket_accounts"):
            backends.bucket_accounts.clear()
    BackendDict._instances.clear()


@contextmanager
def with_bucket(folder: Path, name: str) -> Iterator[Running]:
    """Serve a local cloud that has a bucket with versions.

    Args:
        folder: for its state.
        name: of the bucket.
    """
    with running(folder, MemoryHost()) as made:
        s3 = made.client("s3")
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        yield made
