"""The command `localcloud`: what it prints, what it calls, and its exit codes."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

import localcloud
from localcloud import cli, engine, image, server, service
from localcloud.config import CloudConfig, Endpoint
from localcloud.errors import EngineForbidden
from localcloud.faults import FaultClient
from localcloud.limits import Limits

PYPROJECT = Path(__file__).parents[3] / "packages/localcloud/pyproject.toml"
ENDPOINT = Endpoint("http://172.17.0.1:4566", "http://127.0.0.1:4566", "AKIA1", "it's secret")


@pytest.fixture
def configured(tmp_path: Path) -> CloudConfig:
    """A cloud that has a configuration and does not run."""
    config = CloudConfig("demo", tmp_path, 4566, "image:1")
    config.path.write_text(config.dump())
    return config


@pytest.fixture
def destroyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a verb destroys, instead of destroying it."""
    calls: list[str] = []
    monkeypatch.setattr(engine, "reachable", lambda: True)
    monkeypatch.setattr(engine, "connect", lambda: "client")
    monkeypatch.setattr(engine, "stop_if_ours", lambda: calls.append("engine"))
    monkeypatch.setattr(image, "remove", lambda _client: calls.append("image"))
    monkeypatch.setattr(service, "destroy", lambda config, _report: calls.append(config.name))
    monkeypatch.setattr(service, "machine_names", lambda config: [f"{config.name}-i-1"])
    return calls


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    version = tomllib.loads(PYPROJECT.read_text())["project"]["version"]
    assert end.value.code == 0
    assert capsys.readouterr().out == f"localcloud {version}\n"
    assert localcloud.__version__ == version


def test_status_of_stopped_cloud_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("does not answer (process -, log ")


def test_serve_writes_private_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[CloudConfig] = []

    def serve(config: CloudConfig) -> int:
        served.append(config)
        return 0

    monkeypatch.setattr(server, "main", serve)
    args = ["serve", "--name", "demo", "--image", "image:1", "--port", "5000"]
    assert cli.main([*args, str(tmp_path / "demo")]) == 0
    assert cli.main(["serve", str(tmp_path / "demo")]) == 0
    assert served == [CloudConfig("demo", tmp_path / "demo", 5000, "image:1")] * 2
    assert stat.S_IMODE(served[0].path.stat().st_mode) == 0o600


def test_serve_refuses_name_without_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", "--name", "demo", str(tmp_path)])
    assert end.value.code == 2
    assert "--name needs --image" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["serve", "destroy"])
def test_directory_without_cloud_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert cli.main([verb, str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: There is no cloud in {tmp_path}")


def test_env_prints_quoted_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "endpoint", lambda _state_dir: ENDPOINT)
    assert cli.main(["env", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "export AWS_ENDPOINT_URL=http://172.17.0.1:4566" in lines
    assert """export AWS_SECRET_ACCESS_KEY='it'"'"'s secret'""" in lines
    assert len(lines) == len(ENDPOINT.environment)


def test_env_of_stopped_cloud_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["env", str(tmp_path)]) == 1
    assert "No cloud answers" in capsys.readouterr().err


def test_image_prints_engine_error_without_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_report: object) -> None:
        raise EngineForbidden("Join the group docker.")

    monkeypatch.setattr(engine, "ensure", refuse)
    assert cli.main(["image", str(tmp_path / "salt.txt")]) == 1
    assert capsys.readouterr().err == "error: Join the group docker.\n"


def test_image_prints_its_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "ensure", lambda _report: "client")
    monkeypatch.setattr(image, "ensure", lambda *_: "localcloud/machine:0123456789ab")
    assert cli.main(["image", str(tmp_path / "salt.txt")]) == 0
    assert capsys.readouterr().out == "localcloud/machine:0123456789ab\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], ["demo", "image", "engine"]), (["--keep-image"], ["demo"]), (["--dry-run"], [])],
)
def test_destroy_removes_what_its_options_allow(
    configured: CloudConfig, destroyed: list[str], options: list[str], expected: list[str]
) -> None:
    assert cli.main(["destroy", *options, str(configured.state_dir)]) == 0
    assert destroyed == expected


@pytest.mark.usefixtures("destroyed")
def test_destroy_dry_run_prints_machines(
    configured: CloudConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["destroy", "--dry-run", str(configured.state_dir)]) == 0
    assert capsys.readouterr().out == "would remove demo-i-1\n"


def test_credits_are_spent_for_whom_its_options_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, ...]] = []
    monkeypatch.setattr(service, "endpoint", lambda _state_dir: ENDPOINT)
    monkeypatch.setattr(FaultClient, "spend_credits", lambda _, *names: given.append(names))
    assert cli.main(["credits", "--spent=web-*", "--spent=lb-1", str(tmp_path)]) == 0
    assert cli.main(["credits", str(tmp_path)]) == 0
    assert given == [("web-*", "lb-1"), ()]


def test_limit_sets_what_its_options_say_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Limits] = []
    monkeypatch.setattr(service, "endpoint", lambda _state_dir: ENDPOINT)
    monkeypatch.setattr(FaultClient, "set_limits", lambda _, limits: given.append(limits))
    zone = ["--not-offered=eu-west-1a=t2.micro", "--not-offered=eu-west-1a=t3.micro"]
    assert cli.main(["limit", str(tmp_path)]) == 0
    assert cli.main(["limit", "--vcpus=5", "--plan=FREE", str(tmp_path)]) == 0
    assert cli.main(["limit", "--unverified", *zone, str(tmp_path)]) == 0
    assert cli.main(["limit", "--exhausted=eu-west-1b=t2.micro", str(tmp_path)]) == 0
    assert given == [
        Limits(),
        Limits(vcpus=5, plan="FREE"),
        Limits(
            pending_verification=True,
            not_offered={"eu-west-1a": ("t2.micro", "t3.micro")},
        ),
        Limits(exhausted={"eu-west-1b": ("t2.micro",)}),
    ]


def test_remove_needs_only_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(service, "remove", lambda name, _report: removed.append(name))
    assert cli.main(["remove", "demo"]) == 0
    assert removed == ["demo"]
