"""Creating machines: once, in the right account and region, with a deployment or without."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import salt.cloud
import salt.config
import salt.loader
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from saltext.ec2 import _client, _instance, _login, _session, host_keys
from saltext.ec2 import options as _options
from saltext.ec2._wait import Wait
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import (
    ApiError,
    ConfigurationError,
    DeployError,
    LaunchError,
    NotFound,
    RegionRefused,
)

Machine = Callable[..., dict[str, Any]]  # see the fixture `machine`


@pytest.fixture(autouse=True)
def _no_pause(opts: dict[str, Any]) -> None:
    opts["wait_for_ip_interval"] = 0


def instances(ec2: Any) -> list[dict[str, Any]]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopped"]}]
    return [
        instance
        for group in ec2.describe_instances(Filters=states)["Reservations"]
        for instance in group["Instances"]
    ]


def tags(resource: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource["Tags"]}


def test_create_twice_launches_once(ec2: Any, machine: Machine) -> None:
    first = driver.create(machine("web-1"))
    assert driver.create(machine("web-1"))["id"] == first["id"]
    assert len(instances(ec2)) == 1


def test_create_starts_stopped_machine(ec2: Any, machine: Machine) -> None:
    first = driver.create(machine("web-1"))
    ec2.stop_instances(InstanceIds=[first["id"]])
    assert driver.create(machine("web-1"))["state"] == "running"
    assert len(instances(ec2)) == 1


def test_create_replaces_destroyed_machine(ec2: Any, machine: Machine) -> None:
    first = driver.create(machine("web-1"))
    driver.destroy("web-1")
    assert driver.create(machine("web-1"))["id"] != first["id"]


def test_create_names_missing_resource(ec2: Any, machine: Machine) -> None:
    with pytest.raises(NotFound, match="no subnets are called nowhere"):
        driver.create(machine("web-1", subnetname="nowhere"))
    with pytest.raises(NotFound, match="no security groups are called nobody"):
        driver.create(machine("web-1", securitygroup=["web", "nobody"]))
    with pytest.raises(NotFound, match="/no/such/parameter"):
        driver.create(machine("web-1", image="ssm:/no/such/parameter"))
    assert instances(ec2) == []


def test_create_refuses_unknown_option_and_suggests_known_one(ec2: Any, machine: Machine) -> None:
    with pytest.raises(
        ConfigurationError, match="unknown option subnet_name; did you mean subnetname"
    ):
        driver.create(machine("web-1", subnet_name="a"))
    assert instances(ec2) == []


# -- region, endpoint and credentials --------------------------------------------------------------


@pytest.fixture
def first_call(
    ec2: Any, machine: Machine, opts: dict[str, Any]
) -> Callable[..., AWSPreparedRequest]:
    """Return a function that creates web-1 with some options of the provider.

    EC2 refuses the first call, which the function returns.
    """

    def make(**options: Any) -> AWSPreparedRequest:
        opts["providers"]["cloud"]["ec2"] |= options
        given = machine("web-1")
        calls: list[AWSPreparedRequest] = []

        def refuse(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
            calls.append(request)
            return AWSResponse(request.url, 403, HTTPHeaders(), Refusal())

        events: Any = _client.connect(given, opts["cachedir"]).ec2.meta.events
        events.register_first("before-send.ec2", refuse)
        with pytest.raises(ApiError, match="UnauthorizedOperation"):
            driver.create(given)
        return calls[0]

    return make


class Refusal:
    """The body of an answer with which EC2 refuses a call."""

    def stream(self) -> list[bytes]:
        error = "<Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error>"
        return [f"<Response><Errors>{error}</Errors></Response>".encode()]


@pytest.mark.covers("location", "region", "endpoint", "endpoint_url")
@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({}, "https://ec2.eu-west-1.amazonaws.com"),
        (
            {"location": "eu-central-1", "allowed_regions": ["eu-central-1"]},
            "https://ec2.eu-central-1.amazonaws.com",
        ),
        (
            {"location": None, "region": "eu-north-1", "allowed_regions": None},
            "https://ec2.eu-north-1.amazonaws.com",
        ),
        ({"endpoint_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
        (
            {"endpoint": "cloud.example.com:1138/services/Cloud"},
            "https://cloud.example.com:1138/services/Cloud",
        ),
    ],
)
def test_create_calls_chosen_region_and_endpoint(
    first_call: Callable[..., AWSPreparedRequest], given: dict[str, Any], host: str
) -> None:
    assert first_call(**given).url.rstrip("/") == host


@pytest.mark.covers("allowed_regions")
def test_create_refuses_region_that_is_not_allowed(
    ec2: Any, machine: Machine, opts: dict[str, Any]
) -> None:
    opts["providers"]["cloud"]["ec2"]["location"] = "eu-west-2"
    with pytest.raises(
        RegionRefused, match="region eu-west-2 is refused: allowed_regions names eu-west-1"
    ):
        driver.create(machine("web-1"))


@pytest.mark.parametrize(
    "option",
    [
        option.name
        for option in _options.OPTIONS
        if option.provider_only and option.name != "rename_on_destroy"
    ],
)
def test_create_refuses_other_value_of_provider_option(
    ec2: Any, machine: Machine, opts: dict[str, Any], option: str
) -> None:
    other = {"tag": "http://other"} if option == "owned_by" else "http://other"
    with pytest.raises(
        ConfigurationError, match=rf"^web-1 \(profile small\): {option} differs from its provider's"
    ) as caught:
        driver.create(machine("web-1", **{option: other}))
    assert "other" not in str(caught.value), "the value may be a secret"
    assert instances(ec2) == []


@pytest.mark.covers("rename_on_destroy")
def test_rename_on_destroy_of_profile_is_a_warning(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    driver.create(machine("web-1", rename_on_destroy=True))
    assert "web-1 (profile small): rename_on_destroy has no effect" in caplog.text


def test_create_accepts_provider_option_of_main_configuration(
    machine: Machine, opts: dict[str, Any]
) -> None:
    opts["rename_on_destroy"] = (
        True  # salt-cloud merges it into what a profile makes, and not into what a map does
    )
    driver.create(machine("web-1", rename_on_destroy=True))
    driver.create(machine("web-2"))


@pytest.mark.covers("id", "key", "token", "role_arn", "profile_name")
@pytest.mark.parametrize(
    ("given", "access_key", "token"),
    [
        ({}, "test", None),
        (
            {"id": "use-instance-role-credentials", "key": "use-instance-role-credentials"},
            "test",
            None,
        ),
        ({"id": "AKIAONE", "key": "secret"}, "AKIAONE", None),
        ({"id": "AKIAONE", "key": "secret", "token": "session"}, "AKIAONE", "session"),
        ({"role_arn": "arn:aws:iam::123456789012:role/salt"}, "ASIA", "moto"),
        ({"profile_name": "work"}, "AKIAWORK", None),
    ],
)
def test_create_uses_credentials_of_provider(
    first_call: Callable[..., AWSPreparedRequest],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: dict[str, Any],
    access_key: str,
    token: str | None,
) -> None:
    (tmp_path / "config").write_text(
        "[profile work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    headers = first_call(**given).headers
    authorization = headers["Authorization"]
    authorization = authorization.decode() if isinstance(authorization, bytes) else authorization
    assert f"Credential={access_key}" in authorization
    assert bool(headers.get("X-Amz-Security-Token")) is bool(token)


@pytest.mark.covers("id", "key")
@pytest.mark.parametrize("half", ["id", "key"])
def test_create_refuses_id_without_key(machine: Machine, opts: dict[str, Any], half: str) -> None:
    opts["providers"]["cloud"]["ec2"][half] = "AKIAONE"
    with pytest.raises(ConfigurationError, match="id and key belong together"):
        driver.create(machine("web-1"))


@pytest.mark.covers("max_attempts", "api_timeout")
def test_connection_has_configured_attempts_and_timeout(
    machine: Machine, opts: dict[str, Any]
) -> None:
    given = _options.resolve(machine("web-1", max_attempts=3, api_timeout=7), opts)
    config: Any = _client.connect(given, opts["cachedir"]).ec2.meta.config
    assert (config.retries["total_max_attempts"], config.retries["mode"]) == (3, "adaptive")
    assert config.read_timeout == 7


@pytest.mark.covers("owner")
def test_avail_images_lists_images_of_owner(ec2: Any, image: str, opts: dict[str, Any]) -> None:
    account = ec2.describe_images(ImageIds=[image])["Images"][0]["OwnerId"]
    provider = opts["providers"]["cloud"]["ec2"]
    for owner, listed in ((None, [image]), (account, [image]), ("amazon", [])):
        provider["owner"] = owner
        assert list(driver.avail_images()) == listed
    assert list(driver.avail_images(kwargs={"owner": "self"})) == [image]


@pytest.mark.covers("rename_on_destroy")
def test_destroy_renames_machine_if_configured(
    ec2: Any, machine: Machine, opts: dict[str, Any]
) -> None:
    created = driver.create(machine("web-1"))
    assert "newname" not in driver.destroy("web-1")
    opts["providers"]["cloud"]["ec2"]["rename_on_destroy"] = True
    other = driver.create(machine("web-1"))
    newname = driver.destroy("web-1")["newname"]
    names = {
        instance["InstanceId"]: tags(instance)["Name"]
        for group in ec2.describe_instances()["Reservations"]
        for instance in group["Instances"]
    }
    assert newname.startswith("web-1-DEL")
    assert names == {created["id"]: "web-1", other["id"]: newname}


# -- the deployment --------------------------------------------------------------------------------


@dataclass
class Deployment:
    """The result of all deployments, and the arguments of the last one.

    Attributes:
        error: what deployments raise; None: they succeed.
        login: how the driver logs in.
        files: what it sends, by name.
        script: what it runs, and how.
        wait: how long it waits for a login.
        port: address and port that it waited for; None: it did not wait.
    """

    error: Exception | None = None
    login: _login.Login | None = None
    files: dict[str, str] = field(default_factory=dict)
    script: _session.Script = field(default_factory=lambda: _session.Script(b"", 0))
    wait: Wait = field(default_factory=lambda: Wait(0))
    port: tuple[str, int] | None = None


@pytest.fixture
def deploying(opts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Replace the SSH session of deployments, and only that."""
    deployment = Deployment()
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "probe.sh").write_text("true")
    opts |= {
        "deploy": True,
        "private_key": str(tmp_path / "key"),
        "script": "probe",
        "deploy_scripts_search_path": [str(tmp_path)],
        "minion": {"master": "10.0.0.1"},
    }

    def run(name: str, login: _login.Login, script: _session.Script, wait: Wait) -> None:
        deployment.login, deployment.script, deployment.wait = login, script, wait
        with tarfile.open(fileobj=io.BytesIO(script.archive)) as tar:
            contents = {member.name: tar.extractfile(member) for member in tar.getmembers()}
            deployment.files = {
                name: file.read().decode() for name, file in contents.items() if file
            }
        if deployment.error:
            raise deployment.error

    def wait_for_port(address: str, port: int, *_: Any) -> None:
        deployment.port = (address, port)

    monkeypatch.setattr(_login, "wait_for_port", wait_for_port)
    monkeypatch.setattr(_session, "run", run)
    monkeypatch.setattr(host_keys, "read", lambda *_: ["ssh-ed25519 AAAA"])
    return deployment


@pytest.fixture
def entered(machine: Machine, deploying: Deployment) -> Callable[..., _login.Login]:
    """Return a function that creates web-1 with some options and returns the login."""

    def make(**options: Any) -> _login.Login:
        driver.create(machine("web-1", **options))
        assert deploying.login
        return deploying.login

    return make


Entered = Callable[..., _login.Login]


@pytest.mark.covers("ssh_interface")
@pytest.mark.parametrize(
    ("chosen", "key"), [("public_ips", "PublicIpAddress"), ("private_ips", "PrivateIpAddress")]
)
def test_login_uses_address_of_ssh_interface(
    ec2: Any, entered: Entered, deploying: Deployment, chosen: str, key: str
) -> None:
    login = entered(ssh_interface=chosen, associate_public_ip=True)
    (instance,) = instances(ec2)
    assert login.address == instance[key]
    assert deploying.port == (instance[key], 22)


@pytest.mark.covers(
    "ssh_interface", "host_keys", "on_failure", "ssh_port", "ssh_gateway_port", "max_attempts"
)
@pytest.mark.covers("deploy_timeout", "api_timeout", "ssh_connect_timeout")
@pytest.mark.covers("wait_for_ip_timeout", "wait_for_ip_interval")
@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("ssh_interface", "ipv6", "public_ips or private_ips"),
        ("host_keys", "no", "console or none"),
        ("on_failure", "Destroy", "keep or destroy"),
        *((option, "0x16", "a whole number from 1") for option in ("ssh_port", "ssh_gateway_port")),
        *((option, 0, "a whole number from 1") for option in ("max_attempts", "api_timeout")),
        *(
            (option, "30m", "a number of seconds")
            for option in ("deploy_timeout", "ssh_connect_timeout")
        ),
        *(
            (option, True, "a number of seconds")
            for option in ("wait_for_ip_timeout", "wait_for_ip_interval")
        ),
    ],
)
def test_create_refuses_invalid_value_before_launch(
    ec2: Any, entered: Entered, option: str, value: object, right: str
) -> None:
    with pytest.raises(
        ConfigurationError,
        match=re.escape(f"web-1 (profile small): {option} must be {right}, not {value!r}"),
    ):
        entered(**{option: value})
    assert instances(ec2) == []


def test_option_without_value_has_its_default(entered: Entered, deploying: Deployment) -> None:
    assert entered(ssh_port=None, deploy_timeout=None).port == 22
    assert deploying.script.timeout == 1800


def test_attachments_precede_deployment(
    ec2: Any, entered: Entered, deploying: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script may need its elastic address to reach a mirror, or mount an existing volume."""
    zone = ec2.describe_subnets()["Subnets"][0]["AvailabilityZone"]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    interface = {
        "DeviceIndex": 0,
        "SubnetName": "a",
        "allocate_new_eip": True,
        "SourceDestCheck": False,
    }
    given = {
        "volumes": [{"device": "/dev/sdf", "volume_id": volume}],
        "network_interfaces": [interface],
        "ssh_interface": "private_ips",
        "subnetname": None,
        "securitygroup": None,
    }
    met: list[tuple[bool, bool, str]] = []

    def wait_for_port(*_: Any) -> None:
        (instance,) = instances(ec2)
        checked = instance["NetworkInterfaces"][0]["SourceDestCheck"]
        met.append(
            (
                bool(instance.get("PublicIpAddress")),
                checked,
                instance["BlockDeviceMappings"][-1]["DeviceName"],
            )
        )

    monkeypatch.setattr(_login, "wait_for_port", wait_for_port)
    deploying.error = DeployError("no mirror")
    with pytest.raises(DeployError, match="no mirror"):
        entered(**given)
    deploying.error = None
    entered(**given)
    assert met == [(True, False, "/dev/sdf")] * 2
    assert len(ec2.describe_addresses()["Addresses"]) == 1


@pytest.mark.covers("ssh_username", "ssh_port", "sudo")
def test_login_has_configured_users_port_and_sudo(entered: Entered, deploying: Deployment) -> None:
    login = entered(ssh_username="admin", ssh_port=2222, sudo=False)
    assert (login.users, login.port, login.sudo) == (["admin"], 2222, False)
    assert deploying.port == (login.address, 2222)
    login = entered(ssh_username=["admin", "ubuntu"])
    assert (login.users, login.port, login.sudo) == (["admin", "ubuntu"], 22, True)
    assert entered().users == ["ec2-user", "ubuntu", "admin", "bitnami", "root"]


@pytest.mark.covers("private_key", "key_filename", "ssh_keyfile")
@pytest.mark.parametrize("option", ["private_key", "key_filename", "ssh_keyfile"])
def test_login_has_configured_private_key(
    entered: Entered, opts: dict[str, Any], tmp_path: Path, option: str
) -> None:
    del opts["private_key"]
    (tmp_path / "other").touch(mode=0o600)
    assert entered(**{option: str(tmp_path / "other")}).private_key == str(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="private_key /nowhere does not exist"):
        entered(**{option: "/nowhere"})


@pytest.mark.covers("ssh_agent")
def test_login_without_private_key_needs_ssh_agent(
    ec2: Any, entered: Entered, opts: dict[str, Any]
) -> None:
    del opts["private_key"]
    with pytest.raises(ConfigurationError, match="private_key is not set"):
        entered()
    assert instances(ec2) == [], "it fails before the launch"
    assert entered(ssh_agent=True).private_key == ""


@pytest.mark.covers("host_keys", "known_hosts_file")
def test_login_trusts_configured_host_keys(entered: Entered, tmp_path: Path) -> None:
    trusted = entered().host_key_options
    assert trusted["StrictHostKeyChecking"] == "yes"
    assert (
        Path(trusted["UserKnownHostsFile"]).read_text()
        == f"{trusted['HostKeyAlias']} ssh-ed25519 AAAA\n"
    )
    known = tmp_path / "known"
    known.touch()
    trusted = entered(known_hosts_file=str(known)).host_key_options
    assert (trusted["StrictHostKeyChecking"], trusted["UserKnownHostsFile"]) == ("yes", str(known))
    assert entered(host_keys="none").host_key_options["StrictHostKeyChecking"] == "no"


@pytest.mark.covers(
    "ssh_gateway", "ssh_gateway_port", "ssh_gateway_username", "ssh_gateway_private_key"
)
@pytest.mark.covers("ssh_gateway_command")
def test_login_uses_configured_gateway(
    entered: Entered, deploying: Deployment, tmp_path: Path
) -> None:
    command = shlex.split(entered(ssh_gateway="gate.example.com").proxy)
    assert command[-7:] == ["-p", "22", "-l", "root", "-W", "%h:%p", "gate.example.com"]
    assert f"IdentityFile={tmp_path / 'key'}" in command
    assert deploying.port is None, "only the gateway can reach the machine's port"
    key = tmp_path / "gate"
    key.touch(mode=0o600)
    command = shlex.split(
        entered(
            ssh_gateway="gate.example.com",
            ssh_gateway_port=2222,
            ssh_gateway_username="jump",
            ssh_gateway_private_key=str(key),
            ssh_gateway_command="nc -q0 %h %p",
        ).proxy
    )
    assert command[-9:] == ["-p", "2222", "-l", "jump", "gate.example.com", "nc", "-q0", "%h", "%p"]
    assert f"IdentityFile={key}" in command


@pytest.mark.covers("ssh_connect_timeout", "deploy_timeout", "tmp_dir", "keep_tmp")
def test_deployment_has_configured_timeouts_and_folder(
    entered: Entered, deploying: Deployment
) -> None:
    entered()
    script = deploying.script
    assert (script.timeout, script.folder, script.keep) == (1800, "/tmp/.saltcloud", False)
    assert deploying.wait.deadline == pytest.approx(time.monotonic() + 900, abs=30)
    entered(ssh_connect_timeout=5, deploy_timeout=60, tmp_dir="/root/salt", keep_tmp=True)
    script = deploying.script
    assert (script.timeout, script.folder, script.keep) == (60, "/root/salt", True)
    assert deploying.wait.deadline < time.monotonic() + 5


@pytest.mark.covers("display_ssh_output")
def test_script_output_is_shown_if_configured(
    entered: Entered, deploying: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    for shown in (True, False):
        entered(display_ssh_output=shown)
        deploying.script.show("installing")
        assert ("installing" in capsys.readouterr().err) is shown


@pytest.mark.covers("wait_for_ip_timeout")
def test_create_fails_when_address_does_not_come_in_time(ec2: Any, entered: Entered) -> None:
    with pytest.raises(LaunchError, match=r"web-1.* has no address in public_ips after 0 s"):
        entered(ssh_interface="public_ips", wait_for_ip_timeout=0)
    assert len(instances(ec2)) == 1


@pytest.mark.covers("wait_for_ip_interval")
def test_create_polls_in_configured_intervals(
    entered: Entered, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Paused(BaseException):
        pass

    def sleep(seconds: float) -> None:
        if seconds > 0:
            raise Paused(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Paused) as paused:
        entered(ssh_interface="public_ips", wait_for_ip_interval=70)
    assert 60 < paused.value.args[0] <= 70


@pytest.mark.covers("deploy")
def test_create_without_deploy_does_not_log_in(
    ec2: Any, machine: Machine, deploying: Deployment
) -> None:
    driver.create(machine("web-1", deploy=False))
    assert deploying.login is None
    assert tags(instances(ec2)[0]) == {"Name": "web-1"}
    driver.create(machine("web-2"))
    assert deploying.login is not None


@pytest.mark.covers("make_master", "make_minion", "make_syndic", "master", "master_sign_pub_file")
def test_archive_of_new_master_has_keys_and_configuration(
    entered: Entered, deploying: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "probe.sh").write_text("# bootstrap-salt\n")
    (tmp_path / "sign.pub").write_text("SIGN")
    entered()
    assert not {"master", "master.pem", "master.pub", "master_sign.pub"} & set(deploying.files)
    assert not {"-M", "-N", "-S"} & set(deploying.files["run"].split())
    entered(
        make_master=True,
        make_minion=False,
        make_syndic=True,
        master={"syndic_master": "10.0.0.2"},
        master_sign_pub_file=str(tmp_path / "sign.pub"),
        master_pem="PRIVATE",
        master_pub="PUBLIC",
    )
    sent = {name: deploying.files[name] for name in ("master.pem", "master.pub", "master_sign.pub")}
    assert sent == {"master.pem": "PRIVATE", "master.pub": "PUBLIC", "master_sign.pub": "SIGN"}
    assert "syndic_master: 10.0.0.2" in deploying.files["master"]
    assert {"-M", "-N", "-S"} <= set(deploying.files["run"].split())


def test_create_removes_pending_key(entered: Entered, opts: dict[str, Any]) -> None:
    keys = {
        state: Path(opts["pki_dir"], folder)
        for state, folder in (("new", "minions"), ("old", "minions_pre"))
    }
    for state, folder in keys.items():
        folder.mkdir(parents=True)
        (folder / "web-1").write_text(state)
    entered()
    master = {
        **salt.config.DEFAULT_MASTER_OPTS,
        "pki_dir": opts["pki_dir"],
        "optimization_order": [0],
    }
    fetch = salt.loader.cache(master)["localfs_key.fetch"]  # how the master reads them
    assert fetch("keys", "web-1", cachedir=opts["pki_dir"]) == {"state": "accepted", "pub": "new"}


@pytest.mark.parametrize(
    ("given", "minion_id"),
    [
        ({}, "web-1"),
        ({"minion": {"master": "10.0.0.1", "id": "front"}}, "front"),
        ({"domain": "example.com"}, "web-1"),
        ({"domain": "example.com", "use_fqdn": True}, "web-1.example.com"),
        (
            {"minion": {"master": "10.0.0.1", "id": "front", "append_domain": "example.com"}},
            "front.example.com",
        ),
    ],
)
def test_failed_create_removes_keys_of_minion_id(
    machine: Machine,
    deploying: Deployment,
    opts: dict[str, Any],
    given: dict[str, Any],
    minion_id: str,
) -> None:
    (Path(opts["pki_dir"]) / "minions_pre").mkdir(parents=True)
    (Path(opts["pki_dir"]) / "minions_pre" / minion_id).write_text("old")
    (Path(opts["pki_dir"]) / "minions_pre" / "another").write_text("another")
    deploying.error = DeployError("no route")
    cloud = salt.cloud.Cloud({**opts, "parallel": False})
    cloud.clouds = {"ec2.create": driver.create}
    vm_ = {**machine("web-1", on_failure="destroy", **given), "pub_key": "new", "priv_key": "new"}
    with pytest.raises(DeployError, match="it was destroyed, and its key removed"):
        cloud.create(vm_)
    assert [path.name for path in Path(opts["pki_dir"]).glob("*/*")] == ["another"]


def test_create_repairs_failed_deployment(
    ec2: Any, machine: Machine, opts: dict[str, Any], deploying: Deployment
) -> None:
    opts["map"] = "small.map"
    deploying.error = DeployError("no route")
    with pytest.raises(DeployError, match=r"web-1 .*no route.*run the same command again"):
        driver.create(machine("web-1"))
    (instance,) = instances(ec2)
    assert driver.list_nodes_min() == {}, "the core would not create it again"

    deploying.error = None
    assert driver.create(machine("web-1"))["id"] == instance["InstanceId"]
    assert list(driver.list_nodes_min()) == ["web-1"]
    assert len(instances(ec2)) == 1


def test_machine_with_pending_deployment_is_listed(
    ec2: Any, machine: Machine, opts: dict[str, Any], deploying: Deployment
) -> None:
    deploying.error = DeployError("no route")
    with pytest.raises(DeployError):
        driver.create(machine("web-1"))
    assert list(driver.list_nodes()) == ["web-1"]
    assert list(driver.list_nodes_min()) == ["web-1"]
    opts |= {"map": "small.map", "destroy": True}
    assert list(driver.list_nodes_min()) == ["web-1"]


@pytest.mark.covers("on_failure")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DeployError("no route"), "no route"),
        (PermissionError(13, "no"), r"PermissionError: \[Errno 13\] no"),
    ],
)
def test_on_failure_destroy_leaves_nothing(
    ec2: Any,
    machine: Machine,
    opts: dict[str, Any],
    deploying: Deployment,
    error: Exception,
    message: str,
) -> None:
    deploying.error = error
    kept = {"termination_protection": True, "del_root_vol_on_destroy": False}
    with pytest.raises(DeployError, match=f"web-1 .*running.* failed: {message}; it was destroyed"):
        driver.create(machine("web-1", on_failure="destroy", **kept))
    assert instances(ec2) == []
    assert ec2.describe_volumes()["Volumes"] == []


@pytest.mark.covers("on_failure")
def test_on_failure_destroy_reports_leftovers(
    ec2: Any, machine: Machine, deploying: Deployment
) -> None:
    given = machine(
        "web-1",
        subnetname=None,
        securitygroup=None,
        network_interfaces=[
            {"SubnetName": "a", "SecurityGroupId": "web", "allocate_new_eip": True}
        ],
        ssh_interface="public_ips",
        on_failure="destroy",
    )
    deploying.error = DeployError("no route")
    refused = {"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}
    events: Any = _client.connect(given, driver.__opts__["cachedir"]).ec2.meta.events
    events.register(
        "before-call.ec2.ReleaseAddress",
        lambda **_: (AWSResponse("", 403, HTTPHeaders(), None), refused),
    )
    with pytest.raises(
        DeployError,
        match=r"it was destroyed, .*; releasing eipalloc-.* of web-1 failed: ReleaseAddr",
    ):
        driver.create(given)
    assert instances(ec2) == []
    assert len(ec2.describe_addresses()["Addresses"]) == 1


SPOT = {"spot_config": {"type": "persistent"}}


@pytest.mark.covers("spot_config", "on_failure")
def test_destroy_cancels_persistent_spot_request(
    ec2: Any, machine: Machine, spot_requests: set[str], deploying: Deployment
) -> None:
    made = driver.create(machine("web-1", **SPOT))
    driver.destroy("web-1")
    assert spot_requests == {made["SpotInstanceRequestId"]}
    deploying.error = DeployError("no route")
    with pytest.raises(DeployError, match="it was destroyed"):
        driver.create(machine("web-2", on_failure="destroy", **SPOT))
    assert len(spot_requests) == 2
    assert instances(ec2) == []


@pytest.mark.usefixtures("spot_requests")
@pytest.mark.parametrize(
    ("code", "lives"),
    [("InvalidSpotInstanceRequestID.NotFound", False), ("UnauthorizedOperation", True)],
)
def test_destroy_needs_spot_request_cancelled_or_gone(
    ec2: Any, machine: Machine, code: str, *, lives: bool
) -> None:
    given = machine("web-1", **SPOT)
    made = driver.create(given)
    answer = AWSResponse("", 400, HTTPHeaders(), None), {"Error": {"Code": code, "Message": "no"}}
    events: Any = _client.connect(given, driver.__opts__["cachedir"]).ec2.meta.events
    events.register("before-call.ec2.CancelSpotInstanceRequests", lambda **_: answer)
    if lives:
        with pytest.raises(
            ApiError, match=f"cancelling the spot request of web-1 failed: .*{code}"
        ):
            driver.destroy("web-1")
    else:
        driver.destroy("web-1")
    assert (made["id"] in [instance["InstanceId"] for instance in instances(ec2)]) is lives


def test_on_failure_destroy_keeps_machine_that_existed(
    ec2: Any, machine: Machine, deploying: Deployment
) -> None:
    driver.create(machine("web-1"))
    deploying.error = DeployError("no route")
    with pytest.raises(
        DeployError, match=r"it was left as it is, .* run the same command again to repair it"
    ):
        driver.create(machine("web-1", on_failure="destroy"))
    assert len(instances(ec2)) == 1


def test_on_failure_destroy_reports_machine_that_still_runs(
    ec2: Any, machine: Machine, deploying: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ApiError("destroying web-1 failed: TerminateInstances: ExpiredToken", "ExpiredToken")

    deploying.error = DeployError("no route")
    monkeypatch.setattr(_instance, "terminate", refuse)
    with pytest.raises(
        DeployError, match=r"no route; .*still runs: destroying web-1 failed: .*ExpiredToken"
    ):
        driver.create(machine("web-1", on_failure="destroy"))
    assert len(instances(ec2)) == 1
