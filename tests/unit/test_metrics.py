"""The execution module `metrics`: who may ask, and whom Prometheus asks."""

from __future__ import annotations

import ctypes

from saltmodules import functions, load


def test_verifier_is_the_same_each_time_and_takes_its_password_alone() -> None:
    verifier = load("_modules", "metrics").verifier
    made = verifier("a" * 48)
    assert made == verifier("a" * 48)
    # The digits between the salt and the rest are 22; crypt(5) has the cost before them.
    assert made.startswith("$2b$04$")
    assert len(made) == 60
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    assert crypt(b"a" * 48, made.encode()).decode() == made
    assert crypt(b"b" * 48, made.encode()).decode() != made
    assert made[7:29] != verifier("b" * 48)[7:29], "two passwords have one salt"


def test_every_machine_is_asked_for_what_its_role_has() -> None:
    pillar = {"roles": {"store": {"metrics": ["counters"]}, "web": {}, "cache": {"metrics": ["x"]}}}
    addresses = {"web-1": "10.0.0.1", "store-1": "10.0.0.2"}
    known = functions("watch-1", pillar, addresses)
    module = load("_modules", "metrics", __pillar__=pillar, __salt__=known)
    web, store = {"id": "web-1", "role": "web"}, {"id": "store-1", "role": "store"}
    # A job of which the map has no machine is there, and asks nobody.
    assert module.targets() == {"node": [store, web], "counters": [store], "x": []}
