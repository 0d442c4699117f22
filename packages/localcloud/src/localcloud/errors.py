"""The errors of the local cloud, as a tree.

The text of each error says what failed and what to do about it.

* LocalCloudError

  * EngineError -- EngineUnavailable, EngineForbidden, EngineStartFailed
  * PackagesFailed
  * ImageError -- BaseImageFailed, ImageBuildFailed
  * ServiceError -- NoSuchCloud, NotRunning, PortTaken, ServiceStartFailed, ServiceStopFailed
  * StateUnreadable
  * MachineError -- MachineGone, FirewallFailed
"""

from __future__ import annotations


class LocalCloudError(Exception):
    """The base of all errors of the local cloud."""


class EngineError(LocalCloudError):
    """Docker's engine cannot be used."""


class EngineUnavailable(EngineError):
    """No engine runs, and none can be installed or started here."""


class EngineForbidden(EngineError):
    """An engine runs, and this user may not use it."""


class EngineStartFailed(EngineError):
    """The engine is installed and does not start."""


class PackagesFailed(LocalCloudError):
    """apt could not install the needed packages."""


class ImageError(LocalCloudError):
    """The machines' image cannot be made."""


class BaseImageFailed(ImageError):
    """mmdebstrap failed."""


class ImageBuildFailed(ImageError):
    """docker build failed."""


class ServiceError(LocalCloudError):
    """The API process cannot be found, started or stopped."""


class NoSuchCloud(ServiceError):
    """A state directory holds no configuration."""


class NotRunning(ServiceError):
    """The API of the cloud does not answer."""


class PortTaken(ServiceError):
    """Another program listens on the API's port."""


class ServiceStartFailed(ServiceError):
    """The API process ended, or did not answer in time."""


class ServiceStopFailed(ServiceError):
    """The API process does not end."""


class StateUnreadable(LocalCloudError):
    """The saved state is damaged, or other versions have written it."""


class MachineError(LocalCloudError):
    """The container of a machine cannot be made, started, stopped or removed."""


class MachineGone(MachineError):
    """The container of a machine does not exist."""


class FirewallFailed(MachineError):
    """The host's kernel does not take the rules that keep machines to their security groups."""
