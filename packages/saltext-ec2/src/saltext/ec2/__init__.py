"""The salt-cloud driver for Amazon EC2, on boto3: `driver: ec2`."""

from importlib.metadata import version

__version__ = version("saltext.ec2")
