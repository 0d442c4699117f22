"""The table of options: what each option of a provider, profile or map means to the driver.

The checks, the defaults and options.md come from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from saltext.ec2._option_types import (
    ANYTHING,
    BOOLEAN,
    COMMANDS,
    COUNT,
    LIST,
    MAPPING,
    NAMES,
    PRICE,
    SECONDS,
    TEXT,
    TEXT_OR_FALSE,
    TEXT_OR_LIST,
    TEXT_OR_MAPPING,
    URL,
    USERS,
    WHOLE,
    Type,
    choice,
    list_of,
    mapping_of,
)

Status = Literal["same", "changed", "new", "core", "ignored", "obsolete", "refused"]


@dataclass(frozen=True)
class Option:
    """One option of a provider, a profile or a map; a map outranks a profile, and both a provider.

    Attributes:
        name: the option as a user writes it.
        status: how the option compares with the driver of Salt 3007: it is the `same`, has
            `changed`, or is `new`. Salt's `core` reads it, as before. It is `ignored`, with a
            warning, since it has no meaning any more. It is `obsolete`, with a warning, since it
            never had an effect in a provider, profile or map. Or it is `refused`.
        type: what the value must be.
        text: what the option does; for a refused option, what to use instead.
        default: the value when the option is absent. With None nothing is sent, and EC2 decides.
        main_file: whether the option may also stand in the main cloud configuration file.
        provider_only: whether the option must not differ from the provider's in a profile or map.
    """

    name: str
    status: Status
    type: Type
    text: str
    default: Any = None
    main_file: bool = False
    provider_only: bool = False


_EBS = {
    "DeleteOnTermination": BOOLEAN, "Encrypted": BOOLEAN, "Iops": WHOLE, "KmsKeyId": TEXT,
    "SnapshotId": TEXT, "Throughput": WHOLE, "VolumeSize": WHOLE, "VolumeType": TEXT,
}  # fmt: skip
_DEVICES = list_of(
    mapping_of({
        "DeviceName": TEXT, "VirtualName": TEXT, "NoDevice": TEXT, "tag": MAPPING,
        "Ebs": mapping_of(_EBS), **{f"Ebs.{key}": kind for key, kind in _EBS.items()},
    }),
    "a list of mappings",
)  # fmt: skip
VOLUME: Mapping[str, Type] = {
    "device": TEXT, "size": WHOLE, "snapshot": TEXT, "volume_id": TEXT, "type": TEXT,
    "iops": WHOLE, "throughput": WHOLE, "encrypted": BOOLEAN, "kmskeyid": TEXT,
    "kms_key_id": TEXT, "tags": MAPPING,
}  # fmt: skip
_VOLUMES = list_of(mapping_of(VOLUME), "a list of mappings")
_INTERFACES = list_of(
    mapping_of({
        "DeviceIndex": COUNT, "NetworkCardIndex": COUNT, "NetworkInterfaceId": TEXT,
        "SubnetId": TEXT, "SubnetName": TEXT, "subnetname": TEXT, "SecurityGroupId": NAMES,
        "securitygroupname": NAMES, "Groups": NAMES, "PrivateIpAddress": TEXT,
        "PrivateIpAddresses": list_of(
            mapping_of({"Primary": BOOLEAN, "PrivateIpAddress": TEXT}), "a list of mappings"
        ),
        "SecondaryPrivateIpAddressCount": COUNT, "Ipv6AddressCount": COUNT,
        "AssociatePublicIpAddress": BOOLEAN, "DeleteOnTermination": BOOLEAN,
        "SourceDestCheck": BOOLEAN, "Description": TEXT, "InterfaceType": TEXT,
        "associate_eip": TEXT, "allocate_new_eip": BOOLEAN, "allocate_new_eips": BOOLEAN,
    }),
    "a list of mappings",
)  # fmt: skip
_SPOT_CONFIG = mapping_of({
    "spot_price": PRICE, "type": TEXT, "interruption": TEXT, "tag": MAPPING,
})  # fmt: skip
_CPU = mapping_of({
    "CoreCount": WHOLE, "ThreadsPerCore": WHOLE, "core_count": WHOLE, "threads_per_core": WHOLE,
})  # fmt: skip

ACCOUNT = (
    Option("location", "changed", TEXT, provider_only=True, text=
        "The region. Without it, boto3's own default holds; the old driver had another default."),
    Option("region", "new", TEXT, provider_only=True, text=
        "Another name for `location`."),
    Option("allowed_regions", "new", NAMES, provider_only=True, text=
        "The driver refuses every other region before it makes a call."),
    Option("id", "same", TEXT, provider_only=True, text=
        "The access key. Without `id` and `key`, boto3 finds the credentials: environment, profile,"
        " SSO, web identity, or the role of the instance. `use-instance-role-credentials` means the"
        " same."),
    Option("key", "same", TEXT, provider_only=True, text=
        "The secret key that belongs to `id`."),
    Option("token", "same", TEXT, provider_only=True, text=
        "The session token that belongs to `id` and `key`."),
    Option("role_arn", "same", TEXT, provider_only=True, text=
        "The driver assumes this role with the credentials."),
    Option("profile_name", "new", TEXT, provider_only=True, text=
        "A profile of the AWS configuration files."),
    Option("endpoint_url", "new", URL, provider_only=True, text=
        "The URL of another EC2 endpoint than Amazon's. Without it, and for SSM and STS, boto3"
        " finds the endpoint (`AWS_ENDPOINT_URL`)."),
    Option("endpoint", "same", TEXT, provider_only=True, text=
        "The same without a scheme; the driver uses https."),
    Option("max_attempts", "new", WHOLE, default=8, text=
        "How often a call is tried in all. botocore's adaptive mode waits between two tries, and"
        " the driver logs each retry."),
    Option("api_timeout", "new", WHOLE, default=30, text=
        "Seconds that one try of a call may take."),
    Option("owned_by", "new", MAPPING, main_file=True, provider_only=True, text=
        "Tags, such as `{project: shop, deployment: test}`. The driver sees only what has all of"
        " them: machines, and by their names subnets, security groups and elastic addresses. It"
        " gives them to what it launches. Its values replace `{project}` and so on in `keyname`,"
        " `iam_profile`, `subnetname`, `securitygroup` and `associate_eip`. So several deployments"
        " share an account, and each has a machine `web-1`."),
    Option("owner", "changed", TEXT, default="self", provider_only=True, text=
        "The account whose images `--list-images` shows. The old default was `amazon`, which has"
        " many thousands."),
)  # fmt: skip

MACHINE = (
    Option("image", "changed", TEXT_OR_MAPPING, text=
        "`ami-…` as before; or `ssm:/name/of/a/parameter`; or `{owner: …, name: pattern,"
        " architecture: …}`, of which the newest image is taken. A name without an owner is"
        " refused, since anybody can publish an image by that name."),
    Option("size", "same", TEXT, text=
        "The instance type."),
    Option("launch_template", "new", MAPPING, text=
        "`{id: …}` or `{name: …}`, with an optional `version`. With a launch template, `image` and"
        " `size` may be absent. Without `image`, the template or its image decides about the root"
        " volume: its type, its encryption, and whether it is deleted with the machine."),
    Option("keyname", "same", TEXT, text=
        "The EC2 key pair for the first login."),
    Option("iam_profile", "same", TEXT, text=
        "Name or ARN of an instance profile."),
    Option("tag", "changed", MAPPING, text=
        "The tags. They are set at launch, on the instance, its volumes and its network"
        " interfaces."),
    Option("metadata_options", "new", MAPPING, default={}, text=
        "Settings of the instance metadata service by EC2's names (`HttpTokens` or `http_tokens`)."
        " IMDSv2 is required unless this option says otherwise."),
    Option("credit_specification", "new", TEXT_OR_MAPPING, text=
        "`standard` or `unlimited`, for burstable types."),
    Option("cpu_options", "new", _CPU, text=
        "`{CoreCount: …, ThreadsPerCore: …}`."),
    Option("userdata", "same", TEXT, text=
        "The user data."),
    Option("userdata_file", "same", TEXT, text=
        "A file that holds the user data."),
    Option("userdata_template", "same", TEXT_OR_FALSE, main_file=True, text=
        "The renderer of the user data: `jinja`, `mako` and so on; the template sees the machine as"
        " `opts`. With false, the user data is not rendered."),
    Option("termination_protection", "same", BOOLEAN, text=
        "EC2 refuses to terminate the machine."),
    Option("shutdown_behavior", "new", TEXT, text=
        "`stop` or `terminate`: what EC2 does when the machine shuts itself down."),
    Option("monitoring", "new", BOOLEAN, text=
        "Detailed monitoring."),
    Option("hibernation", "new", BOOLEAN, text=
        "The machine can hibernate. Its root volume must be encrypted for that."),
    Option("ebs_optimized", "same", BOOLEAN, text=
        "Dedicated bandwidth to the volumes."),
    Option("placementgroup", "same", TEXT, text=
        "The name of the placement group."),
    Option("tenancy", "same", TEXT, text=
        "`default`, `dedicated` or `host`."),
    Option("spot_config", "changed", _SPOT_CONFIG, text=
        "Launch a spot instance. The keys are optional: `spot_price` (without it, at most the"
        " on-demand price), `type` (`one-time`, `persistent`), `interruption` (`terminate`, `stop`,"
        " `hibernate`), and `tag` (further tags of the spot request, which has the machine's tags"
        " too)."),
)  # fmt: skip

DISKS = (
    Option("block_device_mappings", "changed", _DEVICES, main_file=True, text=
        "EC2's list of block devices, nested or with `Ebs.` keys. Every volume, the root volume"
        " too, is gp3 and encrypted unless this option says otherwise. All volumes have the tags of"
        " the option `tag`; an entry may have a `tag` with further tags of its volume."),
    Option("volumes", "changed", _VOLUMES, main_file=True, text=
        "Further volumes. Each entry has a `device`, and one of `size`, `snapshot` and `volume_id`"
        " (an existing volume). Optional keys are `type`, `iops`, `throughput`, `encrypted`,"
        " `kmskeyid` and `tags`. A new volume is part of the launch, and gp3 and encrypted unless"
        " its entry says otherwise."),
    Option("del_root_vol_on_destroy", "changed", BOOLEAN, default=True, text=
        "Whether EC2 deletes the root volume with the machine. The old default was the image's."),
    Option("del_all_vols_on_destroy", "changed", BOOLEAN, default=True, text=
        "Whether EC2 deletes all other volumes of the launch with the machine. The old default kept"
        " them."),
    Option("rename_on_destroy", "changed", BOOLEAN, default=False, main_file=True,
        provider_only=True, text=
        "Change the Name tag of a terminated machine. The old driver did so by default. There is no"
        " need for it: the driver never takes a terminated machine for a living one."),
)  # fmt: skip

NETWORK = (
    Option("subnetname", "changed", TEXT_OR_LIST, text=
        "The Name tag of the subnet. From a list, the driver takes the first subnet with room. It"
        " is an error along with `subnetid`, which used to outrank it."),
    Option("subnetid", "changed", TEXT_OR_LIST, text=
        "The id of the subnet. From a list, the driver takes the first subnet with room."),
    Option("availability_zone", "changed", TEXT_OR_LIST, text=
        "The zone, when no subnet decides it. From a list, the driver takes the first zone with"
        " room."),
    Option("spread", "new", BOOLEAN, default=False, text=
        "Whether a list in `subnetname`, `subnetid` or `availability_zone` is entered at the place"
        " of the machine's number: `web-1` begins with the first, `web-2` with the second, and"
        " after the last comes the first. Where there is no room, the next in the list is tried. A"
        " name without a number at its end begins with the first."),
    Option("securitygroup", "same", NAMES, text=
        "The security groups, by name or id."),
    Option("securitygroupname", "same", NAMES, text=
        "The same as `securitygroup`."),
    Option("securitygroupid", "same", NAMES, text=
        "The same as `securitygroup`."),
    Option("associate_public_ip", "new", BOOLEAN, text=
        "Whether the machine gets a public address. Without it, the subnet decides."),
    Option("private_ip", "new", TEXT, text=
        "The private address of the machine."),
    Option("associate_eip", "new", TEXT, text=
        "The Elastic IP address of the machine, by allocation id or Name tag. It is never taken"
        " from another machine, and stays when this one is destroyed."),
    Option("network_interfaces", "same", _INTERFACES, text=
        "EC2's list of network interfaces, with `SubnetId` or `subnetname`, `SecurityGroupId` or"
        " `securitygroupname`, `PrivateIpAddress`, `PrivateIpAddresses`,"
        " `SecondaryPrivateIpAddressCount`, `AssociatePublicIpAddress`, `SourceDestCheck`,"
        " `DeleteOnTermination`; `associate_eip` (an allocation id or a Name tag),"
        " `allocate_new_eip`, `allocate_new_eips` (an Elastic IP address for each private address)."
        " The driver releases allocated addresses when it destroys the machine."),
)  # fmt: skip

DEPLOYMENT = (
    Option("ssh_interface", "same", choice("public_ips", "private_ips"), default="public_ips",
        main_file=True, text=
        "The kind of address at which salt-cloud reaches the machine."),
    Option("ssh_username", "changed", USERS,
        default=["ec2-user", "ubuntu", "admin", "bitnami", "root"], main_file=True, text=
        "The user who logs in. From a list, the driver tries each user in turn. The old driver also"
        " tried the users of the default after those in the list."),
    Option("ssh_port", "same", WHOLE, default=22, main_file=True, text=
        "The port of the machine's sshd."),
    Option("private_key", "same", TEXT, main_file=True, text=
        "The file with the private half of the key pair."),
    Option("key_filename", "same", TEXT, text=
        "The same as `private_key`."),
    Option("ssh_keyfile", "same", TEXT, text=
        "The same as `private_key`."),
    Option("ssh_agent", "same", BOOLEAN, default=False, main_file=True, text=
        "An SSH agent holds the private key."),
    Option("host_keys", "new", choice("console", "none"), default="console", main_file=True, text=
        "With `console`, the driver trusts only the SSH host keys that the machine printed on its"
        " console. With `none` it trusts any host key, as the old driver did."),
    Option("known_hosts_file", "same", TEXT, main_file=True, text=
        "The driver trusts the host keys in this file instead of the console's."),
    Option("ssh_gateway", "same", TEXT, main_file=True, text=
        "A host, or host:port, through which the driver reaches the machine. The host key of the"
        " gateway must be in the operator's known_hosts."),
    Option("ssh_gateway_port", "same", WHOLE, default=22, main_file=True, text=
        "The SSH port of the gateway."),
    Option("ssh_gateway_username", "same", TEXT, default="root", main_file=True, text=
        "The user who logs in to the gateway."),
    Option("ssh_gateway_private_key", "same", TEXT, main_file=True, text=
        "The private key for the gateway. Without it, the driver uses `private_key`."),
    Option("ssh_gateway_command", "changed", TEXT, main_file=True, text=
        "The command on the gateway that connects to the machine, such as `nc %h %p`. Without it,"
        " the gateway's sshd forwards the connection."),
    Option("ssh_connect_timeout", "same", SECONDS, default=900, main_file=True, text=
        "Seconds after which the driver gives up when no login has worked."),
    Option("deploy_timeout", "new", SECONDS, default=1800, main_file=True, text=
        "Seconds that the deploy script may take."),
    Option("wait_for_ip_timeout", "same", SECONDS, default=600, main_file=True, text=
        "Seconds for the machine to run and to have its address. Where the address is known from"
        " the launch (`private_ips`) and nothing is attached after it, `ssh_connect_timeout` limits"
        " this wait too."),
    Option("wait_for_ip_interval", "changed", SECONDS, default=1, main_file=True, text=
        "Seconds between two queries whether machines run. One query covers all machines of the"
        " map that are not running yet. The old default was 10, for each machine."),
    Option("on_failure", "new", choice("keep", "destroy"), default="keep", main_file=True, text=
        "What the driver does with a machine whose deployment failed: `keep` it, so that the next"
        " run repairs it, or `destroy` it and remove its key."),
    Option("tmp_dir", "same", TEXT, default="/tmp/.saltcloud", main_file=True, text=  # noqa: S108
        "The beginning of the remote folder's name."),
    Option("keep_tmp", "same", BOOLEAN, default=False, main_file=True, text=
        "Leave the remote folder on the machine."),
    Option("sudo", "same", BOOLEAN, main_file=True, text=
        "Whether the deployment needs sudo. Without it, the driver uses sudo unless the user is"
        " root."),
    Option("display_ssh_output", "same", BOOLEAN, default=True, main_file=True, text=
        "Show the output of the deploy script."),
    Option("make_syndic", "new", BOOLEAN, main_file=True, text=
        "Install a syndic, too. `syndic_master` in `master` used to imply it."),
)  # fmt: skip

CORE = tuple(Option(name, "core", kind, text) for name, kind, text in (
    ("driver", TEXT, "`ec2`."),
    ("provider", TEXT, "The provider of a profile."),
    ("extends", TEXT, "The profile that this profile extends."),
    ("deploy", BOOLEAN, "Whether salt-cloud installs a minion."),
    ("script", TEXT, "The deploy script."),
    ("script_args", TEXT, "The arguments of the deploy script."),
    ("script_env", MAPPING, "The environment of the deploy script."),
    ("inline_script", TEXT_OR_LIST, "Commands that run after the deploy script."),
    ("preflight_cmds", COMMANDS, "Commands that run before the deploy script."),
    ("file_map", MAPPING,
     "Files to copy to the machine before the deploy script runs. Each file must exist."),
    ("minion", MAPPING, "The configuration of the minion."),
    ("grains", MAPPING, "The grains of the minion."),
    ("keysize", WHOLE, "The length of the minion's key in bits."),
    ("force_minion_config", BOOLEAN, "Replace a minion configuration that the machine has."),
    ("make_master", BOOLEAN, "Install a master, too."),
    ("make_minion", BOOLEAN, "Install a minion, too."),
    ("master", MAPPING, "The configuration of the master."),
    ("master_sign_pub_file", TEXT, "The file with the master's public signing key."),
    ("master_finger", TEXT, "The fingerprint of the master's key."),
    ("requires", LIST, "Machines of the map that are created before this machine."),
    ("start_action", TEXT, "The first function that the minion runs."),
    ("domain", TEXT, "The domain of the minion's id, with `use_fqdn`."),
    ("use_fqdn", BOOLEAN, "Add `domain` to the minion's id."),
))  # fmt: skip

_SPOT = "EC2 answers at once whether it launches a spot instance."
_ONE_SESSION = "The deployment is one SSH session: see deploy_timeout and ssh_connect_timeout."

IGNORED = tuple(Option(name, "ignored", ANYTHING, text, main_file=True) for name, text in (
    ("wait_for_spot_timeout", _SPOT),
    ("wait_for_spot_interval", _SPOT),
    ("wait_for_spot_interval_multiplier", _SPOT),
    ("wait_for_spot_max_failures", _SPOT),
    ("wait_for_ip_interval_multiplier", "botocore waits between throttled calls."),
    ("tty", _ONE_SESSION),
    ("file_transport", _ONE_SESSION),
    ("hard_timeout", _ONE_SESSION),
    ("wait_for_passwd_maxtries", _ONE_SESSION),
    ("wait_for_passwd_timeout", _ONE_SESSION),
))  # fmt: skip

_ONE_NAME = "A name stands for one machine: list the names in a map."
_KEYS_ONLY = "The driver logs in with a key: set private_key or ssh_agent."
_NO_WINDOWS = (
    "The driver deploys no Windows machines: install the minion with userdata, and set"
    " deploy: False."
)

_USERS = "Set ssh_username."
_NO_RETRIES = "The driver deploys no Windows machines."
_NO_KEYS = "The core removes the key of a machine that it destroys."

OBSOLETE = tuple(Option(name, "obsolete", ANYTHING, text) for name, text in (
    ("seed", "Set deploy: False."),
    ("win_deploy_auth_retries", _NO_RETRIES),
    ("win_deploy_auth_retry_delay", _NO_RETRIES),
    ("delete_ssh_keys", _NO_KEYS),
    ("delete_sshkeys", _NO_KEYS),
    ("del_all_vol_on_destroy", "Set del_all_vols_on_destroy."),
    ("delvol_on_destroy", "Set del_root_vol_on_destroy and del_all_vols_on_destroy."),
    ("enable_term_protect", "Set termination_protection."),
    ("ssh_user", _USERS),
    ("sh_username", _USERS),
    ("usernames", _USERS),
    ("sync_after_install",
     "Set it in the main cloud configuration file: salt-cloud reads it only there."),
    ("flush_mine_on_destroy",
     "Nothing in Salt reads it: flush the mine in a reactor on salt/cloud/NAME/destroyed."),
))  # fmt: skip
# The same inside the entries of an option.
OBSOLETE_KEYS = {
    "volumes": {"mount_point": "A state of the minion mounts the volume."},
}

REFUSED = (
    Option("service_url", "refused", ANYTHING, "Set endpoint_url."),
    Option("ec2_api_version", "refused", ANYTHING,
        "boto3 knows the version of the API: leave the option out."),
    Option("min_instance", "refused", ANYTHING, _ONE_NAME),
    Option("max_instance", "refused", ANYTHING, _ONE_NAME),
    Option("salt_interface", "refused", ANYTHING,
        "Minions reach a new master at the address of ssh_interface. Otherwise set master in the"
        " minion's own configuration."),
    Option("ssh_gateway_password", "refused", ANYTHING, _KEYS_ONLY),
    Option("sudo_password", "refused", ANYTHING, _KEYS_ONLY, main_file=True),
    Option("password", "refused", ANYTHING, _KEYS_ONLY),
    Option("deploy_command", "refused", ANYTHING, main_file=True, text=
        "The script runs in tmp_dir: set that option where /tmp is mounted noexec."),
    Option("reactor", "refused", ANYTHING,
        "React to the event salt/cloud/NAME/deploying or salt/cloud/NAME/created."),
    Option("ssm_document", "refused", ANYTHING,
        "Associate the document with the running machine: aws ssm create-association."),
    *(Option(name, "refused", ANYTHING, _NO_WINDOWS, main_file=True) for name in (
        "win_installer", "win_username", "win_password", "use_winrm", "winrm_port",
        "winrm_use_ssl", "winrm_verify_ssl", "smb_port",
    )),
)  # fmt: skip

SECTIONS: Mapping[str, tuple[Option, ...]] = {
    "Account and region": ACCOUNT,
    "Machine": MACHINE,
    "Disks": DISKS,
    "Network": NETWORK,
    "Login and deployment": DEPLOYMENT,
    "Options of salt-cloud itself": CORE,
    "Options without effect": IGNORED,
    "Options that never had an effect": OBSOLETE,
    "Refused options": REFUSED,
}
OPTIONS = tuple(option for section in SECTIONS.values() for option in section)
