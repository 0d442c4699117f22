"""A look-up in AWS that fails is an error, whichever module of this process makes it.

``saltext.boto3`` takes most errors of a look-up for "there is none": with credentials that have
ended, that may not look or are throttled, its states would make a second VPC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import boto3
import botocore
from botocore.exceptions import BotoCoreError, ClientError
from salt.exceptions import CommandExecutionError

LOOK_UPS = ("Describe", "Get", "Head", "List")
# The codes by which AWS says that there is none.
ABSENT = re.compile(r"NotFound|NoSuch|^404$")


def guard() -> None:
    """Have every later session of boto3 in this process raise CommandExecutionError for look-ups.

    https://docs.aws.amazon.com/botocore/latest/topics/events.html
    """
    botocore.register_initializer(_register)


def identity(region: str) -> str:
    """Return the ARN of whose credentials are in use.

    Raises CommandExecutionError when AWS does not accept them, or does not answer.
    """
    try:
        answer = boto3.client("sts", region_name=region).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise CommandExecutionError(str(error)) from error
    return str(answer["Arn"])


def _register(session: Any) -> None:
    session.register("after-call", _refuse)


def _refuse(parsed: Mapping[str, Any], model: Any, http_response: Any, **_: Any) -> None:
    """Raise CommandExecutionError for a failed look-up, in the words of botocore."""
    if http_response.status_code < 300 or not model.name.startswith(LOOK_UPS):
        return
    error = parsed.get("Error", {})
    code = str(error.get("Code", http_response.status_code))
    if not ABSENT.search(code):
        message = error.get("Message", "no message")
        raise CommandExecutionError(
            f"An error occurred ({code}) when calling the {model.name} operation: {message}"
        )
