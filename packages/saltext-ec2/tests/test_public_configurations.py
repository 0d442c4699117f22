"""Configurations that others wrote for Salt's own driver launch and list as they are.

Each has the combination of options of a configuration found in public, with other names and
values. Only the edge is the test's: the main file says how the fake instances are reached, and
image, subnet, group and key are the account's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Template
from typing import Any

import pytest
import yaml

from sandbox import Sandbox


@dataclass(frozen=True)
class Configuration:
    """What somebody has in their files, as YAML.

    Attributes:
        providers: a file of cloud.providers.d.
        profiles: a file of cloud.profiles.d.
        machines: a map.
        main: the main cloud configuration file.
        names: the machines that the map describes.
        devices: the devices of the first of them.
        tags: some tags of the first of them.
        size: the instance type of the first of them.
    """

    providers: str
    profiles: str
    machines: str
    main: str = "{}"
    names: tuple[str, ...] = ("m1",)
    devices: frozenset[str] = frozenset({"/dev/sda1"})
    tags: dict[str, str] = field(default_factory=dict)
    size: str = "t2.micro"


CONFIGURATIONS = {
    # Everything that the manual's first page shows, in one provider and one profile.
    "manual": Configuration(
        providers="""
            office-public:
              minion: {master: salt.example.com}
              grains: {tier: broker, build: 1.0.1}
              ssh_interface: private_ips
              win_deploy_auth_retries: 10
              win_deploy_auth_retry_delay: 1
              id: AKIATEST
              key: 'abc;def/ghi'
              private_key: $key
              keyname: deploy
              securitygroup: web
              location: eu-west-1
              availability_zone: eu-west-1a
              ssh_username: ec2-user
              iam_profile: worker
              del_root_vol_on_destroy: True
              rename_on_destroy: True
              driver: ec2
        """,
        profiles="""
            store:
              provider: office-public
              image: $image
              size: m1.xlarge
              ssh_username: ec2-user
              script: deploy
              network_interfaces:
                - DeviceIndex: 0
                  PrivateIpAddresses:
                    - Primary: True
                  AssociatePublicIpAddress: True
                  SubnetId: $subnet_a
                  SecurityGroupId:
                    - $group
              volumes:
                - { size: 10, device: /dev/sdf }
                - { size: 10, device: /dev/sdg, type: io1, iops: 500 }
              del_root_vol_on_destroy: True
              del_all_vol_on_destroy: True
              tag: {'Stage': 'live', 'Role': 'store'}
              sync_after_install: grains
        """,
        machines="store: [m1]",
        devices=frozenset({"/dev/sda1", "/dev/sdf", "/dev/sdg"}),
        tags={"Stage": "live"},
        size="m1.xlarge",
    ),
    # One provider, one profile, a map of names; the misspelling of the manual.
    "names-in-a-map": Configuration(
        providers="""
            mumbai:
              minion: {master: ['10.0.0.9']}
              ssh_interface: private_ips
              id: AKIATEST
              key: secret
              private_key: $key
              keyname: deploy
              location: eu-west-1
              availability_zone: eu-west-1a
              driver: ec2
        """,
        profiles="""
            xenial:
              provider: mumbai
              image: '$image'
              size: t2.micro
              network_interfaces:
                - DeviceIndex: 0
                  SubnetId: $subnet_a
                  SecurityGroupId:
                    - $group
                  AssociatePublicIpAddress: True
              block_device_mappings:
                  - DeviceName:  /dev/sda1
                    Ebs.VolumeSize:  12
                    Ebs.VolumeType:  gp2
              del_root_vol_on_destroy: True
              del_all_vol_on_destroy: True
              ssh_username: ubuntu
              minion:
                master: ['10.0.0.9']
              script: deploy.sh
        """,
        machines="xenial:\n  - m1\n  - m2\n",
        names=("m1", "m2"),
    ),
    # Everything in the provider, next to nothing in the profile.
    "fat-provider": Configuration(
        providers="""
            dublin:
              ssh_interface: private_ips
              id: AKIATEST
              key: secret
              keyname: deploy
              private_key: $key
              location: eu-west-1
              availability_zone: eu-west-1a
              securitygroup: web
              size: t1.micro
              del_root_vol_on_destroy: True
              ssh_username: ec2-user
              rename_on_destroy: True
              driver: ec2
              minion:
                master: 10.0.0.9
        """,
        profiles="base: {provider: dublin, image: $image}",
        machines="base: [m1]",
        size="t1.micro",
    ),
    # Credentials of the instance's role, an instance profile by its ARN, groups by id.
    "instance-role": Configuration(
        providers="""
            inside:
              driver: ec2
              minion:
                master: 172.31.0.9
              ssh_interface: private_ips
              id: 'use-instance-role-credentials'
              key: 'use-instance-role-credentials'
              private_key: $key
              keyname: deploy
              location: eu-west-1
              iam_profile: 'arn:aws:iam::123456789012:instance-profile/worker'
              subnetid: $subnet_a
              securitygroupid:
                - $group
        """,
        profiles="""
            small: {provider: inside, image: $image, size: t2.micro, ssh_username: ec2-user}
            large: {provider: inside, image: $image, size: t2.medium, ssh_username: ec2-user}
        """,
        machines="small: [m1]\nlarge: [m2]\n",
        names=("m1", "m2"),
    ),
    # A subnet and a group as text, arguments for the bootstrap script, grains in the provider.
    "script-arguments": Configuration(
        providers="""
            west:
              minion:
                master: 10.141.0.9
              grains:
                tier: broker
              ssh_interface: private_ips
              id: "use-instance-role-credentials"
              key: "use-instance-role-credentials"
              private_key: $key
              keyname: deploy
              location: eu-west-1
              ssh_username: centos
              driver: ec2
        """,
        profiles="""
            tracker:
                provider: west
                image: $image
                size: t2.small
                script: deploy
                script_args: -D git v2015.5.1
                subnetid: $subnet_b
                securitygroupid: $group
                block_device_mappings:
                  - DeviceName: /dev/sda1
                    Ebs.VolumeSize: 40
        """,
        machines="tracker: [m1]",
        size="t2.small",
    ),
    # Words that never did anything, in a provider for all profiles.
    "words-without-effect": Configuration(
        providers="""
            campus:
              driver: ec2
              id: use-instance-role-credentials
              key: use-instance-role-credentials
              keyname: deploy
              private_key: $key
              location: eu-west-1
              script_args: -U -Z -P
              sync_after_install: all
              delete_ssh_keys: True
        """,
        profiles="""
            documents:
              provider: campus
              size: m4.large
              image: $image
              ssh_username: admin
              ssh_interface: private_ips
              block_device_mappings:
                - DeviceName: /dev/sda1
                  Ebs.VolumeSize: 25
                  Ebs.VolumeType: gp2
                - DeviceName: /dev/xvdb
                  Ebs.VolumeSize: 100
                  Ebs.VolumeType: gp2
              ebs_optimized: True
              iam_profile: worker
              tag:
                role: documents
              grains:
                roles:
                  - documents
              minion:
                master:
                  - salt.example.com
              sync_after_install: all
              enable_term_protect: True
        """,
        machines="""
            documents:
              - m1:
                  network_interfaces:
                    - DeviceIndex: 0
                      AssociatePublicIpAddress: True
                      SubnetId: $subnet_a
                      SecurityGroupId: [$group]
                  tag:
                    environment: qa
                    role: documents
                  grains:
                    environment: qa
                    roles: [documents, shard]
              - m2:
                  network_interfaces:
                    - DeviceIndex: 0
                      AssociatePublicIpAddress: True
                      SubnetId: $subnet_b
                      SecurityGroupId: [$group]
                  ebs_optimized: False
        """,
        names=("m1", "m2"),
        devices=frozenset({"/dev/sda1", "/dev/xvdb"}),
        tags={"environment": "qa", "role": "documents"},
        size="m4.large",
    ),
    # A provider and profiles that extend others; a map that is a mapping; an Elastic IP.
    "extends": Configuration(
        providers="""
            net:
              id: AKIATEST
              key: 'secret'
              private_key: $key
              keyname: deploy
              ssh_username: ec2-user
              driver: ec2
              image: $image
              location: eu-west-1
              availability_zone: eu-west-1a
              rename_on_destroy: True
              block_device_mappings:
                - DeviceName: /dev/sda1
                  Ebs.VolumeSize: 10
                  Ebs.VolumeType: gp2
            net-large:
              extends: net:ec2
              block_device_mappings:
                - DeviceName: /dev/sda1
                  Ebs.VolumeSize: 100
                  Ebs.VolumeType: gp2
        """,
        profiles="""
            base:
              provider: net
              minion:
                master: salt.example.internal
              private_key: $key
              script: $folder/deploy.sh
              ssh_interface: private_ips
              image: $image
              flush_mine_on_destroy: True
            logs:
              extends: base
              provider: net-large
              subnetid: $subnet_a
              grains:
                roles: [search, shipper]
              size: t2.medium
              securitygroupid:
                - $group
            edge:
              extends: base
              grains:
                roles: [edge]
              size: t2.micro
              network_interfaces:
                - DeviceIndex: 0
                  SubnetId: $subnet_a
                  associate_eip: $address
                  SecurityGroupId:
                    - $group
        """,
        machines="""
            edge:
              m1:
                location: eu-west-1
                availability_zone: eu-west-1a
            logs:
              m2:
                location: eu-west-1
                volumes:
                  - { size: 20, device: /dev/sdf }
                  - { size: 20, device: /dev/sdg }
        """,
        names=("m1", "m2"),
    ),
    # A master made by salt-cloud; interfaces with names instead of ids; an option of the mine.
    "master": Configuration(
        providers="""
            demo_ec2:
              driver: ec2
              location: eu-west-1
              id: AKIATEST
              key: 'secret'
              private_key: $key
              keyname: deploy
              del_root_vol_on_destroy: True
        """,
        profiles="""
            head:
              make_master: True
              provider: demo_ec2
              image: $image
              ssh_username: centos
              ssh_interface: private_ips
              size: t2.micro
              network_interfaces:
                - DeviceIndex: 0
                  PrivateIpAddresses:
                    - Primary: True
                  AssociatePublicIpAddress: True
                  subnetname: a
                  securitygroupname: [web]
              flush_mine_on_destroy: True
              del_root_vol_on_destroy: True
              del_all_vols_on_destroy: True
              tag:
                environment: demo
                colour: white
              minion:
                master: 127.0.0.1
                local_master: True
                grains:
                  environment: demo
        """,
        machines="head: [m1]",
        tags={"colour": "white"},
    ),
    # The login's name under a word that no driver read.
    "misnamed-login": Configuration(
        providers="""
            kubes:
              driver: ec2
              keyname: deploy
              ssh_interface: private_ips
              ssh_user: ec2-user
              private_key: $key
              id: use-instance-role-credentials
              key: use-instance-role-credentials
              location: eu-west-1
              minion:
                master: 10.0.0.9
        """,
        profiles="""
            worker:
              provider: kubes
              size: t2.micro
              image: $image
              script: $folder/deploy.sh
              block_device_mappings:
                - DeviceName: /dev/sda1
                  Ebs.VolumeSize: 30
              network_interfaces:
                - DeviceIndex: 0
                  AssociatePublicIpAddress: False
                  SubnetId: $subnet_a
                  SecurityGroupId: $group
        """,
        machines="worker: [m1, m2, m3]",
        names=("m1", "m2", "m3"),
    ),
    # Several logins, another word without effect, `region`.
    "several-logins": Configuration(
        providers="""
            aws_provider:
              minion:
                master: salt.example.com
              ssh_interface: private_ips
              ssh_username:
                - ubuntu
                - ec2-user
                - root
              keyname: deploy
              private_key: $key
              delete_sshkeys: True
              id: AKIATEST
              key: secret
              region: eu-west-1
              driver: ec2
              rename_on_destroy: True
        """,
        profiles="""
            database:
              provider: aws_provider
              size: m3.medium
              image: $image
              ssh_interface: private_ips
              ssh_username: ubuntu
              block_device_mappings:
                - DeviceName: /dev/sda1
                  Ebs.VolumeSize: 50
              subnetid: $subnet_a
              grains:
                roles:
                  - database
                env: prod
        """,
        machines="database: [m1]",
        size="m3.medium",
    ),
    # A device with a tag, as the manual shows it; the login misspelt as in Salt's own test profile.
    "device-tags": Configuration(
        providers="""
            laptop:
              driver: ec2
              id: 'AKIATEST'
              key: 'secret'
              private_key: $key
              keyname: deploy
              securitygroup: web
              location: eu-west-1
              minion:
                master: salt
        """,
        profiles="""
            free:
              provider: laptop
              image: $image
              size: t2.micro
              sh_username: ubuntu
              ssh_interface: private_ips
              availability_zone: eu-west-1b
              block_device_mappings:
                - DeviceName: /dev/sda1
                  Ebs.VolumeSize: 14
                  Ebs.VolumeType: gp3
                  tag:
                    disksize: 14
              securitygroup: web
        """,
        machines="free: [m1]",
    ),
    # Spot instances with tags, volumes with tags, what stays and what goes said in the provider.
    "spot": Configuration(
        providers="""
            queue_provider:
              driver: ec2
              rename_on_destroy: False
              del_root_vol_on_destroy: False
              del_all_vols_on_destroy: False
              minion:
                master: [salt-1.example.com, salt-2.example.com]
                master_type: failover
              id: AKIATEST
              key: secret
              private_key: $key
              keyname: deploy
              location: eu-west-1
              ssh_interface: private_ips
              ssh_username: ec2-user
              wait_for_spot_timeout: 300
              wait_for_spot_interval: 5
              wait_for_spot_max_failures: 3
        """,
        profiles="""
            queue:
              provider: queue_provider
              image: $image
              size: t2.micro
              subnetid: $subnet_a
              securitygroupid: [$group]
              spot_config:
                spot_price: 0.10
                tag:
                  owner: dice
              volumes:
                - device: /dev/xvdf
                  size: 40
                  type: gp2
                  tags:
                    purpose: messages
        """,
        machines="queue: [{m1: {del_all_vols_on_destroy: True}}]",
        devices=frozenset({"/dev/sda1", "/dev/xvdf"}),
    ),
    # Providers and an option of another cloud in the main file, files to copy.
    "main-file": Configuration(
        main="""
            log_level_logfile: debug
            win_username: Administrator
            providers:
              tower:
                id: AKIATEST
                key: secret
                keyname: deploy
                private_key: $key
                securitygroup: web
                driver: ec2
                location: eu-west-1
                ssh_interface: private_ips
                availability_zone: eu-west-1a
        """,
        providers="{}",
        profiles="""
            runner:
              provider: tower
              image: $image
              size: t2.micro
              ssh_username: centos
              del_root_vol_on_destroy: True
              rename_on_destroy: True
              file_map:
                $folder/deploy.sh: $folder/hosts/copied.sh
              minion:
                master: salt.example.com
                local_master: True
                hash_type: sha256
                startup_states: highstate
                mine_interval: 5
                mine_functions:
                  network.ip_addrs: [eth0]
        """,
        machines="runner: [m1]",
    ),
    # The smallest one.
    "smallest": Configuration(
        providers="""
            games:
              ssh_interface: private_ips
              id: AKIATEST
              key: secret
              private_key: $key
              keyname: deploy
              securitygroup: web
              ssh_username: centos
              location: eu-west-1
              driver: ec2
              del_all_vols_on_destroy: True
        """,
        profiles="game: {provider: games, size: t2.micro, image: $image}",
        machines="game: [m1, m2]",
        names=("m1", "m2"),
    ),
}


@pytest.fixture
def configured(sandbox: Sandbox, request: pytest.FixtureRequest) -> tuple[Sandbox, Configuration]:
    """Salt with one of the configurations."""
    found = CONFIGURATIONS[request.param]
    iam = sandbox.server.client("iam")
    iam.create_instance_profile(InstanceProfileName="worker")
    words = {
        "image": sandbox.image,
        "group": sandbox.ec2.describe_security_groups(GroupNames=["web"])["SecurityGroups"][0][
            "GroupId"
        ],
        "address": sandbox.ec2.allocate_address(Domain="vpc")["AllocationId"],
        "key": str(sandbox.folder / "key.pem"),
        "folder": str(sandbox.folder),
    }
    for subnet in sandbox.ec2.describe_subnets()["Subnets"]:
        for tag in subnet.get("Tags", []):
            words[f"subnet_{tag['Value']}"] = subnet["SubnetId"]

    def read(text: str) -> Any:
        return yaml.safe_load(Template(text).substitute(words))

    sandbox.main |= {
        "ssh_gateway": "gateway.test",
        "host_keys": "none",
        "sudo": False,
        "tmp_dir": "deploy",
        "wait_for_ip_interval": 0.1,
        **read(found.main),
    }
    sandbox.providers, sandbox.profiles = read(found.providers), read(found.profiles)
    sandbox.write("machines", read(found.machines))
    return sandbox, found


@pytest.mark.parametrize("configured", CONFIGURATIONS, indirect=True)
def test_public_configuration_launches_and_lists(
    configured: tuple[Sandbox, Configuration],
) -> None:
    sandbox, configuration = configured
    done = sandbox.salt_cloud(f"--map={sandbox.folder / 'machines'}")
    assert not done.code, done
    assert "Traceback" not in done.output, done
    assert set(sandbox.instances()) == sandbox.accepted_keys() == set(configuration.names), done
    first = sandbox.instances()[configuration.names[0]]
    assert set(sandbox.volumes(configuration.names[0])) == configuration.devices
    assert first["InstanceType"] == configuration.size
    tags = {tag["Key"]: tag["Value"] for tag in first["Tags"]}
    assert configuration.tags.items() <= tags.items()
    listed = sandbox.salt_cloud("--query")
    assert not listed.code, listed
    found = {
        name for drivers in listed.answer.values() for nodes in drivers.values() for name in nodes
    }
    assert found == set(configuration.names)
