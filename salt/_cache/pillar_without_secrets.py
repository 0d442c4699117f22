"""What the Salt master keeps of the minions' pillar on its disk: all but the secrets.

The master writes each pillar that it has compiled into its cache, to know which minions a target by
pillar means (`salt -I`). Secrets are there in plaintext, for everybody who reads the disk or a
snapshot of its volume. `pillar.cache_driver` of the master names this module. The files are those
of Salt's own driver, which reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from salt.cache import localfs


def init_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what Salt hands to every other function here: the folder of the cache."""
    return {"cachedir": kwargs["cachedir"]}


def store(bank: str, key: str, data: dict[str, Any], cachedir: str) -> None:
    """Store a pillar without its secrets.

    Args:
        bank: the folder below the cache's.
        key: the minion id.
        data: the pillar.
        cachedir: the folder of the cache.

    Raises:
        SaltCacheError: the file cannot be written.
    """
    kept = {name: value for name, value in data.items() if name != "secrets"}
    localfs.store(bank, key, kept, cachedir)


def fetch(bank: str, key: str, cachedir: str) -> Any:
    """Return what is stored of a pillar; nothing when there is none."""
    return localfs.fetch(bank, key, cachedir)


def updated(bank: str, key: str, cachedir: str) -> int | None:
    """Return when a pillar was stored, in seconds of the epoch."""
    seconds: int | None = localfs.updated(bank, key, cachedir)
    return seconds


def flush(bank: str, key: str | None = None, *, cachedir: str) -> bool:
    """Remove a pillar, or all; return whether there was one."""
    return bool(localfs.flush(bank, key, cachedir))


def list(bank: str, cachedir: str) -> Iterable[str]:
    """Return the ids of the minions whose pillar is stored."""
    found: Iterable[str] = localfs.list_(bank, cachedir)
    return found


def contains(bank: str, key: str | None, cachedir: str) -> bool:
    """Return whether a minion's pillar is stored."""
    return bool(localfs.contains(bank, key, cachedir))
