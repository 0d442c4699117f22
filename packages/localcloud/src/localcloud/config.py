"""The configuration of a local cloud, its owner's access key, and the endpoint of its clients."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import string
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from localcloud.delays import Delays
from localcloud.errors import NoSuchCloud

Report = Callable[[str], None]
"""Receives one line of progress per call."""

REGION = "eu-west-1"
"""The only region that has images, and so the only region where instances can be launched."""

CONFIG_FILE = "config.json"
LOOPBACK = "127.0.0.1"
HEALTH = "/_localcloud/health"
"""The path that names, without a signature, the cloud and the process that serves it."""
METADATA = "/_localcloud/metadata"
"""The beginning of the paths of the instance metadata service, which machines alone may ask."""
METADATA_ADDRESS = "169.254.169.254"
"""The address at which machines ask it, as on EC2; there, its paths begin with nothing."""
TIME_ADDRESS = "169.254.169.123"
"""The address at which machines ask for the time, as on EC2."""


@dataclass(frozen=True)
class CloudConfig:
    """The configuration of a local cloud.

    Args:
        name: label and name prefix of the cloud's containers, networks and volumes.
        state_dir: holds credentials, state, log and pid file; it is made with mode 0700.
        port: TCP port of the API, on loopback and on Docker's bridge gateway; the next one serves
            S3 over TLS. UDP of the same number, on the gateway alone, tells the time.
        image: tag of the machines' image, as `localcloud.image.ensure` returns it.
        publish: Name tag of an elastic address -> port of the machine that has it -> where this
            host reaches it: (an address of loopback, port).
        delays: how long EC2 takes for what a client has to wait for.
    """

    name: str
    state_dir: Path
    port: int
    image: str
    publish: Mapping[str, Mapping[int, tuple[str, int]]] = field(default_factory=dict)
    delays: Delays = field(default_factory=Delays)

    @property
    def s3_port(self) -> int:
        """TCP port of S3 over TLS, at the same addresses."""
        return self.port + 1

    @property
    def path(self) -> Path:
        """The file from which the API process reads this configuration."""
        return self.state_dir / CONFIG_FILE

    def dump(self) -> str:
        """Return the configuration as JSON; equal configurations give equal text."""
        return json.dumps(
            {
                "name": self.name,
                "state_dir": str(self.state_dir),
                "port": self.port,
                "image": self.image,
                "publish": {
                    name: {str(port): list(where) for port, where in sorted(ports.items())}
                    for name, ports in sorted(self.publish.items())
                },
                "delays": asdict(self.delays),
            },
            indent=2,
        )

    @classmethod
    def read(cls, state_dir: Path) -> CloudConfig:
        """Return the configuration of the cloud in a state directory.

        Raises:
            NoSuchCloud: the directory holds none.
        """
        path = state_dir / CONFIG_FILE
        if not path.is_file():
            raise NoSuchCloud(
                f"There is no cloud in {state_dir}. Configure one: "
                "localcloud serve --name NAME --image TAG STATE_DIR"
            )
        return cls.load(path.read_text())

    @classmethod
    def load(cls, text: str) -> CloudConfig:
        """Return the configuration that `dump` has written."""
        data = json.loads(text)
        return cls(
            name=data["name"],
            state_dir=Path(data["state_dir"]),
            port=int(data["port"]),
            image=data["image"],
            publish={
                name: {int(port): (str(where[0]), int(where[1])) for port, where in ports.items()}
                for name, ports in data["publish"].items()
            },
            # Earlier versions have written none.
            delays=Delays.load(data.get("delays", {})),
        )


@dataclass(frozen=True)
class Credentials:
    """The access key of a cloud's owner."""

    access_key_id: str
    secret_access_key: str = field(repr=False)

    @classmethod
    def ensure(cls, state_dir: Path) -> Credentials:
        """Return the access key of the cloud; make a random one if there is none.

        Only the user who runs the cloud can read the file that keeps it.
        """
        path = state_dir / "credentials.json"
        if not path.exists():
            alphabet = string.ascii_letters + string.digits
            made = {
                "access_key_id": "AKIA"
                + "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16)),
                "secret_access_key": "".join(secrets.choice(alphabet) for _ in range(40)),
            }
            write_private(path, json.dumps(made).encode())
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True)
class Endpoint:
    """The addresses and the access key of a running cloud.

    Args:
        url: the address for machines and for this host, on the gateway of Docker's bridge.
        loopback_url: the address for this host only; the admin paths are served here alone.
        s3: address and port at which machines reach S3 over TLS.
        s3_certificate: the file of the certificate by which they know it.
    """

    url: str
    loopback_url: str
    access_key: str
    secret_key: str = field(repr=False)
    s3: tuple[str, int] = ("", 0)
    s3_certificate: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point boto3 and the AWS CLI at this cloud."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def fingerprint(config: CloudConfig) -> str:
    """Return a hash of the configuration and of this package's code.

    An API process with another fingerprint is out of date.
    """
    whole = hashlib.sha256(config.dump().encode())
    for entry in sorted(files("localcloud").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            whole.update(entry.read_bytes())
    return whole.hexdigest()[:12]


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner can enter, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, content: str | bytes) -> bool:
    """Write a file that only its owner can read, and return whether that changed anything.

    The file is replaced atomically, and is on disk when this returns.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o077 == 0:
        return False
    scratch = private_directory(path.parent) / f".{path.name}.new"
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    return True
