"""Secrets are rotated while people use the site, and none of them gets an error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.chaos import visitors as coming
from tests.chaos.visitors import Site, Visitors

from stackctl.password_rotation import AIRFLOW_KEYS, OVERLAPPING
from waiting import until
from wholestack import OF_A_CONNECTION, Stack, add_connection, password_of

PACES = {"reads": 1 / 5, "writes": 1 / 2, "logins": 3.0}
SERVING = sorted(OVERLAPPING.keys() - {AIRFLOW_KEYS})
pytestmark = pytest.mark.long


@pytest.fixture
def visitors(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitors]:
    """People who use the site, so many that two cores apply states beside them."""
    monkeypatch.setattr(coming, "PACES", PACES)
    site = Site(stack.url, "admin", stack.secret("airflow-admin", "password"))
    found = Visitors(site, f"rotation-{time.time_ns()}-")
    with found.coming():
        until(lambda: all(found.answers.values()), "somebody has got an answer")
        yield found


def test_rotation_of_what_serves_fails_no_request(stack: Stack, visitors: Visitors) -> None:
    old = {secret: stack.secret(secret, "password") for secret in SERVING}
    stack.ctl("secrets", "rotate", *SERVING)
    refused = stack.ctl("secrets", "continue", accept=(1,), errors=True)
    assert "Not every machine has the present secrets." in refused
    ups = 0
    while True:
        stack.up()
        ups += 1
        if "No rotation is on." in stack.ctl("secrets", "continue"):
            break
    assert ups == 3, "the next value is taken, used, the old one is gone, and nothing is left"
    bad = Counter(
        f"{kind}: {one.what}"
        for kind, answers in visitors.answers.items()
        for one in answers
        if not one.good
    )
    asked = sum(map(len, visitors.answers.values()))
    print(f"{asked} requests during three rotations, not answered well: {dict(bad)}")
    assert not bad
    assert asked > 500
    stack.forget_secrets()
    for secret, password in old.items():
        assert stack.secret(secret, "password") != password
    assert "two values" not in stack.ctl("status", accept=(0, 1))


def test_connection_is_opened_after_a_rotation_of_the_keys(stack: Stack) -> None:
    kept = add_connection(stack)
    stack.ctl("secrets", "rotate", AIRFLOW_KEYS)
    stack.forget_secrets()
    assert "two values are taken of airflow-keys" in " ".join(stack.up().split())
    assert password_of(stack, kept) == OF_A_CONNECTION, "it is encrypted with the new key"
    assert "airflow-keys: the old value is taken no more" in stack.ctl("secrets", "continue")
    stack.up()
    stack.healthy()
    assert password_of(stack, kept) == OF_A_CONNECTION


THIEF = """
rm -rf /root/thief; mkdir -p /root/thief/pki; umask 077
cat > /root/thief/pki/minion.pem
openssl pkey -in /root/thief/pki/minion.pem -pubout -out /root/thief/pki/minion.pub
cp /etc/salt/pki/minion/minion_master.pub /root/thief/pki/
cat > /root/thief/minion <<E
id: redis-1
master: $(sed -n 's/^master: *//p' /etc/salt/minion)
pki_dir: /root/thief/pki
cachedir: /root/thief/cache
sock_dir: /root/thief/run
auth_tries: 1
auth_timeout: 10
rejected_retry: False
E
timeout 60 salt-call --config-dir=/root/thief --out=json pillar.keys secrets || true
rm -rf /root/thief
"""


def test_copied_key_of_a_minion_opens_nothing_after_a_rotation(stack: Stack) -> None:
    """Before, it does: Salt binds a key to no address."""
    copied = stack.sh("redis-1", "cat /etc/salt/pki/minion/minion.pem")
    # Only the names: the master keeps what a job returns.
    assert "redis-sentinel" in stack.sh("web-1", THIEF, stdin=copied)
    stack.healthy()
    printed = stack.ctl("master", "rotate-keys", "redis", timeout=300)
    assert "key of redis-1" in printed
    assert "redis-sentinel" not in stack.sh("web-1", THIEF, stdin=copied)
    stack.healthy()


def test_master_with_another_key_has_all_its_machines(stack: Stack) -> None:
    key = "cat /etc/salt/pki/master/salt-1.pub"
    old = stack.sh("salt-1", key)
    assert "trust of web-1" in stack.ctl("master", "rotate-own-key", timeout=300)
    assert (new := stack.sh("salt-1", key)) != old
    for machine in stack.containers():
        pinned = stack.sh(machine, "cat /etc/salt/pki/minion/minion_master.pub")
        assert pinned.strip() == new.strip(), machine
    stack.healthy()
    # The next machine is launched with the new one.
    stack.ctl("up", timeout=600)
    finger = stack.sh("web-1", "sed -n 's/^master_finger: //p' /etc/salt/minion").strip("'\n")
    assert finger
    assert finger in stack.sh("salt-1", "cat /etc/salt/cloud")
