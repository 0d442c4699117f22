"""Which account a deployment uses, and that a real one needs nothing of the local cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import botocore.session
import pytest

import localcloud.engine
import localcloud.service
from localcloud.catalog import IMAGE_ID
from localcloud.config import METADATA, Endpoint
from localcloud.errors import EngineUnavailable
from localcloud.faults import Fault
from memorycloud import Running
from stackctl import account, local_cloud
from stackctl.account import AwsAccount, aws_environment, open_account
from stackctl.deployment import Deployment
from stackctl.errors import LocalCloudFailed, NotUpError, StackError
from stackctl.local_cloud import LocalCloud

# Runs stackctl in an environment in which the local cloud is not installed.
WITHOUT_LOCALCLOUD = """
import sys
from pathlib import Path
from moto import mock_aws

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "localcloud":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from stackctl import cli, limits, preflight
checkout, *args = sys.argv[1:]
cli.repository_root = lambda: Path(checkout)
preflight.check_programs = lambda: None
limits._plan = lambda _: ("PAID", "")  # moto does not know the service
with mock_aws():
    code = cli.main(args)
assert not any(name.partition(".")[0] == "localcloud" for name in sys.modules)
sys.exit(code)
"""


def without_localcloud(checkout: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run stackctl on a checkout, against moto, without the local cloud."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCALCLOUD, str(checkout), *args],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_help_needs_no_localcloud(checkout: Path) -> None:
    done = without_localcloud(checkout, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: stackctl")


def test_real_account_needs_no_localcloud(prod: Deployment) -> None:
    done = without_localcloud(prod.root, "up", "--dry-run", "-d", "prod")
    assert done.returncode == 0, done.stderr
    assert "launch salt-1" in done.stdout


@pytest.mark.parametrize("args", [["up", "--dry-run"], ["status"], ["down"]], ids=" ".join)
def test_local_deployment_without_localcloud_says_what_to_install(
    checkout: Path, args: list[str]
) -> None:
    (checkout / "pillar" / "local").mkdir()
    (checkout / "pillar" / "local" / "settings.sls").write_text("settings: {}\n")
    done = without_localcloud(checkout, *args)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "error: The deployment 'local' needs the Python package localcloud, which is not"
        " installed. Install it with stackctl: pip install 'stackctl[local]'\n"
    )


def test_other_missing_module_is_not_hidden(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "stackctl.local_cloud")
    monkeypatch.setitem(sys.modules, "stackctl.progress", None)
    with pytest.raises(ModuleNotFoundError, match=r"stackctl\.progress"):
        open_account(deployment)


def test_only_one_module_imports_localcloud() -> None:
    package = Path(account.__file__).parent
    importing = {
        path.name
        for path in package.rglob("*.py")
        if any(
            line.strip().startswith(("import localcloud", "from localcloud"))
            for line in path.read_text().splitlines()
        )
    }
    assert importing == {Path(local_cloud.__file__).name}


def test_commands_leave_the_emulator_to_its_server() -> None:
    """The emulator takes a second to import, and each command would wait for it."""
    line = "import sys, stackctl.cli, stackctl.local_cloud; print('moto' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"


def test_deployment_decides_account(deployment: Deployment, prod: Deployment) -> None:
    assert isinstance(open_account(deployment), LocalCloud)
    assert isinstance(open_account(prod), AwsAccount)


# -- the local cloud -------------------------------------------------------------------------------


def test_error_of_local_cloud_is_a_sentence(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineUnavailable("There is no engine.")

    monkeypatch.setattr(localcloud.service, "endpoint", fail)
    with pytest.raises(StackError) as caught:
        open_account(deployment).environment()
    assert isinstance(caught.value, LocalCloudFailed)
    assert str(caught.value) == "There is no engine."


def test_stopped_local_cloud_has_no_environment(deployment: Deployment) -> None:
    with pytest.raises(NotUpError, match=r"^The local cloud does not run\. Bring the stack up"):
        LocalCloud(deployment).environment()


def test_sites_address_is_published_at_https(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STACK_HTTPS_PORT", raising=False)
    address = deployment.in_account(deployment.base_pillar("aws")["edge_address"]["name"])
    assert LocalCloud(deployment).config().publish == {address: {443: ("127.0.0.1", 8443)}}


def test_master_gets_endpoints_and_no_key(deployment: Deployment) -> None:
    endpoint = Endpoint("http://172.17.0.1:5566", "http://127.0.0.1:5566", "AKIA", "hunter2")
    files = LocalCloud(deployment).master_files(endpoint.environment)
    parser = ConfigParser()
    parser.read_string(files["config"])
    config = dict(parser["default"])
    assert (config["region"], config["endpoint_url"]) == ("eu-west-1", endpoint.url)
    # The metadata service is where it is on EC2.
    assert "ec2_metadata_service_endpoint" not in config
    # A master of an earlier version has the owner's key in this file.
    assert files["credentials"].startswith("#")
    assert not any(secret in text for text in files.values() for secret in ("AKIA", "hunter2"))


def test_real_master_gets_no_credentials_and_no_endpoint(prod: Deployment) -> None:
    files = AwsAccount(prod).master_files({})
    assert list(files) == ["config"]
    assert "region = eu-west-1\n" in files["config"]
    assert "endpoint" not in files["config"]


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (Fault("error", "InstanceMetadata", status=500, times=1), "at the second attempt"),
        (Fault("slow", "InstanceMetadata", seconds=2, times=1), "late"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_master_waits_for_its_credentials(
    prod: Deployment,
    cloud: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    answer: str,
) -> None:
    """With boto3's own patience, one second and one attempt, salt-1 has no credentials."""
    address = machine_with_role(cloud)
    monkeypatch.setattr(cloud.api, "address", address)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{cloud.url}{METADATA}/")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    found = {}
    for name, text in {"own": AwsAccount(prod).master_files({})["config"], "none": ""}.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / name))
        with cloud.faults.inject(fault):
            found[name] = botocore.session.Session().get_credentials()
    assert found["own"], f"none, although the service answers {answer}"
    assert found["none"] is None


def machine_with_role(cloud: Running) -> str:
    """Launch a machine with an instance role, and return its address."""
    iam, name = cloud.client("iam"), f"role-{len(cloud.host.log)}"
    trust = {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "ec2.amazonaws.com"},
        },
    }
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    vpc = cloud.ec2.create_vpc(CidrBlock="10.43.0.0/16")["Vpc"]["VpcId"]
    subnet = cloud.ec2.create_subnet(VpcId=vpc, CidrBlock="10.43.1.0/24")["Subnet"]["SubnetId"]
    launched = cloud.ec2.run_instances(
        ImageId=IMAGE_ID, InstanceType="t2.micro", MinCount=1, MaxCount=1, SubnetId=subnet,
        IamInstanceProfile={"Name": name},
    )["Instances"][0]  # fmt: skip
    cloud.settle()
    return str(launched["PrivateIpAddress"])


# -- the environment -------------------------------------------------------------------------------


def test_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "before")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    variables = {"AWS_ACCESS_KEY_ID": "during", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}

    def interrupted() -> None:
        with aws_environment(variables):
            assert {name: os.environ[name] for name in variables} == variables
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.environ["AWS_ACCESS_KEY_ID"] == "before"
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_local_cloud_is_reached_whatever_was_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    left = {
        "AWS_ENDPOINT_URL_EC2": "https://ec2.eu-west-1.amazonaws.com",
        "AWS_SESSION_TOKEN": "of-another-account",
        "AWS_PROFILE": "of-another-account",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    }
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with aws_environment({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}):
        assert not set(left) & set(os.environ)
    assert {name: os.environ[name] for name in left} == left
    with aws_environment({}):  # a real account
        assert {name: os.environ[name] for name in left} == left
