"""What an instance of a type leaves to its programs."""

from __future__ import annotations

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES

from localcloud.sizes import BASELINES, LEFT_MEBIBYTES, baseline, memory_left


@pytest.mark.parametrize("kind", ["t2.micro", "t3.micro", "t2.small", "m5.large", "r5.24xlarge"])
def test_kernel_keeps_a_part_of_every_type(kind: str) -> None:
    whole = INSTANCE_TYPES[kind]["MemoryInfo"]["SizeInMiB"]
    assert 0.9 * whole < memory_left(kind, whole) < 0.99 * whole


def test_types_without_a_reading_follow_the_t2_micro() -> None:
    assert memory_left("unread.micro", 1024) == memory_left("t2.micro", 1024) == 950


def test_types_of_the_tables_exist() -> None:
    assert {*LEFT_MEBIBYTES, *BASELINES} <= set(INSTANCE_TYPES)


def test_types_without_credits_keep_their_cpu() -> None:
    assert (baseline("t2.micro"), baseline("m5.large")) == (0.1, 1.0)
