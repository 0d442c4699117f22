"""The modules `sshd`: options that are in force in sshd's whole configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plainpillar import DEPLOYMENT, ROOT
from saltmodules import load
from stackctl import ssh

EFFECTIVE = "port 22\nallowusers admin\npermitrootlogin no\nmaxauthtries 4\n"
OPTIONS = {"AllowUsers": "admin", "PermitRootLogin": "no", "MaxAuthTries": "4"}


class Sshd:
    """An sshd that prints one configuration for each user."""

    def __init__(self, **effective: str | int) -> None:
        self.effective = effective
        self.seen: list[dict[str, str]] = []

    def run(self, command: list[str], **options: Any) -> dict[str, Any]:
        """Stand in for cmd.run_all."""
        assert options["python_shell"] is False
        # A refusal is said in the result, and is no error in the minion's log.
        assert options["ignore_retcode"] is True
        copy, _, user = command[-3:]
        self.seen.append({path.name: path.read_text() for path in Path(copy).iterdir()})
        out = self.effective.get(user, EFFECTIVE)
        if isinstance(out, int):
            return {"retcode": out, "stdout": "", "stderr": f"{copy}/20-x.conf: line 1: Bad option"}
        return {"retcode": 0, "stdout": out, "stderr": ""}

    def module(self) -> Any:
        """Return the execution module."""
        return load("_modules", "sshd", __salt__={"cmd.run_all": self.run})


def test_fragment_is_judged_among_all_others(tmp_path: Path) -> None:
    (tmp_path / "00-stack.conf").write_text("MaxAuthTries 6\n")
    (tmp_path / "20-x.conf").write_text("Port 22\n")
    sshd = Sshd()
    text = sshd.module().fragment(OPTIONS)
    assert sshd.module().problems(str(tmp_path / "00-stack.conf"), text) == []
    assert sshd.seen == [{"00-stack.conf": text, "20-x.conf": "Port 22\n"}] * 2
    assert (tmp_path / "00-stack.conf").read_text() == "MaxAuthTries 6\n"


@pytest.mark.parametrize(
    ("user", "effective", "expected"),
    [
        ("admin", EFFECTIVE.replace("tries 4", "tries 6"), "maxauthtries 6 in place of 4"),
        ("root", EFFECTIVE.replace("login no", "login yes"), "permitrootlogin yes in place of no"),
        ("root", EFFECTIVE + "allowusers eve\n", "allowusers admin eve in place of admin"),
        ("root", "port 22\n", "allowusers unset in place of admin"),
    ],
)
def test_other_effective_value_is_named(
    tmp_path: Path, user: str, effective: str, expected: str
) -> None:
    module = Sshd(**{user: effective}).module()
    found = module.problems(str(tmp_path / "00-stack.conf"), module.fragment(OPTIONS))
    assert found[0] == f"sshd has {expected}"


def test_every_allowed_user_is_asked_for(tmp_path: Path) -> None:
    effective = EFFECTIVE.replace("users admin", "users admin\nallowusers eve")
    sshd = Sshd(root=effective, admin=effective, eve=effective.replace("tries 4", "tries 6"))
    module = sshd.module()
    text = module.fragment(OPTIONS | {"AllowUsers": "admin eve"})
    found = module.problems(str(tmp_path / "00-stack.conf"), text)
    assert found == ["sshd has maxauthtries 6 in place of 4"]
    assert len(sshd.seen) == 3


def test_refusal_names_the_file_that_the_operator_knows(tmp_path: Path) -> None:
    (tmp_path / "00-stack.conf").write_text("MaxAuthTries 4\n")
    found = Sshd(root=255).module().problems(str(tmp_path / "00-stack.conf"))
    assert found == [f"sshd refuses its configuration: {tmp_path}/20-x.conf: line 1: Bad option"]


@pytest.mark.parametrize("problems", [[], ["one", "two"]])
def test_fragment_is_written_only_without_a_problem(problems: list[str]) -> None:
    written: list[Any] = []

    def managed(name: str, **options: Any) -> dict[str, Any]:
        written.append((name, options))
        return {"result": None, "changes": {"diff": "x"}}

    functions = {
        "sshd.fragment": lambda options: f"{options}",
        "sshd.problems": lambda _name, _text: problems,
    }
    state = load("_states", "sshd", __salt__=functions, __states__={"file.managed": managed})
    found = state.options("/etc/x", {"a": "b"})
    if problems:
        assert (found["result"], found["changes"], found["comment"]) == (False, {}, "one; two")
        assert written == []
    else:
        assert found["changes"] == {"diff": "x"}
        assert written == [("/etc/x", {"contents": "{'a': 'b'}", "mode": "0644"})]


def test_everybody_names_the_same_login_user() -> None:
    user = DEPLOYMENT.base_pillar("aws")["login_user"]
    assert user == ssh.SSH_USER
    provider = (ROOT / "cloud.providers.d/eu-west-1.conf").read_text()
    assert f"ssh_username: {user}\n" in provider
