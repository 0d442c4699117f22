"""The console is asked for with `Latest` where EC2 knows that, and the wait for it is explained."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from sandbox import Sandbox

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIFBT2j0MqsYd6aWkB2gDKm1mN5bC6jfLfQ8xKfE0WjZQ"
BLOCK = (
    "-----BEGIN SSH HOST KEY KEYS-----\n"
    f"ssh-ed25519 {KEY} root@n1\n"
    "-----END SSH HOST KEY KEYS-----\n"
)
UNSUPPORTED = (
    "<Response><Errors><Error><Code>UnsupportedOperation</Code>"
    "<Message>This instance type does not support retrieving the latest console logs.</Message>"
    "</Error></Errors></Response>"
)
NITRO, XEN = "t3.micro", "t2.micro"

Answer = Callable[[dict[str, str]], tuple[str, str]]


def console(asked: list[bool], *, text: str, nitro: bool) -> Answer:
    """Return what answers GetConsoleOutput: on Nitro the latest console alone is up to date."""

    def answer(given: dict[str, str]) -> tuple[str, str]:
        latest = given.get("Latest") == "true"
        asked.append(latest)
        if latest and not nitro:
            return "400 Bad Request", UNSUPPORTED
        shown = base64.b64encode(text.encode() if latest == nitro else b"").decode()
        return "200 OK", (
            '<GetConsoleOutputResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<instanceId>{given['InstanceId']}</instanceId><timestamp>2026-01-01T00:00:00Z"
            f"</timestamp><output>{shown}</output></GetConsoleOutputResponse>"
        )

    return answer


def prepared(sandbox: Sandbox, size: str, text: str = BLOCK) -> list[bool]:
    """Have a console that shows a text; return by each look whether it was for the latest."""
    asked: list[bool] = []
    sandbox.server.answers["GetConsoleOutput"] = console(asked, text=text, nitro=size == NITRO)
    sandbox.providers["one"] |= {"host_keys": "console", "ssh_connect_timeout": 3}
    sandbox.profiles["p1"]["size"] = size
    return asked


def test_deployment_asks_nitro_for_latest_console(sandbox: Sandbox) -> None:
    asked = prepared(sandbox, NITRO)
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert not done.code, done
    assert asked[-1] is True


def test_deployment_reads_console_of_other_types(sandbox: Sandbox) -> None:
    asked = prepared(sandbox, XEN)
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert not done.code, done
    assert asked[-1] is False


@pytest.mark.parametrize("size", [NITRO, XEN])
def test_console_action_shows_what_is_newest(sandbox: Sandbox, size: str) -> None:
    prepared(sandbox, size)
    assert not sandbox.salt_cloud("-p", "p1", "n1", "--no-deploy").code
    done = sandbox.salt_cloud("-a", "get_console_output", "n1")
    assert not done.code, done
    assert KEY in done.stdout


def test_wait_for_console_says_that_it_is_minutes_late(sandbox: Sandbox) -> None:
    asked = prepared(sandbox, XEN, text="")
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert done.code, done
    assert "EC2 posts the console of t2.micro some minutes after the boot" in done.stderr
    assert asked[:1] == [True]
    assert asked.count(True) == 1
    assert "UnsupportedOperation" not in done.output


def test_console_without_keys_says_what_to_set(sandbox: Sandbox) -> None:
    prepared(sandbox, NITRO, text="no keys here")
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert done.code, done
    assert "known_hosts_file" in done.stderr
    assert "minutes" not in done.stderr
