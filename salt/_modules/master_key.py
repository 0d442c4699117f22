"""The fingerprint by which minions recognise their master."""

from __future__ import annotations

from salt.exceptions import CommandExecutionError
from salt.utils.crypt import pem_finger


def finger(path: str = "/etc/salt/pki/master/master.pub") -> str:
    """Return the SHA-256 fingerprint of a master's public key, as ``master_finger`` wants it.

    Raises CommandExecutionError without a key: the master makes it at its first start.
    """
    fingerprint = pem_finger(path, sum_type="sha256")
    if not fingerprint:
        raise CommandExecutionError(f"no master key at {path}: has salt-master started?")
    return str(fingerprint)
