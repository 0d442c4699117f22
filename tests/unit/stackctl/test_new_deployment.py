"""`init` makes a deployment from a few answers, once; what exists is never replaced."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT

from stackctl import cli, operators
from stackctl.deployment import Deployment
from stackctl.secret_store import SecretStore

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

pytestmark = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")

GIVEN = ["--account", ACCOUNT, "--operator-cidr", "198.51.100.7/24"]
NAMED = [*GIVEN, "--base-url", "https://airflow.example.org"]


@pytest.fixture(autouse=True)
def here(checkout: Path, client: EC2Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[EC2Client]:
    """Make the command work on an empty checkout, with an account without addresses."""
    monkeypatch.setattr(cli, "repository_root", lambda: checkout)
    yield client
    for address in client.describe_addresses()["Addresses"]:
        client.release_address(AllocationId=address["AllocationId"])


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def settings(checkout: Path) -> dict[str, object]:
    text = (checkout / "pillar" / "prod" / "settings.sls").read_text()
    return dict(yaml.safe_load(text)["settings"])


def test_deployment_is_made_once(
    checkout: Path, here: EC2Client, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(checkout)
    assert cli.main(["init", "prod", *GIVEN, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "find or allocate the Elastic IP airflow-stack-prod-edge" in printed
    assert "make the secret airflow-admin" in printed
    assert "write pillar/prod/settings.sls" in printed
    assert everything(checkout) == before
    assert here.describe_addresses()["Addresses"] == []

    assert cli.main(["init", "prod", *GIVEN, "--budget", "100"]) == 0
    printed = capsys.readouterr().out
    (address,) = here.describe_addresses()["Addresses"]
    assert f"Allocated the Elastic IP airflow-stack-prod-edge: {address['PublicIp']}" in printed
    assert "stackctl plan -d prod" in printed
    found = settings(checkout)
    assert found["aws_account"] == ACCOUNT
    assert found["base_url"] == f"https://{address['PublicIp']}"
    assert found["operator_cidrs"] == ["198.51.100.0/24"], "as EC2 has it"
    assert found["budget"] == 100
    assert SecretStore(Deployment("prod", checkout)).missing() == []

    made = everything(checkout)
    assert cli.main(["init", "prod"]) == 0, "the settings hold every answer"
    assert "Nothing was missing." in capsys.readouterr().out
    assert cli.main(["init", "prod", *GIVEN[:2], "--dry-run"]) == 0
    assert "Nothing is missing." in capsys.readouterr().out
    assert everything(checkout) == made


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (["--account", "210987654321"], "aws_account"),
        (["--base-url", "https://other.example.org"], "base_url"),
        (["--operator-cidr", "203.0.113.0/24"], "operator_cidrs"),
    ],
)
def test_other_answer_replaces_nothing(
    checkout: Path, capsys: pytest.CaptureFixture[str], other: list[str], key: str
) -> None:
    folder = checkout / "pillar" / "prod"
    folder.mkdir()
    decided = {
        "aws_account": ACCOUNT,
        "base_url": "https://airflow.example.org",
        "operator_cidrs": ["198.51.100.0/24"],
    }
    (folder / "settings.sls").write_text(yaml.safe_dump({"settings": decided}))
    before = everything(checkout)
    assert cli.main(["init", "prod", *other]) == 1
    assert f"settings:{key} in pillar/prod/settings.sls is" in capsys.readouterr().err
    assert everything(checkout) == before


def test_key_that_is_elsewhere_is_not_made_anew(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "pillar" / "prod").mkdir()
    (checkout / "pillar" / "prod" / "public.asc").write_text("a key\n")
    before = everything(checkout)
    assert cli.main(["init", "prod", *NAMED]) == 1
    assert "its private key" in capsys.readouterr().err
    assert everything(checkout) == before


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["local", *NAMED], "this machine's own deployment"),
        (["base", *NAMED], "no name for a deployment"),
        (["prod", "--account", "12", *NAMED[2:]], "it has 12 digits"),
        (["prod", *NAMED[2:]], "The AWS account's number: that is not known"),
        (["prod", "--account", ACCOUNT], "The networks that operators come from"),
        (["prod", "--account", ACCOUNT, "--operator-cidr", "0.0.0.0/0"], "more than any one"),
        (["prod", *GIVEN, "--base-url", "http://a.example.org"], "https://"),
        (["prod", *NAMED, "--operator-key", "absent.asc"], "cannot be read"),
        (["prod", "--account", "210987654321", *NAMED[2:]], "prod lives in 210987654321"),
    ],
    ids=str,
)
def test_wrong_answer_makes_nothing(
    checkout: Path, capsys: pytest.CaptureFixture[str], args: list[str], error: str
) -> None:
    before = everything(checkout)
    assert cli.main(["init", *args]) == 1
    assert error in capsys.readouterr().err
    assert everything(checkout) == before


def test_questions_are_asked_at_a_terminal(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "" if "networks" in question else ACCOUNT

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setenv(operators.VARIABLE, "198.51.100.9")
    assert cli.main(["init", "prod", "--base-url", "https://airflow.example.org"]) == 0
    assert len(asked) == 2
    assert "[198.51.100.9/32]" in asked[1]
    assert settings(checkout)["operator_cidrs"] == ["198.51.100.9/32"]
