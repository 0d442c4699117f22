"""What can go wrong, as errors that salt-cloud reports with a sentence and a non-zero exit code.

Ec2Error (a `SaltCloudSystemExit`: the one class that every path through salt-cloud's core handles)
├── ConfigurationError   an option is unknown, wrong, or needed and absent
│   └── RegionRefused    the region is not one of `allowed_regions`
├── NotFound             an image, subnet, group, machine … that a configuration or command names
├── ApiError             the EC2 API said no, or did not answer
├── LaunchError          a machine did not come to run
└── DeployError          a machine runs, but its minion could not be installed
QueryFailed (a `SystemExit`: the core takes every lesser error of a query for "there are no machines")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore.exceptions import BotoCoreError, ClientError
from salt.exceptions import SaltCloudSystemExit


class Ec2Error(SaltCloudSystemExit):  # type: ignore[misc]
    """Any failure of this driver; its text is one sentence for the operator."""


class ConfigurationError(Ec2Error):
    """A provider, profile or map says something that the driver does not understand or cannot do."""


class RegionRefused(ConfigurationError):
    """The region is outside `allowed_regions`."""


class NotFound(Ec2Error):
    """Something that was named does not exist in the account, or its name is ambiguous."""


class ApiError(Ec2Error):
    """A call to AWS failed after botocore's retries.

    Attributes:
        code: AWS's error code, such as `UnauthorizedOperation`; the exception's name when there was no answer.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class LaunchError(Ec2Error):
    """An instance was requested but did not come to run, or has no address to reach it at."""


class DeployError(Ec2Error):
    """Salt could not be installed on a running instance."""


class QueryFailed(SystemExit):
    """A query could not be answered.

    `salt.cloud` turns every `Exception` of `list_nodes` into an empty list, after which a map is launched a second
    time. A `SystemExit` passes that handler, in the worker process as in the main one, and ends the run with code 1.
    """


@contextlib.contextmanager
def api_errors(doing: str) -> Iterator[None]:
    """Turn botocore's exceptions into an `ApiError`.

    Args:
        doing: what is being attempted, to begin the sentence with: "launching web-1".

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
        message = answer.get("Message", "no message").rstrip(".")  # more follows
        raise ApiError(
            f"{doing} failed: {error.operation_name}: {code}: {message}{tried}", code
        ) from error
    except BotoCoreError as error:
        raise ApiError(f"{doing} failed: {str(error).rstrip('.')}", type(error).__name__) from error
