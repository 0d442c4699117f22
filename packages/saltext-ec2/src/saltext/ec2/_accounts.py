"""Providers that share an account and region: their machines are asked for once, before a fork.

salt-cloud queries each provider in a worker process, and a failure there may leave it waiting for
ever. It calls `optimize` in the main process, right before it makes the workers: they inherit the
machines, and a failure is an ordinary error.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from saltext.ec2 import _lookup, _lost, _maps, _tags
from saltext.ec2._client import Connection
from saltext.ec2._context import DRIVER, Context
from saltext.ec2.errors import Ec2Error, QueryFailed, describe

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeDef

Instances = list["InstanceTypeDef"]

SECONDS = 30  # for which a worker uses the machines that it inherits
THREADS = 10  # accounts and regions that are asked at the same time


@dataclass
class _Inherited:
    """The machines by provider that the workers of a process inherit from it.

    Attributes:
        pid: the process that has listed them, which asks again itself.
        listed: when it has.
        machines: the instances by the alias of the provider.
    """

    pid: int = 0
    listed: float = 0
    machines: dict[str, Instances] = field(default_factory=dict)


_inherited = _Inherited()


def instances(context: Context, connection: Connection) -> Instances:
    """Return the instances that the active provider lists, in every state.

    Raises:
        ApiError: EC2 did not answer.
    """
    recent = time.monotonic() - _inherited.listed < SECONDS
    if os.getpid() != _inherited.pid and recent:
        inherited = _inherited.machines.get(context.provider_alias)
        if inherited is not None:
            return inherited
    return _ask(connection)


def _ask(connection: Connection) -> Instances:
    found = _lookup.instances(connection)
    _lookup.remember_names(connection, found)
    return found


def optimize(
    context: Context, providers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Return the providers to query, so that each machine is listed once, and list the machines.

    Of the providers of one account and region, the first is kept. A map that is applied keeps all
    that it names: each lists its machines of the map, and the first of them also the others.
    Otherwise `--hard` would destroy a machine as not in the map, because another provider lists it.

    Raises:
        ConfigurationError: a provider cannot be used, or the map names an unknown provider.
        ApiError: EC2 did not answer.
        QueryFailed: the same, while machines are destroyed on the command line, where Salt's core
            handles no other error.
    """
    try:
        return _optimize(context, providers)
    except Ec2Error as error:
        if context.opts.get("destroy") and (context.opts.get("names") or context.opts.get("map")):
            raise QueryFailed(str(error)) from None
        raise


def _optimize(
    context: Context, providers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    provider_of: dict[str, str] = {}
    if context.applying:
        provider_of = _maps.providers(context.opts)
    named = {*provider_of.values(), _maps.provider_of_profile(context.opts)}
    connections: dict[str, Connection] = {}
    aliases: dict[str, list[str]] = {}
    for alias, provider in providers.items():
        connection = _connect(context, alias, provider)
        connections.setdefault(connection.account, connection)
        aliases.setdefault(connection.account, []).append(alias)
    with ThreadPoolExecutor(THREADS) as threads:
        answers = [
            (
                [alias for alias in aliases[account] if alias in named] or aliases[account][:1],
                threads.submit(_ask, connection),
            )
            for account, connection in connections.items()
        ]
    machines: dict[str, Instances] = {}
    for kept, answer in answers:
        try:
            found = answer.result()
        except Ec2Error as error:
            raise _failure(kept[0], error) from error
        machines |= _divide(found, kept, provider_of)
    _lost.check(context.opts, itertools.chain.from_iterable(machines.values()))
    _inherited.pid, _inherited.listed = os.getpid(), time.monotonic()
    _inherited.machines = machines
    return {alias: providers[alias] for alias in machines}


def _connect(context: Context, alias: str, provider: Mapping[str, Any]) -> Connection:
    try:
        return context.connect(provider)
    except Ec2Error as error:
        raise _failure(alias, error) from error


def _failure(alias: str, error: Ec2Error) -> Ec2Error:
    return Ec2Error(f"the machines of {alias}:{DRIVER} cannot be listed: {describe(error)}")


def _divide(
    found: Instances, aliases: Sequence[str], provider_of: Mapping[str, str]
) -> dict[str, Instances]:
    """Return by provider the machines that it lists."""
    machines: dict[str, Instances] = {alias: [] for alias in aliases}
    for instance in found:
        alias = provider_of.get(_name(instance), "")
        machines[alias if alias in machines else aliases[0]].append(instance)
    return machines


def _name(instance: InstanceTypeDef) -> str:
    return _tags.as_dict(instance).get("Name", "")
