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
from saltext.ec2.errors import ConfigurationError

log = logging.getLogger(__name__)

DRIVER = "ec2"


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
        """Return the options of the active provider, or None when there is none.

        Raises:
            ConfigurationError: an option is unknown, or the region is refused.
        """
        provider = salt.config.is_provider_configured(
            self.opts, self.provider_name, ("driver",), log_message=False
        )
        if not provider:
            return None
        options.check(provider, f"provider {self.provider_name}", self.opts)
        _client.region_of(provider)
        return dict(provider)

    def provider(self) -> dict[str, Any]:
        """Return the options of the active provider.

        Raises:
            ConfigurationError: there is no such provider, or see `configured_provider`.
        """
        provider = self.configured_provider()
        if provider is None:
            raise ConfigurationError(
                f"there is no provider {self.provider_name} with driver: {DRIVER}"
            )
        return provider

    def connect(self, given: Mapping[str, Any] | None = None) -> Connection:
        """Return the connection for some options; without them, for the active provider's.

        Raises:
            ConfigurationError: see `provider`.
            ApiError: AWS refuses the credentials.
        """
        chosen = given if given is not None else self.provider()
        return _client.connect(chosen, self.opts["cachedir"])

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
