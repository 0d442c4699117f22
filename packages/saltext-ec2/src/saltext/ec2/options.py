"""Every option of providers and profiles: one table that validation, defaults and options.md come from."""

from __future__ import annotations

import copy
import difflib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import salt.config

from saltext.ec2._errors import ConfigurationError

log = logging.getLogger(__name__)

DOCUMENT = Path(__file__).parent / "docs" / "options.md"

Status = Literal["same", "changed", "new", "core", "needless", "refused"]


@dataclass(frozen=True)
class Option:
    """One option of a provider, a profile or a map; each overrides the one before.

    Attributes:
        name: as it is written.
        status: `same` as in the old driver; `changed` from it; `new`; read by Salt's `core`, unchanged; `needless`:
            accepted with a warning, for what it did has no meaning any more; or `refused`.
        text: what it does; for a refused one, what to use instead.
        default: what holds when it is absent; None: nothing is sent, EC2 decides.
        globally: it may also stand in the main cloud configuration file.
        key: what the driver's own code calls it; empty: the same.
        takes: what its value must be: one of `NUMBERS`, or words joined by `or`; empty: see `text`.
        provider: it may not stand in a profile or a map.
    """

    name: str
    status: Status
    text: str
    default: Any = None
    globally: bool = False
    key: str = ""
    takes: str = ""
    provider: bool = False


SECONDS, WHOLE = "a number of seconds", "a whole number from 1"
NUMBERS = {SECONDS: r"\d+(\.\d+)?", WHOLE: r"[1-9]\d*"}
_NO_PASSWORDS = "Machines on EC2 are entered with a key: private_key, or ssh_agent."
_NO_WINDOWS = (
    "Windows machines are not supported: install the minion by userdata, with deploy: False."
)
_AT_ONCE = "RunInstances says at once whether there is a spot instance."
_ONE_SESSION = "The deployment is one SSH session, see deploy_timeout and ssh_connect_timeout."

OPTIONS: tuple[Option, ...] = (
    # -- the account
    Option("location", "changed", "The region. Without it: boto3's own default, where the old driver had one of its own.", provider=True),
    Option("region", "new", "Another word for `location`.", provider=True),
    Option("allowed_regions", "new", "A list: any other region is refused before a call is made.", provider=True),
    Option("id", "same", "Access key. Without `id` and `key`: what boto3 finds (environment, profile, SSO, web identity, the role of the instance); `use-instance-role-credentials` says the same.", provider=True),
    Option("key", "same", "Secret key, see `id`.", provider=True),
    Option("token", "same", "Session token that belongs to `id` and `key`.", provider=True),
    Option("role_arn", "same", "A role to assume on top of the credentials.", provider=True),
    Option("profile_name", "new", "A profile of the AWS configuration files.", provider=True),
    Option("endpoint_url", "new", "Another endpoint of EC2 than Amazon's, with its scheme. Without it, and for SSM and STS: what boto3 finds (`AWS_ENDPOINT_URL`).", provider=True),
    Option("endpoint", "same", "The same without a scheme; https is meant.", provider=True),
    Option("service_url", "refused", "Set endpoint_url."),
    Option("ec2_api_version", "refused", "boto3 knows the API's version: leave it out."),
    Option("max_attempts", "new", "How often a call is tried; botocore's adaptive mode waits between. Each retry is logged.", 8, takes=WHOLE),
    Option("api_timeout", "new", "Seconds that one try of a call may take.", 30, takes=WHOLE),
    Option("owner", "changed", "Whose images `--list-images` shows; the old default was `amazon`, which is endless.", "self", provider=True),
    # -- the machine
    Option("image", "changed", "`ami-…` as before; or `ssm:/a/parameter`; or `{owner: …, name: pattern, architecture: …}`: the newest. A name without an owner is refused, as anybody can take it."),
    Option("size", "same", "The instance type."),
    Option("min_instance", "refused", "A name is one machine: list the names in a map."),
    Option("max_instance", "refused", "A name is one machine: list the names in a map."),
    Option("launch_template", "new", "`{id: …}` or `{name: …}`, and perhaps `version`. Then `image` and `size` may be absent. Without `image`, the root volume is as the template or its image says, whether gp3, encrypted, and gone with the machine or not."),
    Option("keyname", "same", "The EC2 key pair for the first login."),
    Option("iam_profile", "same", "Name or ARN of an instance profile."),
    Option("tag", "changed", "Tags as a mapping; set at launch, on the instance, its volumes and its interfaces."),
    Option("metadata_options", "new", "The instance metadata service, in EC2's words (`HttpTokens`, or `http_tokens`). IMDSv2 is required unless this says otherwise.", {}),
    Option("credit_specification", "new", "`standard` or `unlimited`, of burstable types."),
    Option("cpu_options", "new", "`{CoreCount: …, ThreadsPerCore: …}`."),
    Option("userdata", "same", "User data as text."),
    Option("userdata_file", "same", "A file with the user data."),
    Option("userdata_template", "same", "What renders the user data: `jinja`, `mako` …, which see the machine as `opts`; false: nothing.", None, globally=True),
    Option("termination_protection", "same", "EC2 refuses to terminate the machine."),
    Option("shutdown_behavior", "new", "`stop` or `terminate`: what a shutdown from inside does."),
    Option("monitoring", "new", "Detailed monitoring."),
    Option("hibernation", "new", "The machine can hibernate; its root volume is encrypted, as that needs."),
    Option("ebs_optimized", "same", "Dedicated bandwidth to volumes."),
    Option("placementgroup", "same", "The placement group, by name."),
    Option("tenancy", "same", "`default`, `dedicated` or `host`."),
    Option("spot_config", "changed", "Launch a spot instance: `spot_price` (absent: at most the on-demand price), `type` (`one-time`, `persistent`), `interruption` (`terminate`, `stop`, `hibernate`), `tag` (further tags of the spot request, which has the machine's)."),
    Option("wait_for_spot_timeout", "needless", _AT_ONCE, globally=True),
    Option("wait_for_spot_interval", "needless", _AT_ONCE, globally=True),
    Option("wait_for_spot_interval_multiplier", "needless", _AT_ONCE, globally=True),
    Option("wait_for_spot_max_failures", "needless", _AT_ONCE, globally=True),
    # -- disks
    Option("block_device_mappings", "changed", "EC2's list, nested or with `Ebs.` keys. Every volume, the root volume too, is gp3 and encrypted unless this says otherwise; all have the tags of `tag`, and a `tag` of their own is refused.", globally=True),
    Option("volumes", "changed", "Further volumes: `device` with `size`, or `snapshot`, or `volume_id` (an existing one); `type`, `iops`, `throughput`, `encrypted`, `kmskeyid`, `tags`. New ones are part of the launch, gp3 and encrypted unless this says otherwise.", globally=True),
    Option("del_root_vol_on_destroy", "changed", "Whether the root volume goes with the machine; the old default was the image's.", True),
    Option("del_all_vols_on_destroy", "changed", "The same of all other volumes that are made at launch; the old default left them behind.", True),
    Option("rename_on_destroy", "changed", "Give a terminated machine another Name; the old driver did so unless told not to. Not needed: terminated ones are never mistaken for living ones.", False, globally=True, provider=True),
    # -- the network
    Option("subnetname", "changed", "The subnet, by its Name tag; of a list, the first with room. Along with `subnetid`, which used to outrank it, it is an error."),
    Option("subnetid", "changed", "The subnet, by id; of a list, the first with room."),
    Option("availability_zone", "changed", "The zone, when no subnet decides it; of a list, the first with room."),
    Option("securitygroup", "same", "Security groups, by name or id: one or a list."),
    Option("securitygroupname", "same", "The same as `securitygroup`."),
    Option("securitygroupid", "same", "The same as `securitygroup`."),
    Option("associate_public_ip", "new", "Whether the machine gets a public address. Without it: the subnet decides."),
    Option("private_ip", "new", "The machine's private address."),
    Option("network_interfaces", "same", "EC2's list of interfaces, with `SubnetId` or `subnetname`, `SecurityGroupId` or `securitygroupname`, `PrivateIpAddress`, `PrivateIpAddresses`, `SecondaryPrivateIpAddressCount`, `AssociatePublicIpAddress`, `SourceDestCheck`, `DeleteOnTermination`; `associate_eip` (an allocation id), `allocate_new_eip`, `allocate_new_eips` (one for each private address). Allocated addresses are released when the machine is destroyed."),
    # -- the deployment
    Option("ssh_interface", "same", "`public_ips` or `private_ips`: where salt-cloud reaches the machine.", "public_ips", globally=True, takes="public_ips or private_ips"),
    Option("salt_interface", "refused", "Minions reach a new master where ssh_interface says; otherwise set master in their own minion configuration."),
    Option("ssh_username", "changed", "Who logs in; a list: each is tried in turn. The old driver went on to the users of the default after those that it was given.", ["ec2-user", "ubuntu", "admin", "bitnami", "root"], globally=True),
    Option("ssh_port", "same", "Where sshd listens.", 22, globally=True, takes=WHOLE),
    Option("private_key", "same", "The file with the key pair's private half.", None, globally=True),
    Option("key_filename", "same", "The same as `private_key`."),
    Option("ssh_keyfile", "same", "The same as `private_key`."),
    Option("ssh_agent", "same", "An SSH agent holds the key.", False, globally=True),
    Option("host_keys", "new", "`console`: trust the SSH host keys that the machine's console printed; `none`: trust any, which the old driver always did.", "console", globally=True, takes="console or none"),
    Option("known_hosts_file", "same", "Trust the host keys of this file instead of the console's.", None, globally=True),
    Option("ssh_gateway", "same", "A host, or host:port, through which the machine is reached; its own host key must be in the operator's known_hosts.", None, globally=True),
    Option("ssh_gateway_port", "same", "The gateway's port.", 22, globally=True, takes=WHOLE),
    Option("ssh_gateway_username", "same", "Who logs in to the gateway.", "root", globally=True, key="ssh_gateway_user"),
    Option("ssh_gateway_private_key", "same", "The key for the gateway; absent: `private_key`.", None, globally=True, key="ssh_gateway_key"),
    Option("ssh_gateway_command", "changed", "What the gateway runs to reach the machine (`nc %h %p`); absent: its sshd forwards.", None, globally=True),
    Option("ssh_gateway_password", "refused", _NO_PASSWORDS),
    Option("ssh_connect_timeout", "same", "Seconds until a login must have worked.", 900, globally=True, takes=SECONDS),
    Option("deploy_timeout", "new", "Seconds that the deploy script may take.", 1800, globally=True, takes=SECONDS),
    Option("wait_for_ip_timeout", "same", "Seconds for the machine to run and have its address. Where the address is known from the launch (`private_ips`) and nothing is attached after it, `ssh_connect_timeout` bounds this wait, too.", 600, globally=True, takes=SECONDS),
    Option("wait_for_ip_interval", "changed", "Seconds from one question to the next whether machines run; one question is about all that are awaited. The old default was 10, for each machine.", 1, globally=True, takes=SECONDS),
    Option("wait_for_ip_interval_multiplier", "needless", "Throttled calls are spaced out by botocore.", globally=True),
    Option("on_failure", "new", "What becomes of a machine whose deployment failed: `keep` (the next run repairs it) or `destroy` (with its key).", "keep", globally=True, takes="keep or destroy"),
    Option("tmp_dir", "same", "The beginning of the remote folder's name.", "/tmp/.saltcloud", globally=True),
    Option("keep_tmp", "same", "Leave that folder on the machine.", False, globally=True),
    Option("sudo", "same", "Whether root's rights need sudo; absent: unless `ssh_username` is root.", None, globally=True),
    Option("display_ssh_output", "same", "Show what the deploy script prints.", True, globally=True),
    Option("sudo_password", "refused", _NO_PASSWORDS, globally=True),
    Option("password", "refused", _NO_PASSWORDS),
    Option("deploy_command", "refused", "The script runs in tmp_dir: set that where /tmp is mounted noexec.", globally=True),
    Option("seed", "refused", "It never did anything; deploy: False is meant."),
    Option("reactor", "refused", "React to the event salt/cloud/NAME/deploying or salt/cloud/NAME/created."),
    Option("ssm_document", "refused", "Associate it when the machine is there: aws ssm create-association."),
    Option("tty", "needless", _ONE_SESSION, globally=True),
    Option("file_transport", "needless", _ONE_SESSION, globally=True),
    Option("hard_timeout", "needless", _ONE_SESSION, globally=True),
    Option("wait_for_passwd_maxtries", "needless", _ONE_SESSION, globally=True),
    Option("wait_for_passwd_timeout", "needless", _ONE_SESSION, globally=True),
    *(Option(name, "refused", _NO_WINDOWS, globally=True) for name in (
        "win_installer", "win_username", "win_password", "win_deploy_auth_retries", "win_deploy_auth_retry_delay",
        "use_winrm", "winrm_port", "winrm_use_ssl", "winrm_verify_ssl", "smb_port",
    )),
    Option("make_syndic", "new", "Install a syndic, too; `syndic_master` in `master` used to imply it.", globally=True),
    # -- Salt's own
    *(Option(name, "core", text) for name, text in {
        "driver": "`ec2`.",
        "provider": "The provider of a profile.",
        "extends": "The profile that this one extends.",
        "deploy": "Whether a minion is installed.",
        "script": "The deploy script.",
        "script_args": "Its arguments.",
        "script_env": "Its environment.",
        "inline_script": "Commands to run after it.",
        "preflight_cmds": "Commands to run before it.",
        "file_map": "Files to copy to the machine first. One that is absent stops the run.",
        "minion": "The minion's configuration.",
        "grains": "The minion's grains.",
        "keysize": "Bits of the minion's key.",
        "force_minion_config": "Replace the configuration that the machine has already.",
        "make_master": "Install a master, too.",
        "make_minion": "Install a minion, too.",
        "master": "The master's configuration.",
        "master_sign_pub_file": "The master's public signing key.",
        "master_finger": "The fingerprint of the master's key.",
        "requires": "Machines of the map to be made before this one.",
        "start_action": "What the minion runs first.",
        "sync_after_install": "What the minion syncs first.",
        "domain": "The domain of the minion's id, with `use_fqdn`.",
        "use_fqdn": "See `domain`.",
    }.items()),
)  # fmt: skip

# What the core adds on its own to what it hands to `create`.
INTERNAL = frozenset(
    ("inline_script", "level", "master_pem", "master_pub", "name", "os", "preseed_minion_keys", "priv_key", "profile",
     "profiles", "pub_key", "salt_host", "ssh_host")
)  # fmt: skip

TABLE: Mapping[str, Option] = {option.name: option for option in OPTIONS}


def check(given: Mapping[str, Any], source: str, opts: Mapping[str, Any] | None = None) -> None:
    """Stop at options that nothing reads, and warn of those that have lost their meaning.

    Args:
        given: the options of a provider, or of a machine as the core merged it.
        source: where they stand, for the message: "profile web".
        opts: Salt's configuration. A machine has what the main cloud configuration file says of Salt itself, too.

    Raises:
        ConfigurationError: one is unknown or refused; the message names it and what to use.
    """
    opts = opts or {}
    profile = opts.get("profiles", {}).get(given.get("profile"), {})
    merged = set(opts) - set(profile) if "profile" in given else set()
    for name in sorted(set(given) - INTERNAL):
        option = TABLE.get(name)
        if option is not None:
            _judge(option, source)
        elif name not in merged:
            near = difflib.get_close_matches(name, TABLE, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; {DOCUMENT} lists all options"
            raise ConfigurationError(f"{source}: unknown option {name}{hint}")
    for option in OPTIONS:
        if option.globally and option.name in opts:
            _judge(option, "the main cloud configuration")


def check_provider(
    machine: Mapping[str, Any], provider: Mapping[str, Any], source: str, opts: Mapping[str, Any]
) -> None:
    """Stop at a machine that would be made where nothing finds it: all but `create` knows the provider's options only.

    Args:
        machine: what salt-cloud's core merged from provider, profile and map.
        provider: its provider's options.
        source: where the machine's stand, for the message.
        opts: Salt's configuration.

    Raises:
        ConfigurationError: an option that is the provider's is another one for the machine.
    """
    for option in OPTIONS:
        own = provider.get(option.name, opts.get(option.name) if option.globally else None)
        if (
            option.provider and machine.get(option.name, own) != own
        ):  # which is not shown: it may be a secret
            raise ConfigurationError(
                f"{source}: {option.name} is not its provider's, whose options alone queries, actions and --destroy"
                f" know: make a provider with this {option.name}, and name it in the profile"
            )


def _judge(option: Option, source: str) -> None:
    if option.status == "refused":
        raise ConfigurationError(f"{source}: {option.name} is not supported. {option.text}")
    if option.status == "needless":
        log.warning("%s: %s has no effect. %s", source, option.name, option.text)


def resolve(machine: Mapping[str, Any], opts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each option of the driver's own is for one machine.

    Args:
        machine: what salt-cloud's core merged from provider, profile and map.
        opts: Salt's configuration; the options that may stand there are looked for there too.

    Raises:
        ConfigurationError: a value is not what its option takes.
    """
    source = str(machine.get("name"))
    return {
        option.key or option.name: value(
            option.name,
            salt.config.get_cloud_config_value(
                option.name,
                machine,
                opts,
                default=copy.deepcopy(option.default),
                search_global=option.globally,
            ),
            source,
        )
        for option in OPTIONS
        if option.status in ("same", "changed", "new")
    }


def value(name: str, given: Any, source: str) -> Any:
    """Return what an option is set to; for None, when it takes numbers or certain words alone, its default.

    Args:
        name: the option.
        given: what it is set to.
        source: where, for the message: "web-1".

    Raises:
        ConfigurationError: it takes something else.
    """
    option = TABLE[name]
    if not option.takes:
        return given
    if given is None:
        return option.default
    number = NUMBERS.get(option.takes)
    if not (re.fullmatch(number, str(given)) if number else given in option.takes.split(" or ")):
        raise ConfigurationError(f"{source}: {name} is {option.takes}, not {given!r}")
    return given
