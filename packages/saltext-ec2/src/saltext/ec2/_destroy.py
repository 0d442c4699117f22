"""Destroying a machine, with Salt's events and caches."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from saltext.ec2 import _cachedir, _instance, _tags
from saltext.ec2._context import Context
from saltext.ec2._machine import Machine
from saltext.ec2.errors import ApiError

log = logging.getLogger(__name__)


def destroy(context: Context, machine: Machine) -> dict[str, Any]:
    """Terminate a machine, and rename it if `rename_on_destroy` is set.

    Returns:
        Its states, see `_instance.terminate`; under `newname` its new name, if it has one.

    Raises:
        ApiError: EC2 refuses to terminate it.
    """
    name, opts = machine.name, context.opts
    data = {"instance_id": machine.id}
    context.event(name, "destroying", "destroying instance", data)
    rename = context.provider().get("rename_on_destroy", opts.get("rename_on_destroy"))
    change = _instance.terminate(machine)
    if rename:
        newname = f"{name}-DEL{uuid.uuid4().hex}"
        try:
            _tags.write(machine.connection, [machine.id], {"Name": newname})
            change["newname"] = newname
        except ApiError as error:
            log.error("%s is destroyed, but keeps its name: %s", name, error)
    context.event(name, "destroyed", "destroyed instance", data)
    _cachedir.remove(context, name)
    return change
