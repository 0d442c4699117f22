"""Publishes the Debian 13 image, and the SSM parameter that names it, as Debian does on AWS.

Source of names and numbers: https://wiki.debian.org/Cloud/AmazonEC2Image
"""

from __future__ import annotations

from datetime import UTC, datetime

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ssm_backends

from localcloud.config import REGION

OWNER = "136693071363"
OWNER_ALIAS = "amazon"
"""EC2's name for Amazon and verified partners, of whom Debian is one. DescribeImages has it as
ImageOwnerAlias, `ImageLocation` begins with it, and a policy's `ec2:Owner` is compared with it.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Image.html"""
IMAGE_NAME = "debian-13-amd64-20250814-2204"
IMAGE_ID = "ami-0d13a6d641d0cb0c4"
PARAMETER = "/aws/service/debian/release/13/latest/amd64"


def publish() -> None:
    """Add the image and its parameter to the region if they are missing."""
    ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][REGION]
    if IMAGE_ID not in ec2.amis:
        ec2.amis[IMAGE_ID] = Ami(
            ec2,
            IMAGE_ID,
            name=IMAGE_NAME,
            description="Debian 13 (20250814-2204)",
            owner_id=OWNER,
            owner_alias=OWNER_ALIAS,
            public=True,
            virtualization_type="hvm",
            architecture="x86_64",
            creation_date=datetime(2025, 8, 14, 22, 6, 0, tzinfo=UTC),
            image_location=f"{OWNER_ALIAS}/{IMAGE_NAME}",
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name="/dev/xvda",
            region_name=f"{REGION}a",
            boot_mode="uefi-preferred",
        )
    # A cloud that an older version has saved knows the image without its alias.
    ec2.amis[IMAGE_ID].owner_alias = OWNER_ALIAS
    ssm = ssm_backends[DEFAULT_ACCOUNT_ID][REGION]
    if not ssm._parameters.get(PARAMETER):
        ssm._parameters[PARAMETER].append(
            Parameter(
                account_id=DEFAULT_ACCOUNT_ID,
                name=PARAMETER,
                value=IMAGE_ID,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime(2025, 8, 14, 22, 6, 0, tzinfo=UTC),
                version=1,
                data_type="aws:ec2:image",
            )
        )
