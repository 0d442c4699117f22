"""An account on moto and a Salt configuration that uses it: what the tests run salt-cloud in.

Nothing is replaced inside Salt or the driver. EC2 is moto's server on this machine, and `ssh` is
a script that runs here what it would run on the instance.
"""

from __future__ import annotations

import io
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import yaml
from moto.ec2.models import elastic_block_store
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

import saltprograms

REGION = "eu-west-1"
# Moto loses the iops of a volume that is part of a launch, and then misses them.
elastic_block_store.IOPS_REQUIRED_VOLUME_TYPES.clear()
_READ_ONLY = ("Describe", "Get", "List", "AssumeRole", "DryRun")
# Each instance is a folder, named by its address. The driver passes address and command last.
_SSH = """#!/bin/sh
echo "$*" >> "{folder}/ssh.log"
while [ $# -gt 2 ]; do shift; done
mkdir -p "{folder}/$1" && cd "{folder}/$1" && exec sh -c "$2"
"""


class Server:
    """Moto's server on a free port; it remembers the names of the API calls.

    Attributes:
        calls: these names, oldest first; with `DryRun` before that of a call that only asks.
        delays: seconds that a call takes longer, by its name.
        url: where the server listens.
        answers: by a call's name, what answers it in place of moto: it gets the call's parameters
            and returns a status and a body, or None, and then moto answers.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.delays: dict[str, float] = {}
        self.answers: dict[str, Callable[[dict[str, str]], tuple[str, str] | None]] = {}
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        form = parse_qs(body.decode("latin-1"))
        if call := target or form.get("Action", [""])[0]:
            if form.get("DryRun") == ["true"]:
                call = f"DryRun{call}"
            self.calls.append(call)
            time.sleep(self.delays.get(call, 0))
        if call in self.answers:
            given = {key: values[0] for key, values in form.items()}
            if answer := self.answers[call](given):
                start_response(answer[0], [("Content-Type", "text/xml")])
                return [answer[1].encode()]
        return self._application(environ, start_response)

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def reset(self) -> None:
        """Empty the account."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        urllib.request.urlopen(request).close()
        self.calls.clear()
        self.delays.clear()
        self.answers.clear()

    def client(self, service: str) -> Any:
        """Return a boto3 client."""
        connect: Any = boto3.client
        return connect(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@dataclass
class Run:
    """What became of one command.

    Attributes:
        code: its exit code.
        stdout: its answer.
        stderr: its log and its errors.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> Any:
        """The answer, which is JSON."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"no JSON answer: {self}") from None

    @property
    def output(self) -> str:
        """Everything that the user sees."""
        return self.stdout + self.stderr

    @property
    def failed(self) -> bool:
        """Whether the command says that it failed, by exit code or by an error in its answer."""
        return self.code != 0 or '"Error"' in self.stdout

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


@dataclass
class Sandbox:
    """An account with two subnets, a security group, a key pair and an image; and Salt.

    The subnets are `a` and `b`, each in the zone of its letter; the group is `web`, the key pair
    `deploy`. The root device of the image is /dev/sda1. Salt's configuration has the provider
    `one` and the profile `p1`. Tests change `main`, `providers` and `profiles`: each command is
    given what they hold at that moment.

    Attributes:
        server: the account.
        folder: where Salt's configuration lies.
        main: the main cloud configuration file.
        providers: the providers' file.
        profiles: the profiles' file.
        environment: of the commands.
        providers_text: the providers' file as text, in place of `providers`.
        profiles_text: the profiles' file as text, in place of `profiles`.
        timeout: seconds after which a command is stopped.
    """

    server: Server
    folder: Path
    main: dict[str, Any] = field(default_factory=dict)
    providers: dict[str, Any] = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    providers_text: str = ""
    profiles_text: str = ""
    timeout: float = 60

    def __post_init__(self) -> None:
        self.ec2 = self.server.client("ec2")
        self._prepare_account()
        self._prepare_folder()
        self.environment = {
            **os.environ,
            "HOME": str(self.folder),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def _prepare_account(self) -> None:
        vpc = self.ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
        for number, name in enumerate("ab"):
            self.ec2.create_subnet(
                VpcId=vpc,
                CidrBlock=f"10.40.{number}.0/24",
                AvailabilityZone=REGION + name,
                TagSpecifications=[
                    {"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": name}]}
                ],
            )
        self.ec2.create_security_group(VpcId=vpc, GroupName="web", Description="web")
        self.ec2.create_key_pair(KeyName="deploy")
        self.image = self.ec2.register_image(Name="debian")["ImageId"]

    def _prepare_folder(self) -> None:
        for name in (
            "bin",
            "hosts",
            "run",
            "pki/minions",
            "pki/minions_pre",
            "pki/minions_rejected",
        ):
            (self.folder / name).mkdir(parents=True)
        self.write("bin/ssh", _SSH.format(folder=self.folder / "hosts"), mode=0o755)
        self.write("deploy.sh", "true\n")
        self.write("key.pem", "", mode=0o600)
        self.main = {
            "pki_dir": str(self.folder / "pki"),
            "cachedir": str(self.folder / "cache"),
            "sock_dir": str(self.folder / "run"),
            "log_file": str(self.folder / "log"),
            "keysize": 2048,  # a longer key takes a second of CPU for each machine
            "script": "deploy",
            "deploy_scripts_search_path": [str(self.folder)],
            "display_ssh_output": False,
            "minion": {"master": "127.0.0.1"},
        }
        self.providers = {
            "one": {
                "driver": "ec2",
                "location": REGION,
                "private_key": str(self.folder / "key.pem"),
                "keyname": "deploy",
                "ssh_interface": "private_ips",
                "ssh_gateway": "gateway.test",  # else the driver connects to port 22 itself
                "ssh_username": "admin",
                "host_keys": "none",
                "sudo": False,
                "tmp_dir": "deploy",
                "wait_for_ip_interval": 0.1,
            }
        }
        self.profiles = {
            "p1": {
                "provider": "one",
                "image": self.image,
                "size": "t3.micro",
                "subnetname": "a",
                "securitygroup": "web",
            }
        }

    def write(self, name: str, content: str | Mapping[str, Any], mode: int = 0o644) -> Path:
        """Write a file of the configuration folder: text as it is, anything else as YAML."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        path.chmod(mode)
        return path

    def run(self, program: str, *arguments: str) -> Run:
        """Run one of Salt's commands with this configuration."""
        self.write("cloud", self.main)
        self.write("master", {key: self.main[key] for key in ("pki_dir", "cachedir", "sock_dir")})
        self.write("minion", {"id": "here", "root_dir": str(self.folder), "file_client": "local"})
        # Salt refuses providers both here and in the main file.
        if self.providers_text or self.providers:
            self.write("cloud.providers.d/providers.conf", self.providers_text or self.providers)
        self.write("cloud.profiles.d/profiles.conf", self.profiles_text or self.profiles)
        done = saltprograms.run(
            program,
            [f"--config-dir={self.folder}", "--out=json", *arguments],
            self.environment,
            self.timeout,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def salt_cloud(self, *arguments: str) -> Run:
        """Run salt-cloud, which asks for no confirmation."""
        return self.run("salt-cloud", "--assume-yes", *arguments)

    def apply(self, machines: Mapping[str, Any], *arguments: str) -> Run:
        """Apply a map: profiles, each with its machines."""
        return self.salt_cloud(f"--map={self.write('map', machines)}", *arguments)

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return the instances that are not terminated, by name, as EC2 describes them."""
        found: dict[str, dict[str, Any]] = {}
        for group in self.ec2.describe_instances()["Reservations"]:
            for instance in group["Instances"]:
                name = next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "Name")
                if instance["State"]["Name"] != "terminated":
                    assert name not in found, f"two instances are called {name}"
                    found[name] = instance
        return found

    def volumes(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the volumes of a machine, by device: VolumeId, DeleteOnTermination."""
        return {
            mapping["DeviceName"]: mapping["Ebs"]
            for mapping in self.instances()[name]["BlockDeviceMappings"]
        }

    def accepted_keys(self) -> set[str]:
        """Return the ids of the minions whose keys the master accepts."""
        return {path.name for path in (self.folder / "pki/minions").iterdir()}

    def launch(self, *names: str, profile: str = "p1") -> None:
        """Launch machines of a profile, and insist that they are deployed."""
        done = self.salt_cloud(f"--profile={profile}", *names)
        assert not done.code, done
        assert set(names) <= set(self.instances())

    def assert_refused(self, done: Run, *words: str) -> None:
        """Insist that a command failed with a sentence that has these words, and launched nothing.

        No key may be left behind, and no traceback be shown.
        """
        assert done.failed, done
        assert [word for word in words if word not in done.output] == [], done
        assert "Traceback" not in done.output, done
        assert self.server.calls.count("RunInstances") == 0, done
        assert self.accepted_keys() == set(), done

    def changing_calls(self) -> list[str]:
        """Return the names of the API calls that changed something or cost something."""
        return [call for call in self.server.calls if not call.startswith(_READ_ONLY)]
