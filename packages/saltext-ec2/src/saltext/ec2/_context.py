"""What Salt's loader hands to the driver, for modules that the loader does not know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import salt.config

from saltext.ec2 import _client, options
from saltext.ec2._client import Connection
from saltext.ec2.errors import ConfigurationError, Ec2Error
from saltext.ec2.options import Fault

log = logging.getLogger(__name__)

DRIVER = "ec2"

# The providers whose faults this process and its parents have logged.
_WARNED: set[str] = set()


def _is_of_provider(name: str) -> bool:
    option = options.TABLE.get(name)
    return bool(option and (option.provider_only or name in ("max_attempts", "api_timeout")))


@dataclass(frozen=True)
class Context:
    """Salt's configuration and utilities during one call of the driver.

    Attributes:
        opts: Salt's configuration.
        utils: Salt's utility functions by name, such as `cloud.fire_event`.
        provider_name: the active provider, such as `eu-west-1:ec2`.
    """

    opts: Mapping[str, Any]
    utils: Mapping[str, Callable[..., Any]]
    provider_name: str

    @property
    def provider_alias(self) -> str:
        """The provider's name without the driver, such as `eu-west-1`."""
        return self.provider_name.split(":")[0]

    @property
    def applying(self) -> bool:
        """Whether salt-cloud is about to apply a map or a profile."""
        given = ("map", "map_data", "map_pillar", "profile")
        other = ("destroy", "action", "selected_query_option")
        applies = any(self.opts.get(name) for name in given)
        return applies and not any(self.opts.get(name) for name in other)

    def configured_provider(self) -> dict[str, Any] | None:
        """Return the options of the active provider, unchecked, or None when there is none."""
        provider = salt.config.is_provider_configured(
            self.opts, self.provider_name, ("driver",), log_message=False
        )
        return dict(provider) if provider else None

    def provider_faults(self) -> list[Fault]:
        """Return what is wrong with the active provider."""
        provider, source = self.configured_provider(), f"provider {self.provider_name}"
        if provider is None:
            return [Fault(source, "driver", f"there is no such provider with driver: {DRIVER}")]
        found = options.faults(provider, source)
        if not {fault.option for fault in found} & set(_client.REGION_OPTIONS):
            try:
                _client.region_of(provider)
            except Ec2Error as error:
                found.append(Fault(source, "location", str(error)))
        return found

    def query_faults(self) -> list[Fault]:
        """Return what keeps EC2 from being asked for the machines of the active provider."""
        return [
            fault
            for fault in self.provider_faults()
            if fault.option != "rename_on_destroy" and _is_of_provider(fault.option)
        ]

    def warn_of_faults(self) -> None:
        """Log what is wrong with the active provider, once in a run."""
        if self.provider_name not in _WARNED and (found := self.provider_faults()):
            _WARNED.add(self.provider_name)
            log.warning("%s", "; ".join(map(str, found)))

    def provider(self) -> dict[str, Any]:
        """Return the options of the active provider.

        Raises:
            ConfigurationError: there is no such provider, or something is wrong with it.
        """
        found = self.provider_faults()
        if [fault.option for fault in found] == ["location"]:
            try:
                _client.region_of(self.configured_provider() or {})
            except Ec2Error as error:
                raise type(error)(str(found[0])) from error
        options.refuse(found)
        return self.configured_provider() or {}

    def provider_of_machine(self) -> dict[str, Any]:
        """Return the options of the active provider for an action on a machine that exists.

        Options that only a launch reads are no reason to leave the machine alone.

        Raises:
            ConfigurationError: there is no such provider, or EC2 cannot be asked with its options.
        """
        options.refuse(
            fault
            for fault in self.provider_faults()
            if fault.option == "driver" or _is_of_provider(fault.option)
        )
        return self.configured_provider() or {}

    def connect(self, given: Mapping[str, Any] | None = None) -> Connection:
        """Return the connection for some options; without them, for the active provider's.

        Raises:
            ConfigurationError: see `provider`.
            ApiError: AWS refuses the credentials.
        """
        return self._connect(given if given is not None else self.provider())

    def _connect(self, given: Mapping[str, Any]) -> Connection:
        """Return the connection for some options; the main file has `owned_by` for all of them."""
        main = {"owned_by": self.opts.get("owned_by")}
        return _client.connect({**main, **given}, self.opts["cachedir"])

    def filtered(self, tag: str, data: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
        """Return the data of an event that `filter_events` of the main configuration leaves.

        Args:
            tag: the last part of the event's tag: `created`.
            data: everything that the event can have.
            keys: what it has unless `filter_events` says otherwise.
        """
        rules = (self.opts.get("filter_events") or {}).get(tag) or {}
        wanted = [*(keys if rules.get("use_defaults", True) else ()), *(rules.get("keys") or ())]
        return {key: data[key] for key in wanted if key in data}

    def connect_to_query(self) -> Connection:
        """Return the connection of the active provider for a query of its machines.

        What is wrong with a provider beside its region and credentials is no reason to hide its
        machines.

        Raises:
            ConfigurationError: EC2 cannot be asked with the provider's options.
            ApiError: AWS refuses the credentials.
        """
        provider = self.configured_provider()
        if provider is None:
            return self.connect()
        try:
            return self._connect(provider)
        except ConfigurationError as error:
            raise ConfigurationError(f"provider {self.provider_name}: {error}") from error

    def event(self, name: str, tag: str, message: str, data: Mapping[str, Any]) -> None:
        """Send an event about a machine, with its name; see `send`."""
        self.send(name, tag, message, {"name": name, **data})

    def send(self, name: str, tag: str, message: str, data: Mapping[str, Any]) -> None:
        """Send an event about a machine to the master's event bus, if a master runs here.

        Without a master, Salt would wait one second for it at each event.

        Args:
            name: the machine's name.
            tag: the last part of the event's tag: `created`.
            message: what happens, in words.
            data: the fields of the event.
        """
        socket = Path(self.opts["sock_dir"], "master_event_pull.ipc")
        if self.opts.get("ipc_mode") != "tcp" and not socket.exists():
            log.debug("no master runs here: event %s of %s is not sent", tag, name)
            return
        self.utils["cloud.fire_event"](
            "event",
            message,
            f"salt/cloud/{name}/{tag}",
            args=dict(data),
            sock_dir=self.opts["sock_dir"],
            transport=self.opts["transport"],
        )
