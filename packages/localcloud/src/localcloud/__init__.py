"""A local EC2: an API server whose instances are Debian machines in Docker containers."""

from importlib.metadata import version

__version__ = version("localcloud")
