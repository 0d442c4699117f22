"""The modules `service_config`: configuration files that a running service has not loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plainpillar import PlainPillar
from rendering import Compiler
from saltmodules import TREE, load

# In place of the execution module: every file has changed, and a reload is a file of its own.
EVERYTHING_CHANGED = """
def changed_since_load(unit, files, reload=False):
    return [*files, *(["reload"] if reload else [])]
"""


@pytest.mark.parametrize(
    ("state", "reload", "expected"),
    [
        ("active", False, ["after", "link"]),
        ("active", True, []),
        ("inactive", False, []),
        ("failed", False, []),
    ],
)
def test_files_changed_since_load(
    tmp_path: Path, state: str, *, reload: bool, expected: list[str]
) -> None:
    """The unit started an hour ago and was reloaded now; a file and a link changed in between."""
    asked: list[list[str]] = []

    def systemctl(command: list[str], *, python_shell: bool) -> str:
        assert not python_shell
        asked.append(command)
        stamp = command[2].rpartition(",")[2]
        ago = {"ActiveEnterTimestampMonotonic": 3600, "StateChangeTimestampMonotonic": 0}[stamp]
        return f"ActiveState={state}\n{stamp}={int((time.monotonic() - ago) * 1e6)}\n"

    module = load("_modules", "service_config", __salt__={"cmd.run_stdout": systemctl})
    (tmp_path / "link").symlink_to("before")
    for name, ago in {"before": 7200, "after": 1800, "link": 1800}.items():
        path, moment = tmp_path / name, time.time() - ago
        if name != "link":
            path.touch()
        os.utime(path, (moment, moment), follow_symlinks=False)
    files = [str(tmp_path / name) for name in ("before", "after", "link", "absent")]
    found = module.changed_since_load("app", files, reload=reload)
    assert [Path(path).name for path in found] == expected
    assert asked[0][-1] == "app"


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> PlainPillar:
    return PlainPillar(tmp_path_factory.mktemp("pillar"))


@dataclass
class Answers:
    """What the service_config states of a run answer, by id."""

    files: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def ask(tmp_path: Path, pillar: PlainPillar) -> Callable[..., Answers]:
    """`ask(id, sls, planted)`: as Salt itself calls the states, with one more SLS in the run."""

    def run(minion_id: str, sls: str, planted: str = "{}") -> Answers:
        (tmp_path / "planted.sls").write_text(planted)
        compiler = Compiler(minion_id, tmp_path / "minion", pillar)
        (tmp_path / "minion/modules/service_config.py").write_text(EVERYTHING_CHANGED)
        compiler.opts["file_roots"] = {"base": [str(TREE), str(tmp_path)]}
        compiled = compiler.states(sls, "planted")
        assert compiled.errors == []
        answers = Answers()
        for chunk in compiled.chunks:
            if chunk["state"] == "service_config":
                result = compiler.call(chunk, compiled.chunks)
                if result["result"]:
                    answers.files[chunk["__id__"]] = result["changes"]["not loaded"]
                else:
                    answers.errors[chunk["__id__"]] = result["comment"]
        return answers

    return run


AIRFLOW_FILES = [
    "/opt/airflow/current",
    "/etc/airflow/ca.pem",
    "/etc/airflow/airflow.cfg",
    "/etc/airflow/environment",
    "/etc/airflow/secrets.env",
    "/etc/airflow/webserver_config.py",
    "/etc/airflow/airflow_local_settings.py",
    "/etc/systemd/system/airflow.service",
]


def test_watched_files_are_compared(ask: Callable[..., Answers]) -> None:
    answers = ask("web-1", "airflow")
    assert answers == Answers({"airflow-config-loaded": AIRFLOW_FILES})


def test_ninth_watched_file_is_compared(ask: Callable[..., Answers]) -> None:
    planted = """
planted-file:
  file.managed:
    - name: /etc/airflow/planted.cfg
extend:
  airflow-service:
    service:
      - watch:
        - file: planted-file
"""
    answers = ask("web-1", "airflow", planted)
    assert answers.files == {"airflow-config-loaded": [*AIRFLOW_FILES, "/etc/airflow/planted.cfg"]}


def test_reload_comes_from_the_watching_service(ask: Callable[..., Answers]) -> None:
    files = ask("postgres-1", "postgres").files
    assert "reload" not in files["postgres-config-loaded"]
    assert files["postgres-clients-loaded"] == ["/etc/postgresql/17/main/pg_hba.conf", "reload"]


def test_watched_state_without_path_fails(ask: Callable[..., Answers]) -> None:
    planted = """
planted-command:
  cmd.run:
    - name: 'true'
extend:
  redis-service:
    service:
      - watch:
        - cmd: planted-command
"""
    (error,) = ask("redis-1", "redis", planted).errors.values()
    assert "redis-service watches cmd: planted-command, which is no file" in error


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (
            "service_config.loaded: [name: x, paths: {planted-id: /x}]",
            "needs one service.running state of x that watches it; these do: none",
        ),
        (
            """service_config.loaded: [name: x, paths: {absent: /x}]
  service.running: [name: x, watch: [service_config: planted-id]]""",
            "does not watch absent, which planted-id names in `paths`",
        ),
    ],
)
def test_misplaced_state_fails(ask: Callable[..., Answers], planted: str, message: str) -> None:
    answers = ask("redis-1", "redis", f"planted-id:\n  {planted}\n")
    assert message in answers.errors["planted-id"]


@pytest.mark.parametrize(("test", "expected"), [(True, None), (False, True)])
def test_changed_file_is_reported(*, test: bool, expected: bool | None) -> None:
    service = {
        "state": "service",
        "name": "app",
        "__id__": "app-service",
        "watch": [{"service_config": "app-loaded"}, {"file": "app-config"}],
    }
    config = {"state": "file", "name": "/etc/app.cfg", "__id__": "app-config"}
    module = load(
        "_states",
        "service_config",
        __opts__={"test": test},
        __salt__={"service_config.changed_since_load": lambda _, files, **__: files},
        __low__={"__id__": "app-loaded"},
        __lowstate__=[config, service],
    )
    assert module.loaded("app") == {
        "name": "app",
        "result": expected,
        "changes": {"not loaded": ["/etc/app.cfg"]},
        "comment": "app has not loaded /etc/app.cfg yet",
    }
