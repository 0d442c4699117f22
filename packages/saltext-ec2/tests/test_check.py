"""`salt-cloud -f check PROVIDER` reads every provider, profile and map, and names every fault.

Each fault is a line `FILE:LINE: what is wrong`. Maps are those of `cloud.maps.d` and the one that
`map=FILE` names. Nothing is launched, changed or paid. The exit code is 0 when nothing is wrong.
"""

from __future__ import annotations

import json

import pytest

from sandbox import Run, Sandbox

PROVIDERS = """\
one: {provider}
two:
  driver: ec2
  location: eu-west-1
  rubbish: 1
"""
PROFILES = """\
good:
  provider: one
  image: {image}
  size: t3.micro
unknown-word:
  extends: good
  sizze: t3.small
quoted:
  extends: good
  del_root_vol_on_destroy: 'False'
no-provider:
  provider: nosuch
  image: {image}
no-image:
  provider: one
  size: t3.micro
"""
MAP = """\
good:
  - n1
  - n2:
      tmeout: 5
  - n3:
      provider: two
nosuch-profile:
  - n4
"""


def check(sandbox: Sandbox, *arguments: str) -> Run:
    sandbox.server.calls.clear()
    done = sandbox.salt_cloud("--function=check", "one", *arguments)
    assert sandbox.changing_calls() == []
    assert "Traceback" not in done.output, done
    return done


@pytest.fixture
def faulty(sandbox: Sandbox) -> Sandbox:
    """Return a sandbox whose files hold one fault of each kind, at lines that are known."""
    sandbox.providers_text = PROVIDERS.format(provider=json.dumps(sandbox.providers["one"]))
    sandbox.profiles_text = PROFILES.format(image=sandbox.image)
    sandbox.write("cloud.maps.d/web.map", MAP)
    return sandbox


def test_correct_configuration_passes(sandbox: Sandbox) -> None:
    sandbox.write("cloud.maps.d/web.map", {"p1": ["n1", {"n2": {"size": "t3.small"}}]})
    done = check(sandbox)
    assert done.code == 0, done
    assert not done.failed, done


def test_every_fault_is_named_with_file_and_line(faulty: Sandbox) -> None:
    done = check(faulty)
    assert done.code != 0, done
    for place, word in {
        "providers.conf:5": "rubbish",
        "profiles.conf:7": "sizze",
        "profiles.conf:10": "del_root_vol_on_destroy",
        "profiles.conf:12": "nosuch",
        "profiles.conf:14": "image",
        "web.map:4": "tmeout",
        "web.map:6": "two:ec2",
        "web.map:7": "nosuch-profile",
    }.items():
        lines = [line for line in done.output.splitlines() if f"{place}:" in line]
        assert len(lines) == 1, (place, done)
        assert word in lines[0]


def test_map_that_cannot_be_read_is_a_fault(sandbox: Sandbox) -> None:
    maps = {
        "yaml": "p1:\n  - n1\n bad: [\n",
        "jinja": "p1:\n  - {{ nosuch.value }}\n",
        "number": "p1: 5\n",
        "list": "p1:\n  - [n1]\n",
    }
    for name, text in maps.items():
        sandbox.write(f"cloud.maps.d/{name}.map", text)
    done = check(sandbox)
    assert done.code != 0, done
    assert [name for name in maps if f"{name}.map:" not in done.output] == [], done


def test_map_of_argument_is_checked(sandbox: Sandbox) -> None:
    path = sandbox.write("elsewhere.map", MAP.replace("good", "p1"))
    done = check(sandbox, f"map={path}")
    assert done.code != 0, done
    assert "elsewhere.map:4: " in done.output, done


def test_what_the_account_lacks_is_a_fault(sandbox: Sandbox) -> None:
    wrong = {
        "image": "ami-00000000000000000",
        "subnetname": "nosuch-subnet",
        "securitygroup": "nosuch-group",
        "keyname": "nosuch-key",
    }
    for option, value in wrong.items():
        sandbox.profiles[option] = {**sandbox.profiles["p1"], option: value}
    done = check(sandbox)
    assert done.code != 0, done
    assert [value for value in wrong.values() if value not in done.output] == [], done


def test_map_with_fault_launches_nothing(sandbox: Sandbox) -> None:
    done = sandbox.apply({"p1": ["n1", {"n2": {"sizze": "t3.micro"}}, {"n3": {"tagg": {}}}]})
    sandbox.assert_refused(done, "sizze", "tagg")
