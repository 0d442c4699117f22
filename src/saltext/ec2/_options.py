"""Every option of providers and profiles: one table that validation, defaults and docs/driver-options.md come from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import salt.config

from saltext.ec2._errors import ConfigurationError

Where = Literal["provider", "profile", "both"]
Status = Literal["same", "changed", "new", "core", "refused"]


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: as it is written in a provider, a profile or a map.
        where: where it makes sense. A profile and a map override a provider, so "both" is the rule.
        status: `same` as in the old driver, `changed` from it, `new`, read by Salt's `core`, or `refused`.
        text: what it does; for a refused one, what to use instead.
        default: what holds when it is absent; None: nothing is sent, EC2 decides.
        globally: it may also stand in the main cloud configuration file.
    """

    name: str
    where: Where
    status: Status
    text: str
    default: Any = None
    globally: bool = False


OPTIONS: tuple[Option, ...] = (
    # -- the account
    Option("driver", "provider", "core", "`ec2`."),
    Option("location", "both", "same", "The region. Without it: boto3's own default."),
    Option("region", "both", "new", "Another word for `location`."),
    Option("allowed_regions", "provider", "new", "A list: any other region is refused before a call is made."),
    Option("id", "provider", "same", "Access key. Without `id` and `key`: what boto3 finds (environment, profile, SSO, web identity, the instance's role)."),  # noqa: E501
    Option("key", "provider", "same", "Secret key, see `id`."),
    Option("token", "provider", "same", "Session token that belongs to `id` and `key`."),
    Option("role_arn", "provider", "same", "A role to assume on top of the credentials."),
    Option("profile_name", "provider", "new", "A profile of the AWS configuration files."),
    Option("endpoint_url", "provider", "new", "Another endpoint than Amazon's. Without it: what boto3 finds."),
    Option("max_attempts", "provider", "new", "How often botocore tries a call, waiting adaptively between.", 8),
    Option("api_timeout", "provider", "new", "Seconds that a call may take.", 30),
    # -- the machine
    Option("image", "both", "same", "`ami-…`; `ssm:/a/parameter`; or `{owner: …, name: pattern, architecture: …}`: the newest."),  # noqa: E501
    Option("size", "both", "same", "The instance type."),
    Option("keyname", "both", "same", "The EC2 key pair for the first login."),
    Option("iam_profile", "both", "same", "Name or ARN of an instance profile."),
    Option("tag", "both", "same", "Tags as a mapping, set at launch on the instance, its volumes and its interfaces."),
    Option("metadata_options", "both", "changed", "The instance metadata service, in EC2's words. IMDSv2 is required unless this says otherwise.", {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1}),  # noqa: E501
    Option("credit_specification", "both", "new", "`standard` or `unlimited`, of burstable types."),
    Option("userdata", "both", "same", "User data as text."),
    Option("userdata_file", "both", "same", "A file with the user data."),
    Option("userdata_template", "both", "same", "Render the user data: `jinja`, `mako` …; false: as it is.", None, globally=True),  # noqa: E501
    Option("termination_protection", "both", "same", "EC2 refuses to terminate the machine.", False),
    Option("ebs_optimized", "both", "same", "Dedicated bandwidth to volumes."),
    # -- disks
    Option("block_device_mappings", "both", "changed", "EC2's list, nested or with `Ebs.` keys. Volumes are gp3 and encrypted unless it says otherwise; the root volume too."),  # noqa: E501
    Option("del_root_vol_on_destroy", "both", "same", "Whether the root volume goes with the machine.", True),
    Option("del_all_vols_on_destroy", "both", "same", "Whether every volume goes with the machine."),
    # -- the network
    Option("subnetname", "both", "same", "The subnet, by its Name tag."),
    Option("subnetid", "both", "same", "The subnet, by id."),
    Option("securitygroup", "both", "same", "Security groups, by name or id: one or a list."),
    Option("securitygroupname", "both", "same", "The same as `securitygroup`."),
    Option("securitygroupid", "both", "same", "The same as `securitygroup`."),
    Option("associate_public_ip", "both", "new", "Whether the machine gets a public address. Without it: the subnet decides."),  # noqa: E501
    Option("private_ip", "both", "new", "The machine's private address."),
    Option("availability_zone", "both", "same", "The zone, when no subnet decides it."),
    # -- the deployment
    Option("ssh_interface", "both", "same", "`public_ips` or `private_ips`: where salt-cloud reaches the machine.", "public_ips", globally=True),  # noqa: E501
    Option("private_key", "both", "same", "The file with the key pair's private half.", None, globally=True),
    Option("wait_for_ip_timeout", "both", "same", "Seconds for the machine to run and have its address.", 600, globally=True),  # noqa: E501
    Option("wait_for_ip_interval", "both", "changed", "Seconds between two looks at it.", 2, globally=True),
    Option("on_failure", "both", "new", "What happens to a machine whose deployment failed: `keep` (the next run repairs it) or `destroy`.", "keep", globally=True),  # noqa: E501
)  # fmt: skip

# Read by Salt's own code, from salt.cloud and salt.utils.cloud: they work as Salt documents them.
CORE = frozenset(
    """
    deploy deploy_command display_ssh_output domain file_map file_transport force_minion_config grains hard_timeout
    inline_script keep_tmp key_filename keysize level make_master make_minion make_syndic master master_finger
    master_pem master_pub master_sign_pub_file minion name os password ping_on_startup preflight_cmds
    preseed_minion_keys priv_key profile profiles provider pub_key requires salt_host script script_args script_env
    smb_port ssh_agent ssh_gateway ssh_gateway_command ssh_gateway_key ssh_gateway_password ssh_gateway_port
    ssh_gateway_user ssh_host ssh_keyfile ssh_port ssh_username start_action sudo sudo_password sync_after_install
    tmp_dir tty use_fqdn wait_for_passwd_maxtries
    """.split()  # noqa: SIM905
)

TABLE: Mapping[str, Option] = {option.name: option for option in OPTIONS}


def check(names: Iterable[str], source: str) -> None:
    """Stop at options that nothing reads.

    Args:
        names: the options that were given.
        source: where they stand, for the message: "profile web".

    Raises:
        ConfigurationError: one is unknown or refused; the message names it and what to use.
    """
    for name in sorted(names):
        option = TABLE.get(name)
        if option is not None and option.status == "refused":
            raise ConfigurationError(f"{source}: {name} is not supported. {option.text}")
        if option is None and name not in CORE:
            near = difflib.get_close_matches(name, [*TABLE, *CORE], n=1)
            hint = f"; did you mean {near[0]}?" if near else "; docs/driver-options.md lists what there is"
            raise ConfigurationError(f"{source}: unknown option {name}{hint}")


def resolve(machine: Mapping[str, Any], opts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each option of the table is for one machine.

    Args:
        machine: what salt-cloud's core merged from provider, profile and map.
        opts: Salt's configuration; the options that may stand there are looked for there too.
    """
    return {
        option.name: salt.config.get_cloud_config_value(
            option.name, machine, opts, default=option.default, search_global=option.globally
        )
        for option in OPTIONS
        if option.status not in ("core", "refused")
    }
