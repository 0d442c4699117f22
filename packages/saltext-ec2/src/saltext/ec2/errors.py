"""The errors of the driver; salt-cloud reports them with a sentence and a non-zero exit code.

Ec2Error (a `SaltCloudSystemExit`, which every path through salt-cloud's core handles, and a
          `CommandExecutionError`, of which `salt-call` prints the sentence)
├── ConfigurationError   an option is unknown, wrong, or absent though it is needed
│   └── RegionRefused    the region is not one of `allowed_regions`
├── NotFound             an image, subnet, group, machine … does not exist, or is ambiguous
├── ApiError             EC2 refused a call, or did not answer
├── LaunchError          a machine does not run
└── DeployError          a machine runs, but its minion is not installed
QueryFailed (a `SystemExit`: the core takes every `Exception` of a query for an empty list)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError
from salt.exceptions import CommandExecutionError, SaltCloudSystemExit


class Ec2Error(SaltCloudSystemExit, CommandExecutionError):  # type: ignore[misc]
    """Any failure of this driver; its text is one sentence for the operator."""


class ConfigurationError(Ec2Error):
    """A provider, profile or map, or a command's arguments, cannot be used as they are."""


class RegionRefused(ConfigurationError):
    """The region is outside `allowed_regions`."""


class NotFound(Ec2Error):
    """The account has nothing with this name or id, or several things."""


class ApiError(Ec2Error):
    """A call to AWS failed after botocore's retries.

    Attributes:
        code: AWS's error code, such as `UnauthorizedOperation`; without an answer, the name of
            botocore's exception.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class LaunchError(Ec2Error):
    """An instance was launched, but does not run or has no address."""


class DeployError(Ec2Error):
    """Salt could not be installed on a running instance."""


class QueryFailed(SystemExit):
    """A query failed.

    `salt.cloud` turns every `Exception` of `list_nodes` into an empty list, and then launches a map
    a second time. It does not catch a `SystemExit`, which ends the run with code 1, in a worker
    process as in the main one.
    """


def describe(error: Exception) -> str:
    """Return the text of an error; that of a foreign error may be as short as `'x'`."""
    return str(error) if isinstance(error, Ec2Error) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def api_errors(doing: str) -> Iterator[None]:
    """Raise botocore's exceptions as `ApiError`.

    Args:
        doing: what the calls do, with which the message begins: "launching web-1".

    Raises:
        ApiError: a call inside the block failed.
    """
    try:
        yield
    except ClientError as error:
        answer = error.response.get("Error", {})
        code = answer.get("Code", "Unknown")
        retries = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        tried = f" (after {retries} retries)" if retries else ""
        message = answer.get("Message", "no message").rstrip(".")
        raise ApiError(
            f"{doing} failed: {error.operation_name}: {code}: {message}{tried}", code
        ) from error
    except BotoCoreError as error:
        raise ApiError(f"{doing} failed: {str(error).rstrip('.')}", type(error).__name__) from error
