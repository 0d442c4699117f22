"""Real machines: what clients of the API and of the machines see of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
from dataclasses import replace
from pathlib import Path

import docker
import pytest
import yaml
from botocore.exceptions import ClientError

from localcloud import service
from localcloud.config import CloudConfig
from localcloud.delays import Delays
from localcloud.errors import PortTaken
from localcloud.faults import Fault, FaultClient
from localcloud.machines import MOST_PROCESSES
from localcloud.sizes import memory_left
from realcloud import ROOT, SHARED, VPC, Machine, RealCloud
from waiting import until

# As many threads as the machine lets start, of 5,000.
THREADS = """
import threading
threading.stack_size(65536)
done, count = threading.Event(), 0
try:
    for count in range(5000):
        threading.Thread(target=done.wait).start()
except RuntimeError:
    pass
done.set()
print(count)
"""


def test_machine_boots_debian_with_systemd(machine: Machine) -> None:
    assert machine.run(". /etc/os-release; echo $ID $VERSION_ID") == "debian 13"
    assert machine.run("ps -p 1 -o comm=") == "systemd"
    assert machine.run("systemctl is-system-running --wait") == "running"
    assert machine.run("hostname -f") == machine.describe()["PrivateDnsName"]
    assert machine.run("ls /etc/salt 2>/dev/null; /opt/salt/bin/salt-call --version").startswith(
        "salt-call 3008"
    )


def test_machine_has_address_and_size_of_instance(
    machine: Machine, docker_client: docker.DockerClient
) -> None:
    assert machine.address == machine.describe()["PrivateIpAddress"]
    assert machine.address in machine.run("ip -brief address show eth0")
    limits = docker_client.containers.get(machine.container).attrs["HostConfig"]
    assert {limits["Memory"], limits["MemorySwap"]} == {memory_left("t2.micro", 1024) << 20}
    assert limits["CpuQuota"] / limits["CpuPeriod"] == 1


def test_machine_leaves_the_host_in_peace(machine: Machine) -> None:
    """It has rights that systemd needs, and no module, device memory, clock or file of the host."""
    status = dict(line.split(":\t") for line in machine.run("cat /proc/1/status").splitlines())
    assert status["Seccomp"].strip() == "2", "filtered"
    can_do = int(status["CapBnd"], 16)
    dac_read_search, sys_module, sys_rawio, sys_boot, sys_time = 2, 16, 17, 22, 25
    for right in (dac_read_search, sys_module, sys_rawio, sys_boot, sys_time):
        assert not can_do >> right & 1, right
    assert int(machine.run(f"python3 -c '{THREADS}'")) < MOST_PROCESSES
    assert machine.run("systemctl is-system-running") == "running"


def test_machine_without_credits_has_a_tenth_of_a_core(
    cloud: RealCloud, machine: Machine, docker_client: docker.DockerClient
) -> None:
    """Until it has some again; inside, it sees that time is withheld."""

    def quota() -> float:
        limits = docker_client.containers.get(machine.container).attrs["HostConfig"]
        return float(limits["CpuQuota"] / limits["CpuPeriod"])

    def throttled() -> int:
        counters = "cat /run/cgroup-cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null || true"
        found = dict(line.split() for line in machine.run(counters).splitlines())
        return int(found["nr_throttled"])

    with FaultClient(cloud.endpoint).without_credits(SHARED):
        assert quota() == 0.1
        before = throttled()
        machine.run("timeout 1 sh -c 'while :; do :; done' || true")
        assert throttled() - before >= 8
    assert quota() == 1


def test_console_shows_host_keys(machine: Machine) -> None:
    actual = {
        line.split()[1] for line in machine.run("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
    }
    assert {line.split()[1] for line in machine.host_keys()} == actual


def test_ssh_accepts_only_key_of_key_pair(machine: Machine, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True
    )
    stranger = Machine(
        RealCloud(
            machine.cloud.place, machine.cloud.config, machine.cloud.endpoint, tmp_path / "other"
        ),
        machine.instance_id,
        machine.address,
    )
    refused = stranger.ssh("true", check=False)
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr


def test_user_data_runs_and_writes_to_console(machine: Machine) -> None:
    until(lambda: machine.run("cat /root/user-data || true") == "once", "the user data has run")
    assert "first-boot" in machine.console()


def test_cloud_config_runs_and_unsupported_keys_are_named(cloud: RealCloud) -> None:
    config = (
        "#cloud-config\nhostname: chosen\nruncmd: [[touch, '/root/a b'], 'echo ran > /root/ran']\n"
        "write_files: [{path: /etc/motd, content: hello, permissions: '0600'}]\n"
        "packages: [cowsay]\n"
    )
    machine = cloud.launch("configured", UserData=config)
    until(
        lambda: machine.run("cat /root/ran || true; ls /root").split() == ["ran", "a", "b", "ran"],
        "runcmd has run",
    )
    assert machine.run("hostname; cat /etc/motd; stat -c %a /etc/motd").split() == [
        "chosen",
        "hello600",
    ]
    assert "'packages' is not supported" in machine.console()
    machine.terminate()


def test_machine_reaches_machines_mirror_and_api(cloud: RealCloud, machine: Machine) -> None:
    other = cloud.launch("neighbour")
    other.run(f"ping -c 1 -W 60 {machine.address}")
    release = "curl -sf --max-time 20 http://deb.debian.org/debian/dists/trixie/Release || true"
    until(lambda: "Codename" in other.run(release), "the mirror answers", every=1)
    assert f'"name": "{cloud.place.name}"' in other.run(
        f"curl -sf {cloud.endpoint.url}/_localcloud/health"
    )
    other.terminate()


def test_names_resolve_after_ruleset_is_flushed(cloud: RealCloud) -> None:
    machine = cloud.launch("firewalled")
    machine.run("nft flush ruleset")
    until(
        lambda: machine.run("getent hosts deb.debian.org || true"), "the name is resolved", every=1
    )
    machine.terminate()


def test_disk_survives_stop_and_start(machine: Machine) -> None:
    ec2 = machine.cloud.client("ec2")
    machine.run("echo kept > /root/mark; echo 10.40.1.99 friend >> /etc/hosts")
    ec2.stop_instances(InstanceIds=[machine.instance_id])
    machine.is_in("stopped")
    ec2.start_instances(InstanceIds=[machine.instance_id])
    machine.ready()
    assert machine.run("cat /root/mark /root/user-data; getent hosts friend").split() == [
        "kept",
        "once",
        "10.40.1.99",
        "friend",
    ]
    assert machine.host_keys() == [], "cloud-init prints the host keys at the first boot only"
    assert machine.run("hostname -f") == machine.describe()["PrivateDnsName"]


@pytest.mark.parametrize("by", ["api", "systemctl"])
def test_machine_reboots(machine: Machine, by: str) -> None:
    def boot() -> str:
        return machine.ssh("cut -d' ' -f22 /proc/1/stat", check=False).stdout

    before = boot()
    if by == "api":
        machine.cloud.client("ec2").reboot_instances(InstanceIds=[machine.instance_id])
    else:
        machine.ssh("sudo systemctl reboot", check=False)
    until(lambda: boot() not in ("", before), "the machine has booted again")
    machine.ready()


def test_machine_of_the_profiles_prints_its_host_keys_at_every_boot(cloud: RealCloud) -> None:
    """cloud-init prints them once, and EC2 shows no more than the output of the last boot."""
    profiles = yaml.safe_load((ROOT / "cloud.profiles.d" / "machines.conf").read_text())
    machine = cloud.launch("printing", UserData=profiles["debian-13"]["userdata"])
    try:
        unit = "systemctl is-active console-host-keys"
        until(lambda: machine.run(f"{unit} || true") == "active", "the user data has run")
        keys = sorted(machine.run("cat /etc/ssh/ssh_host_*_key.pub").splitlines())
        started = machine.started()
        cloud.client("ec2").reboot_instances(InstanceIds=[machine.instance_id])
        until(lambda: machine.started() != started, "the machine has booted again")
        # Its last copy is the one that a slow machine needs.
        seconds = Delays().console_posts[-1] + 10
        until(lambda: sorted(machine.host_keys()) == keys, "the keys are on the console", seconds)
        machine.ready()
    finally:
        machine.terminate()


def test_shutdown_inside_machine_stops_instance(cloud: RealCloud) -> None:
    machine = cloud.launch("shut-down")
    machine.ssh("sudo systemctl poweroff", check=False)
    machine.is_in("stopped")
    assert machine.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    machine.terminate()


def test_terminate_removes_container(cloud: RealCloud, docker_client: docker.DockerClient) -> None:
    machine = cloud.launch("short")
    machine.terminate()
    with pytest.raises(docker.errors.NotFound):
        docker_client.containers.get(machine.container)
    assert machine.ssh("true", check=False).returncode == 255


def test_removed_container_terminates_instance(
    cloud: RealCloud, docker_client: docker.DockerClient
) -> None:
    machine = cloud.launch("removed")
    docker_client.containers.get(machine.container).remove(force=True)
    machine.is_in("terminated")
    assert "removed" in machine.describe()["StateReason"]["Message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_machines_and_state_survive_end_of_api_process(
    cloud: RealCloud, machine: Machine, docker_client: docker.DockerClient, number: int
) -> None:
    before = machine.describe()
    started = docker_client.containers.get(machine.container).attrs["State"]["StartedAt"]
    pid = service.status(cloud.config.state_dir).pid
    assert pid
    os.kill(pid, number)
    until(lambda: not service.status(cloud.config.state_dir).running, "the API process has ended")
    try:
        until(lambda: machine_answers(machine), "the machine answers while there is no API")
    finally:
        cloud.restart()
    after = machine.describe()
    assert (after["InstanceId"], after["PrivateIpAddress"], after["Tags"], after["State"]) == (
        before["InstanceId"],
        before["PrivateIpAddress"],
        before["Tags"],
        before["State"],
    )
    assert docker_client.containers.get(machine.container).attrs["State"]["StartedAt"] == started


def test_killed_machine_runs_again_after_restart(
    cloud: RealCloud, machine: Machine, docker_client: docker.DockerClient
) -> None:
    machine.run("echo kept > /root/mark")
    service.stop(cloud.config.state_dir)
    docker_client.containers.get(machine.container).kill()
    cloud.restart()
    until(lambda: machine_answers(machine), "the machine answers")
    machine.ready()
    assert machine.run("cat /root/mark") == "kept"


def test_start_replaces_api_process_only_if_configuration_differs(
    cloud: RealCloud,
) -> None:
    before = service.status(cloud.config.state_dir)
    assert before.healthy
    assert service.start(cloud.config, print) == cloud.endpoint
    assert service.status(cloud.config.state_dir).pid == before.pid
    other = CloudConfig(
        cloud.config.name, cloud.config.state_dir, cloud.config.port, cloud.config.image, {}
    )
    assert service.start(other, print) == cloud.endpoint
    assert service.status(cloud.config.state_dir).pid != before.pid
    cloud.restart()


def test_wrong_credentials_are_refused(cloud: RealCloud) -> None:
    for credentials in (
        {"aws_access_key_id": "AKIAAAAAAAAAAAAAAAAA"},
        {"aws_secret_access_key": "wrong"},
    ):
        with pytest.raises(ClientError, match="AuthFailure"):
            cloud.client("ec2", **credentials).describe_instances()


def test_api_listens_on_loopback_and_bridge_only(cloud: RealCloud) -> None:
    listening = {
        socket.inet_ntoa(bytes.fromhex(fields[1].split(":")[0])[::-1])
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == cloud.config.port
    }
    assert listening == {"127.0.0.1", cloud.endpoint.url.split("/")[2].split(":")[0]}


def test_machine_with_no_sshd_fault_is_unreachable(cloud: RealCloud) -> None:
    with (
        FaultClient(cloud.endpoint).inject(Fault("no-sshd", machine="unreachable")),
        pytest.raises(AssertionError, match="a login works"),
    ):
        cloud.launch("unreachable", patience=4)
    (machine,) = (found for found in cloud.machines() if found.name() == "unreachable")
    until(lambda: "Reached target multi-user.target" in machine.console(), "the machine has booted")
    assert not machine_answers(machine)
    machine.terminate()


def test_faults_are_set_on_loopback_only(cloud: RealCloud) -> None:
    outside = replace(cloud.endpoint, loopback_url=cloud.endpoint.url)
    with pytest.raises(urllib.error.HTTPError, match="404"), FaultClient(outside).inject():
        pass


def test_taken_port_is_reported(cloud: RealCloud, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = CloudConfig(
            f"{cloud.place.name}-other", tmp_path, taken.getsockname()[1], cloud.config.image
        )
        with pytest.raises(PortTaken, match=str(config.port)):
            service.start(config, print)
    assert not service.status(tmp_path).running


def test_network_of_subnet_has_its_cidr_until_deleted(
    cloud: RealCloud, docker_client: docker.DockerClient
) -> None:
    ec2 = cloud.client("ec2")
    cidr = cloud.place.subnet.replace(".1.0/24", ".99.0/24")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": [VPC]}])["Vpcs"][0]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"]
    machine = cloud.launch("elsewhere", SubnetId=subnet)
    (network,) = docker_client.networks.list(names=[f"{cloud.place.name}-{subnet}"])
    assert network.attrs["IPAM"]["Config"] == [
        {"Subnet": cidr, "Gateway": cidr.replace(".0/24", ".1")}
    ]
    machine.terminate()
    ec2.delete_subnet(SubnetId=subnet)
    until(
        lambda: not docker_client.networks.list(names=[f"{cloud.place.name}-{subnet}"]),
        "the network is gone",
    )


def machine_answers(machine: Machine) -> bool:
    """Return whether the machine's SSH server answers."""
    try:
        with socket.create_connection((machine.address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
