"""What can go wrong with the local cloud, as a tree.

Every error says in its text what failed and what to do about it, in one or two plain sentences.

* LocalCloudError

  * EngineError -- EngineUnavailable, EngineForbidden, EngineStartFailed
  * PackagesFailed
  * ImageError -- BaseImageFailed, ImageBuildFailed
  * ServiceError -- NoSuchCloud, NotRunning, PortTaken, ServiceStartFailed, ServiceStopFailed
  * StateUnreadable
  * MachineError -- MachineGone
"""

from __future__ import annotations


class LocalCloudError(Exception):
    """Anything that stops the local cloud."""


class EngineError(LocalCloudError):
    """Docker's engine cannot be used."""


class EngineUnavailable(EngineError):
    """There is no engine, and it cannot be installed here."""


class EngineForbidden(EngineError):
    """There is an engine, but this user may not talk to it."""


class EngineStartFailed(EngineError):
    """The engine is installed and does not start."""


class PackagesFailed(LocalCloudError):
    """apt could not install what is needed."""


class ImageError(LocalCloudError):
    """The machines' image cannot be made."""


class BaseImageFailed(ImageError):
    """mmdebstrap did not deliver a Debian."""


class ImageBuildFailed(ImageError):
    """docker build did not deliver the machines' image."""


class ServiceError(LocalCloudError):
    """The API process cannot be found, started or stopped."""


class NoSuchCloud(ServiceError):
    """A state directory holds no configuration."""


class NotRunning(ServiceError):
    """The API of the cloud does not answer."""


class PortTaken(ServiceError):
    """Somebody else listens on the API's port."""


class ServiceStartFailed(ServiceError):
    """The API process ended, or did not answer in time."""


class ServiceStopFailed(ServiceError):
    """The API process does not end."""


class StateUnreadable(LocalCloudError):
    """The saved state was written by other versions, or is damaged."""


class MachineError(LocalCloudError):
    """A machine's container cannot be made, started, stopped or removed."""


class MachineGone(MachineError):
    """The container of a machine that should exist is not there."""
