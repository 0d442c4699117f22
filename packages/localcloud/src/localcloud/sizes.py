"""What an instance of a type leaves to its programs: the one table of sizes beside EC2's own.

EC2's sizes say what a type has; the kernel takes a part of the memory before the first program
runs, and a type whose CPU credits are gone has a part of its CPU.
"""

from __future__ import annotations

LEFT_MEBIBYTES = {"t2.micro": 950, "t3.micro": 939}
"""MemTotal of /proc/meminfo, without swap, as machines on EC2 show it.

A t2.micro: 966.2 with Ubuntu 20.04 (Linux 5.15), 957.3 with Ubuntu 24.04 (6.8), 949.5 with Amazon
Linux 2023 (6.1), in outputs of `top` that users have published; none of Debian 13 was found, so the
smallest counts. A t3.micro: 939.75 with Debian 13 (6.12.41+deb13-cloud-amd64),
https://paste.spiritlhl.net/#/show/h0s6e.txt
"""

KERNEL_MEBIBYTES = 58
"""What the kernel keeps of a t2.micro beside the 1/64 of all memory that describes its pages: its
code and data, and what the firmware reserves."""

BASELINES = {
    "t2.nano": 0.05,
    "t2.micro": 0.1,
    "t2.small": 0.2,
    "t2.medium": 0.2,
    "t2.large": 0.3,
    "t3.nano": 0.05,
    "t3.micro": 0.1,
    "t3.small": 0.2,
    "t3.medium": 0.2,
    "t3.large": 0.3,
}
"""The share of each virtual CPU that a type has when its credits are gone.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-credits-baseline-concepts.html"""


def memory_left(kind: str, mebibytes: int) -> int:
    """Return how much memory an instance type leaves to programs, in MiB.

    Args:
        kind: the type, such as `t2.micro`.
        mebibytes: its memory as EC2 gives it.
    """
    return LEFT_MEBIBYTES.get(kind, mebibytes - mebibytes // 64 - KERNEL_MEBIBYTES)


def baseline(kind: str) -> float:
    """Return the share of each CPU that a type without credits has; 1 for other types."""
    return BASELINES.get(kind, 1.0)
