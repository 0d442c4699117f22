"""The releases of a machine, and the commands of the module `airflow` that fail."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load

PINNED = "apache-airflow-core[gunicorn]==3.3.2 \\\n    --hash=sha256:00\nother==1\n"
HEADS = {"alembic_version": "a1", "alembic_version_fab": "f1"}


@pytest.fixture
def airflow() -> Any:
    return load("_modules", "airflow")


def make(root: Path, *names: str, complete: bool = True) -> None:
    for name in names:
        folder = root / "releases" / name
        folder.mkdir(parents=True)
        if complete:
            (folder / "release.json").write_text(json.dumps({"name": name, "heads": HEADS}))


# -- names -----------------------------------------------------------------------------------------


def test_release_is_named_for_version_and_lockfile(airflow: Any, tmp_path: Path) -> None:
    lockfile = tmp_path / "requirements.txt"
    lockfile.write_text(PINNED)
    digest = hashlib.sha256(PINNED.encode() + airflow.RECIPE).hexdigest()
    assert airflow.release_name(str(lockfile)) == f"3.3.2-{digest[:12]}"
    lockfile.write_text(PINNED + "# another\n")
    assert not airflow.release_name(str(lockfile)).endswith(digest[:12])


def test_release_that_is_built_otherwise_has_another_name(
    airflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockfile = tmp_path / "requirements.txt"
    lockfile.write_text(PINNED)
    before = airflow.release_name(str(lockfile))
    monkeypatch.setattr(airflow, "RECIPE", b"another")
    assert airflow.release_name(str(lockfile)) != before


@pytest.mark.parametrize("content", ["", "other==1\n", "my-apache-airflow-core==1\n"])
def test_lockfile_without_airflow_is_refused(airflow: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "requirements.txt").write_text(content)
    with pytest.raises(CommandExecutionError, match="does not pin apache-airflow-core"):
        airflow.release_name(str(tmp_path / "requirements.txt"))


def test_missing_lockfile_is_named(airflow: Any, tmp_path: Path) -> None:
    with pytest.raises(CommandExecutionError, match=r"cannot read the lockfile .*No such file"):
        airflow.release_name(str(tmp_path / "requirements.txt"))


# -- what is there ---------------------------------------------------------------------------------


def test_empty_machine_has_no_release(airflow: Any, tmp_path: Path) -> None:
    root = str(tmp_path)
    assert airflow.releases(root) == []
    assert airflow.current(root) is None
    assert not airflow.installed("3.3.2", root)
    with pytest.raises(CommandExecutionError, match=r"apply the state airflow.release"):
        airflow.heads(root)


def test_release_without_manifest_is_not_installed(airflow: Any, tmp_path: Path) -> None:
    make(tmp_path, "half", complete=False)
    make(tmp_path, "whole")
    assert airflow.releases(str(tmp_path)) == ["half", "whole"]
    assert not airflow.installed("half", str(tmp_path))
    assert airflow.installed("whole", str(tmp_path))


def test_activate_moves_the_link_over_a_half_made_one(airflow: Any, tmp_path: Path) -> None:
    make(tmp_path, "old", "new")
    root = str(tmp_path)
    airflow.activate("old", root)
    assert airflow.current(root) == "old"
    (tmp_path / "current.new").symlink_to("releases/nowhere")
    airflow.activate("new", root)
    assert airflow.current(root) == "new"
    assert (tmp_path / "current/release.json").is_file()
    assert not (tmp_path / "current.new").is_symlink()
    assert airflow.heads(root) == HEADS


def test_incomplete_release_is_not_activated(airflow: Any, tmp_path: Path) -> None:
    make(tmp_path, "old")
    make(tmp_path, "half", complete=False)
    airflow.activate("old", str(tmp_path))
    with pytest.raises(CommandExecutionError, match="release half is not installed"):
        airflow.activate("half", str(tmp_path))
    assert airflow.current(str(tmp_path)) == "old"


def test_heads_of_damaged_release_are_refused(airflow: Any, tmp_path: Path) -> None:
    make(tmp_path, "old")
    airflow.activate("old", str(tmp_path))
    (tmp_path / "releases/old/release.json").unlink()
    with pytest.raises(CommandExecutionError, match="no release of Airflow is installed"):
        airflow.heads(str(tmp_path))


# -- commands --------------------------------------------------------------------------------------


def run(airflow: Any, script: str, timeout: int = 10, **options: Any) -> str:
    return str(airflow._run(["/bin/sh", "-c", script], {"WORD": "set"}, timeout, **options))


def test_command_gets_its_environment_and_input_only(airflow: Any) -> None:
    assert run(airflow, "echo $WORD; cat; echo ${HOME-none}", stdin="in\n") == "set\nin\nnone\n"


def test_failed_command_shows_the_end_of_its_output_without_secrets(
    airflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("URL='postgresql://user:p%40ss@host/db'\nKEY='fernet'\n")
    monkeypatch.setattr(airflow, "SETTINGS", ("", str(secrets)))
    script = "seq 100 107; echo 'p@ss p%40ss fernet' >&2; exit 3"
    with pytest.raises(CommandExecutionError) as raised:
        run(airflow, script)
    text = str(raised.value)
    assert text.endswith("107\n*** *** ***")
    assert "failed with 3: 101\n102\n" in text, "the last eight lines are enough"


def test_command_that_hangs_is_ended(airflow: Any) -> None:
    with pytest.raises(CommandExecutionError, match="sh took longer than 1 s"):
        run(airflow, "exec tail -f /dev/null", timeout=1)


def test_missing_command_is_named(airflow: Any) -> None:
    with pytest.raises(CommandExecutionError, match="cannot run /nowhere: No such file"):
        airflow._run(["/nowhere"], {}, 1)


def test_missing_settings_name_the_state_that_writes_them(
    airflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "SETTINGS", (str(tmp_path / "environment"), ""))
    with pytest.raises(CommandExecutionError, match=r"environment: .*apply the state airflow.conf"):
        airflow.database()
