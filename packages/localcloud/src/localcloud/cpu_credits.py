"""CPU credits that are spent: the CPU that a type keeps, for machines that a client names.

EC2 keeps a balance of each burstable instance. Here a machine has its whole CPU until
`FaultClient.without_credits` takes it: what comes after the end of the credits can be seen without
half an hour of work before it. As on EC2, a T2 that is stopped and started has credits again, and
one that is rebooted has not.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-standard-mode-concepts.html
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

from localcloud.sizes import baseline

PATH = "/_localcloud/credits"
"""The admin path, like that of faults."""


def cpus_of(name: str, kind: str, cpus: int, spent: list[str]) -> float:
    """Return how many CPUs a machine has.

    Args:
        name: its Name tag.
        kind: its type, such as `t2.micro`.
        cpus: of its type.
        spent: globs for the names of machines whose credits are spent.
    """
    without = any(fnmatchcase(name, glob) for glob in spent)
    return cpus * baseline(kind) if without else float(cpus)


def parse(body: bytes) -> list[str]:
    """Return the globs in a request body of the admin path.

    Raises:
        ValueError: the body is no JSON.
        TypeError: the JSON is no list of texts.
    """
    names = json.loads(body)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("the body must be a list of globs for Name tags")
    return names
