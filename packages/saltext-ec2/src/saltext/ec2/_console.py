"""What a machine printed on its console.

EC2 has two answers. The latest console is up to date, but exists only on instance types that are
built on Nitro. The posted console exists on all types; EC2 posts it some minutes after the boot.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from saltext.ec2._machine import Machine
from saltext.ec2.errors import api_errors

# The codes with which EC2, or another endpoint with its API, refuses the latest console.
NO_LATEST = {"UnsupportedOperation", "UnknownParameter", "InvalidParameterCombination"}
REMEMBERED = 3000  # seconds for which the refusal of an instance type is remembered


def read(machine: Machine) -> str:
    """Return the console's newest output, as far as EC2 shows it.

    Raises:
        ApiError: EC2 refuses.
    """
    connection = machine.connection
    with api_errors(f"reading the console of {machine.name}"):
        if not is_late(machine):
            try:
                answer = connection.ec2.get_console_output(InstanceId=machine.id, Latest=True)
                return answer.get("Output", "")
            except ClientError as error:
                if error.response["Error"]["Code"] not in NO_LATEST:
                    raise
                connection.cache.put(_question(machine), True, REMEMBERED)
        return connection.ec2.get_console_output(InstanceId=machine.id).get("Output", "")


def is_late(machine: Machine) -> bool:
    """Return whether EC2 has refused the latest console of this instance type."""
    return bool(machine.connection.cache.get(_question(machine), lambda: False, 0))


def _question(machine: Machine) -> str:
    return f"the latest console of {machine.type} is refused"
