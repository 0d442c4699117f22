"""An SSH error behind a gateway names the host that it comes from: the gateway or the machine."""

from __future__ import annotations

import pytest

from sandbox import Sandbox

# As OpenSSH does: the proxy command runs another ssh, which logs in to the gateway.
SSH = """#!/bin/sh
proxy=
for word in "$@"; do
  case "$word" in
    ProxyCommand=*) proxy=${{word#ProxyCommand=}} ;;
    gateway.test) cat >&2 <<'END'
{gateway}
END
      exit {code} ;;
  esac
done
if ! sh -c "$proxy" </dev/null; then
  echo 'Connection closed by UNKNOWN port 65535' >&2
  exit 255
fi
cat >&2 <<'END'
{machine}
END
exit 255
"""
UNKNOWN = (
    "No ED25519 host key is known for gateway.test and you have requested strict checking.\n"
    "Host key verification failed."
)
CHANGED = (
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n"
    "Host key for gateway.test has changed and you have requested strict checking.\n"
    "Host key verification failed."
)


def refused(sandbox: Sandbox, *, gateway: str = "", machine: str = "") -> str:
    """Return what salt-cloud says when a login fails at the gateway or at the machine."""
    script = SSH.format(gateway=gateway, code=255 if gateway else 0, machine=machine)
    sandbox.write("bin/ssh", script, mode=0o755)
    sandbox.profiles["p1"] |= {"ssh_connect_timeout": 1}
    done = sandbox.salt_cloud("-p", "p1", "n1")
    assert done.code, done
    return done.output


@pytest.mark.parametrize("words", [UNKNOWN, CHANGED], ids=["unknown", "changed"])
def test_host_key_of_gateway_is_reported_as_the_gateways(sandbox: Sandbox, words: str) -> None:
    output = refused(sandbox, gateway=words)
    assert "gateway.test" in output
    assert "known_hosts" in output
    assert "another host key than the console" not in output


@pytest.mark.parametrize(
    "words",
    [
        "root@gateway.test: Permission denied (publickey).",
        "ssh: Could not resolve hostname gateway.test: Name or service not known",
        "ssh: connect to host gateway.test port 22: Connection refused",
    ],
)
def test_login_that_fails_at_gateway_names_it(sandbox: Sandbox, words: str) -> None:
    assert "gateway.test" in refused(sandbox, gateway=words)


def test_host_key_of_machine_is_reported_as_the_machines(sandbox: Sandbox) -> None:
    output = refused(
        sandbox,
        machine="No ED25519 host key is known for i-1 and you have requested strict checking.\n"
        "Host key verification failed.",
    )
    assert "shows another host key" in output
    assert "gateway.test" not in output
