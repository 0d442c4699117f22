"""What stackctl uses of the EC2 driver: the only module that imports it."""

from __future__ import annotations

from saltext.ec2._host_keys import from_console
from saltext.ec2._launch import DEPLOY_TAG
from saltext.ec2._options import TABLE as OPTIONS

__all__ = ["DEPLOY_TAG", "OPTIONS", "from_console"]
