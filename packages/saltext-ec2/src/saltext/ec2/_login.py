"""Logging in to a machine with OpenSSH."""

from __future__ import annotations

import os
import shlex
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltext.ec2 import host_keys
from saltext.ec2._machine import Machine
from saltext.ec2._wait import Wait
from saltext.ec2.errors import ConfigurationError, DeployError

PORT_INTERVAL = 0.3  # seconds between two attempts to connect


@dataclass(frozen=True)
class Login:
    """How to log in to a machine.

    Attributes:
        address: its address.
        port: the port of its sshd.
        users: names to log in with; several are tried in turn.
        host_key_options: OpenSSH's options that say which host key is trusted.
        private_key: the file of the key; empty: an SSH agent holds it.
        gateway: the gateway through which the machine is reached; empty: directly.
        proxy: the command that reaches the machine through the gateway.
        sudo: whether becoming root needs sudo.
    """

    address: str
    port: int
    users: Sequence[str]
    host_key_options: Mapping[str, str]
    private_key: str = ""
    gateway: str = ""
    proxy: str = ""
    sudo: bool = True

    def command(self, user: str, remote: str) -> list[str]:
        """Return the local command that runs a remote command as a user."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "ForwardAgent": "no",
            "GlobalKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "Port": str(self.port),
            "User": user,
            **self.host_key_options,
        }
        if self.private_key:
            options |= {"IdentityFile": self.private_key, "IdentitiesOnly": "yes"}
        if self.proxy:
            options["ProxyCommand"] = self.proxy
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-T", *given, "--", self.address, remote]


def prepare(machine: Machine, known_hosts: host_keys.KnownHosts, wait: Wait) -> Login:
    """Return how to log in to a machine, once its port is open and its host key is known.

    Args:
        machine: its options are those that `options.resolve` returns.
        known_hosts: the host keys that the driver has learnt.
        wait: how long to wait for both.

    Raises:
        ConfigurationError: see `private_key`.
        LaunchError: the machine is terminated meanwhile.
        ApiError: EC2 did not answer.
        DeployError: the deadline has passed.
    """
    options = machine.options
    address, port, proxy = machine.address, options["ssh_port"], proxy_command(options)
    if not proxy:
        wait_for_port(address, port, wait)
    return Login(
        address,
        port,
        options["ssh_username"],
        host_keys.ssh_options(machine, known_hosts, wait),
        private_key(options),
        options["ssh_gateway"] or "",
        proxy,
        sudo=options["sudo"] is not False,
    )


def private_key(options: Mapping[str, Any]) -> str:
    """Return the path of the private key; empty: an SSH agent holds the key.

    Raises:
        ConfigurationError: no key is configured, the file does not exist, or others may use it.
    """
    path = options.get("private_key") or options.get("key_filename") or options.get("ssh_keyfile")
    if not path:
        if options.get("ssh_agent"):
            return ""
        raise ConfigurationError(
            "private_key is not set: it names the file with the key pair's private half"
        )
    return _usable_key(str(path), "private_key")


def check_files(options: Mapping[str, Any]) -> None:
    """Check the files that a login needs beside the private key.

    Raises:
        ConfigurationError: a file does not exist, or others may use the gateway's key.
    """
    if options.get("ssh_gateway") and (key := options.get("ssh_gateway_private_key")):
        _usable_key(str(key), "ssh_gateway_private_key")
    known_hosts = options.get("known_hosts_file")
    if known_hosts and not Path(known_hosts).exists():
        raise ConfigurationError(f"known_hosts_file {known_hosts} does not exist")


def _usable_key(path: str, option: str) -> str:
    """Return the path of a private key that OpenSSH accepts."""
    if not Path(path).is_file():
        raise ConfigurationError(f"{option} {path} does not exist")
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & 0o077:
        raise ConfigurationError(
            f"{option} {path} has the mode {mode:04o}, with which OpenSSH refuses it:"
            f" chmod 0600 {path}"
        )
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"{option} {path} cannot be read by this user")
    return path


def proxy_command(options: Mapping[str, Any]) -> str:
    """Return OpenSSH's ProxyCommand for the gateway in these options; empty: there is none."""
    gateway = options.get("ssh_gateway")
    if not gateway:
        return ""
    host, _, port = gateway.partition(":")
    command = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    if key := options.get("ssh_gateway_private_key") or options.get("private_key"):
        command += ["-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes"]
    user = options["ssh_gateway_username"]
    command += ["-p", port or str(options["ssh_gateway_port"]), "-l", user]
    if remote := options.get("ssh_gateway_command"):
        return f"{shlex.join([*command, host])} {remote}"
    return shlex.join([*command, "-W", "%h:%p", host])


def wait_for_port(address: str, port: int, wait: Wait) -> None:
    """Wait until a port accepts connections.

    Raises:
        DeployError: the deadline has passed.
        LaunchError: the machine is terminated meanwhile.
    """
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError as error:
            if wait.over:
                raise DeployError(
                    f"nothing listens at {address}:{port} after ssh_connect_timeout: {error}"
                ) from error
        else:
            return
        wait.pause(PORT_INTERVAL)
