"""The execution module `trust`: the CAs and the certificate of a machine, and who has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saltmodules import load
from stackctl.certificates import Authority, certificates, fingerprint

OLD, NEW = Authority.new("test"), Authority.new("test")


def name_of(pem: str) -> str:
    return fingerprint(certificates(pem)[0])


@pytest.fixture
def role(tmp_path: Path) -> dict[str, Any]:
    """A role with two files of CAs, and a certificate and its copy."""
    return {
        "unit": "app",
        "trusts": [str(tmp_path / "ca.pem"), str(tmp_path / "other-ca.pem")],
        "certificate": {"path": str(tmp_path / "tls.pem"), "copies": [str(tmp_path / "copy.pem")]},
        "shared": {"path": str(tmp_path / "shared.pem"), "copies": []},
    }


def test_what_it_sends_with_and_takes_with_is_told(tmp_path: Path) -> None:
    leaf = OLD.client("sender")
    for name in ("receiver.pem", "sender.pem"):
        (tmp_path / name).write_text(leaf["certificate"])
    (tmp_path / "ca.pem").write_text(OLD.certificate_pem)
    sender = {"path": str(tmp_path / "sender.pem"), "trusts": [str(tmp_path / "ca.pem")]}
    found = told({"receiver": {"path": str(tmp_path / "receiver.pem")}, "sender": sender})
    assert found["authorities"] == {str(tmp_path / "ca.pem"): [name_of(OLD.certificate_pem)]}
    assert found["certificates"] == {
        str(tmp_path / name): name_of(leaf["certificate"])
        for name in ("receiver.pem", "sender.pem")
    }


def told(role: dict[str, Any], outdated: dict[str, list[str]] | None = None) -> Any:
    """Return what the machine says, with files that units have not loaded."""
    functions = {
        "role.recorded": lambda: role,
        "role.leaves": load("_modules", "role").leaves,
        "service_config.outdated": lambda: outdated or {},
    }
    return load("_modules", "trust", __salt__=functions).told()


def test_every_certificate_of_every_file_is_told(tmp_path: Path, role: dict[str, Any]) -> None:
    leaf = OLD.server("app", ["app.example.org"])
    (tmp_path / "ca.pem").write_text(OLD.certificate_pem + NEW.certificate_pem)
    (tmp_path / "other-ca.pem").write_text(NEW.certificate_pem)
    # As HAProxy has it, behind the key's certificate the one of a public CA.
    (tmp_path / "tls.pem").write_text(
        leaf["certificate"] + OLD.certificate_pem + leaf["private_key"]
    )
    for name in ("copy.pem", "shared.pem"):
        (tmp_path / name).write_text(leaf["certificate"])
    old, new = name_of(OLD.certificate_pem), name_of(NEW.certificate_pem)
    assert old != new
    assert told(role) == {
        "authorities": {
            str(tmp_path / "ca.pem"): [old, new],
            str(tmp_path / "other-ca.pem"): [new],
        },
        "certificates": dict.fromkeys(
            [str(tmp_path / name) for name in ("tls.pem", "copy.pem", "shared.pem")],
            name_of(leaf["certificate"]),
        ),
        "not_loaded": {},
    }


def test_certificate_of_the_client_is_told(tmp_path: Path, role: dict[str, Any]) -> None:
    own, path = OLD.client("edge"), tmp_path / "client.pem"
    path.write_text(own["certificate"] + own["private_key"])
    found = told(role | {"client": {"path": str(path)}})["certificates"]
    assert found[str(path)] == name_of(own["certificate"])


def test_file_that_cannot_be_read_holds_nothing(tmp_path: Path, role: dict[str, Any]) -> None:
    (tmp_path / "ca.pem").write_text("damaged")
    (tmp_path / "tls.pem").write_text("")
    found = told(role)
    assert list(found["authorities"].values()) == [[], []]
    assert list(found["certificates"].values()) == ["", "", ""]


def test_only_these_files_have_to_be_loaded(role: dict[str, Any]) -> None:
    ca, copy = role["trusts"][0], role["certificate"]["copies"][0]
    outdated = {"app": ["/etc/app.conf", ca], "other": ["/etc/other.conf"], "third": [copy]}
    assert told(role, outdated)["not_loaded"] == {"app": [ca], "third": [copy]}


def test_role_without_either_tells_nothing() -> None:
    nothing: dict[str, Any] = {"authorities": {}, "certificates": {}, "not_loaded": {}}
    assert told({"unit": "salt-master"}, {"salt-master": ["/etc/salt/master"]}) == nothing
