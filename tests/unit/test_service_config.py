"""The modules `service_config`: configuration files that a running service has not loaded."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from plainpillar import PlainPillar
from rendering import Compiler
from saltmodules import TREE, load

# In place of the execution module: nothing has been loaded, and a reload is a file of its own.
NOTHING_LOADED = """
def not_loaded(unit, files, reload=False):
    return [*files, *(["reload"] if reload else [])]

def drop_in(unit, starts, reloads):
    return ""
"""
RECORDER = TREE / "base/files/record-loaded.sh"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Name -> path: a file, a link to nowhere, and nothing at all."""
    (tmp_path / "file").write_text("max 10\n")
    (tmp_path / "link").symlink_to("release-1\tbeta")
    return {name: str(tmp_path / name) for name in ("file", "link", "absent")}


def record(tmp_path: Path, *paths: str, name: str = "app.start") -> None:
    """Do what the unit does when it starts."""
    environment = {"RECORDS": str(tmp_path / "records"), "PATH": os.environ["PATH"]}
    subprocess.run(["sh", RECORDER, name, *paths], check=True, env=environment)


def not_loaded(
    tmp_path: Path, files: Mapping[str, str], *, state: str = "active", reload: bool = False
) -> set[str]:
    """Return the names of the files that the unit `app` has not loaded."""

    def systemctl(command: list[str], *, python_shell: bool) -> str:
        assert not python_shell
        assert command[-1] == "app"
        return state

    module = load("_modules", "service_config", __salt__={"cmd.run_stdout": systemctl})
    options = {"reload": True} if reload else {}
    records = str(tmp_path / "records")
    found = module.not_loaded("app", list(files.values()), records=records, **options)
    return {Path(path).name for path in found}


def test_recorded_files_are_loaded_whatever_their_times(
    tmp_path: Path, files: dict[str, str]
) -> None:
    record(tmp_path, *files.values())
    for moment in (0, 2**32):
        for name in ("file", "link"):
            os.utime(files[name], (moment, moment), follow_symlinks=False)
        assert not_loaded(tmp_path, files) == set()


def test_every_change_is_found_at_the_same_time(tmp_path: Path, files: dict[str, str]) -> None:
    record(tmp_path, *files.values())
    before = Path(files["file"]).stat()
    Path(files["file"]).write_text("max 11\n")
    os.utime(files["file"], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not_loaded(tmp_path, files) == {"file"}
    Path(files["file"]).unlink()
    Path(files["link"]).unlink()
    Path(files["link"]).symlink_to("release-2")
    Path(files["absent"]).touch()
    assert not_loaded(tmp_path, files) == {"file", "link", "absent"}


@pytest.mark.parametrize("state", ["inactive", "failed", "activating"])
def test_unit_that_does_not_run_loads_at_its_start(
    tmp_path: Path, files: dict[str, str], state: str
) -> None:
    assert not_loaded(tmp_path, files, state=state) == set()
    assert not_loaded(tmp_path, files) == {"file", "link", "absent"}


def test_start_and_reload_have_a_record_each(tmp_path: Path, files: dict[str, str]) -> None:
    record(tmp_path, *files.values(), name="app.reload")
    assert not_loaded(tmp_path, files, reload=True) == set()
    assert not_loaded(tmp_path, files) == {"file", "link", "absent"}


def test_units_that_run_with_older_files_are_told(tmp_path: Path, files: dict[str, str]) -> None:
    records = str(tmp_path / "records")
    states = {"app": "active", "idle": "inactive", "fresh": "active", "both@1": "active"}
    for unit in ("app", "idle"):
        record(tmp_path, *files.values(), name=f"{unit}.start")
    record(tmp_path, files["link"], name="both@1.start")
    record(tmp_path, files["file"], files["absent"], name="both@1.reload")
    module = load(
        "_modules",
        "service_config",
        __salt__={"cmd.run_stdout": lambda command, **_: states[command[-1]]},
    )
    assert module.outdated(records) == {}
    Path(files["file"]).write_text("max 11\n")
    Path(files["link"]).unlink()
    record(tmp_path, *files.values(), name="fresh.start")
    assert module.outdated(records) == {
        "app": [files["file"], files["link"]],
        "both@1": [files["file"], files["link"]],
    }
    assert module.outdated(str(tmp_path / "none")) == {}


def test_record_that_cannot_be_written_is_no_record(tmp_path: Path, files: dict[str, str]) -> None:
    """The record of the last start would be taken for the one of this start."""
    record(tmp_path, *files.values())
    with pytest.raises(subprocess.CalledProcessError):
        record(tmp_path, files["file"], str(tmp_path))
    assert not_loaded(tmp_path, files) == {"file", "link", "absent"}


def test_other_users_cannot_read_a_record(tmp_path: Path, files: dict[str, str]) -> None:
    """A digest of a short secret tells the secret."""
    record(tmp_path, *files.values())
    assert (tmp_path / "records/app.start").stat().st_mode & 0o077 == 0


def test_unit_records_what_start_and_reload_load() -> None:
    module = load("_modules", "service_config")
    lines = module.drop_in("app@1", ["/a", "/b"], ["/c"]).replace(" \\\n    ", " ").splitlines()
    recorder = f"-+{module.RECORDER}"
    assert lines[lines.index("[Service]") + 1 :] == [
        f"ExecStartPre={recorder} app@1.start /a /b",
        f"ExecStartPre={recorder} app@1.reload /c",
        f"ExecReload={recorder} app@1.reload /c",
    ]
    assert "ExecReload" not in module.drop_in("app", ["/a"], [])
    assert ".start" not in module.drop_in("app", [], ["/a"])


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
        (tmp_path / "minion/modules/service_config.py").write_text(NOTHING_LOADED)
        compiler.opts["test"] = True  # the states write nothing on this host
        compiler.opts["file_roots"] = {"base": [str(TREE), str(tmp_path)]}
        compiled = compiler.states(sls, "planted")
        assert compiled.errors == []
        answers = Answers()
        for chunk in compiled.chunks:
            if chunk["state"] == "service_config":
                result = compiler.call(chunk, compiled.chunks)
                if result["result"] is False:
                    answers.errors[chunk["__id__"]] = result["comment"]
                else:
                    answers.files[chunk["__id__"]] = result["changes"]["not loaded"]
        return answers

    return run


AIRFLOW_FILES = [
    "/opt/airflow/current",
    "/etc/airflow/airflow.cfg",
    "/etc/airflow/environment",
    "/etc/airflow/secrets.env",
    "/etc/airflow/webserver_config.py",
    "/etc/airflow/airflow_local_settings.py",
    "/etc/airflow/web_worker.py",
    "/etc/airflow/web_queue.py",
    "/etc/airflow/web_answers.py",
    "/etc/airflow/web_auth.py",
    "/etc/systemd/system/airflow.service",
]

# The same states bring nginx, in front of it.
NGINX_FILES = {
    "nginx-unit-loaded": ["/etc/systemd/system/nginx.service"],
    "nginx-config-loaded": [
        *(f"/etc/nginx/tls/{name}.pem" for name in ("ca", "certificate", "key")),
        "/etc/nginx/nginx.conf",
        "reload",
    ],
}

# And what leads to the stores, whose names are the base's.
STORES_FILES = {
    "base-journal-loaded": ["/etc/systemd/journald.conf.d/stack.conf"],
    "base-ssh-loaded": ["/etc/ssh/sshd_config.d/00-stack.conf", "reload"],
    "stores-unit-loaded": ["/etc/systemd/system/haproxy.service.d/stack.conf"],
    "stores-config-loaded": ["/etc/haproxy/haproxy.cfg", "/etc/haproxy/ca.pem", "reload"],
}


def test_watched_files_are_compared(ask: Callable[..., Answers]) -> None:
    answers = ask("web-1", "airflow")
    expected = {"airflow-config-loaded": AIRFLOW_FILES, **NGINX_FILES, **STORES_FILES}
    assert answers == Answers(expected)


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
    assert answers.files["airflow-config-loaded"] == [*AIRFLOW_FILES, "/etc/airflow/planted.cfg"]


def test_reload_comes_from_the_watching_service(ask: Callable[..., Answers]) -> None:
    files = ask("postgres-1", "postgres").files
    assert files["postgres-unit-loaded"] == ["/etc/systemd/system/patroni.service.d/stack.conf"]
    tls = [f"/etc/postgresql/tls/{name}.pem" for name in ("ca", "certificate", "key")]
    assert files["postgres-config-loaded"] == ["/etc/patroni/config.yml", *tls, "reload"]


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


CHUNKS: list[dict[str, Any]] = [
    {"state": "file", "name": "/etc/app.cfg", "__id__": "app-config"},
    {"state": "file", "name": "/etc/clients", "__id__": "app-clients"},
    {"state": "service_config", "name": "app", "__id__": "app-loaded"},
    {
        "state": "service",
        "name": "app",
        "__id__": "app-service",
        "watch": [{"service_config": "app-loaded"}, {"file": "app-config"}],
    },
    {"state": "service_config", "name": "app", "__id__": "app-clients-loaded"},
    {
        "state": "service",
        "name": "app",
        "__id__": "app-reload",
        "reload": True,
        "watch": [{"service_config": "app-clients-loaded"}, {"file": "app-clients"}],
    },
]


@dataclass
class Minion:
    """What the state finds on a machine, and what it does there."""

    changed: list[str] = field(default_factory=list)
    written: dict[str, Any] = field(default_factory=lambda: {"result": True, "changes": {}})
    done: list[Any] = field(default_factory=list)

    def loaded(self, *, test: bool = False, own_id: str = "app-loaded") -> dict[str, Any]:
        """Run the state."""

        def managed(path: str, **options: Any) -> dict[str, Any]:
            assert options["makedirs"], "systemd makes no folder for drop-ins"
            self.done.append((path, options["contents"]))
            return {"comment": "as file.managed says", **self.written}

        module = load(
            "_states",
            "service_config",
            __opts__={"test": test},
            __states__={"file.managed": managed},
            __salt__={
                "service_config.not_loaded": lambda *_, **__: self.changed,
                "service_config.drop_in": lambda *args: args,
                "service.systemctl_reload": lambda: self.done.append("daemon-reload"),
            },
            __low__=next(chunk for chunk in CHUNKS if chunk["__id__"] == own_id),
            __lowstate__=CHUNKS,
        )
        result: dict[str, Any] = module.loaded("app")
        return result


@pytest.mark.parametrize(("test", "expected"), [(True, None), (False, True)])
def test_file_that_is_not_loaded_is_reported(*, test: bool, expected: bool | None) -> None:
    assert Minion(["/etc/app.cfg"]).loaded(test=test) == {
        "name": "app",
        "result": expected,
        "changes": {"not loaded": ["/etc/app.cfg"]},
        "comment": "app has not loaded /etc/app.cfg yet",
    }


@pytest.mark.parametrize("own_id", ["app-loaded", "app-clients-loaded"])
def test_one_drop_in_records_for_all_states_of_a_unit(own_id: str) -> None:
    minion = Minion()
    found = minion.loaded(own_id=own_id)
    assert (found["result"], found["changes"]) == (True, {})
    path = "/etc/systemd/system/app.service.d/loaded.conf"
    assert minion.done == [(path, ("app", ["/etc/app.cfg"], ["/etc/clients"]))]


@pytest.mark.parametrize(("test", "expected"), [(True, None), (False, True)])
def test_new_drop_in_is_known_to_systemd_before_the_restart(
    *, test: bool, expected: bool | None
) -> None:
    minion = Minion(written={"result": expected, "changes": {"newfile": "x"}})
    found = minion.loaded(test=test)
    assert (found["result"], found["changes"]) == (expected, {"recorder": {"newfile": "x"}})
    assert minion.done[1:] == ([] if test else ["daemon-reload"])


def test_drop_in_that_cannot_be_written_fails() -> None:
    found = Minion(["/etc/app.cfg"], {"result": False, "changes": {}}).loaded()
    assert (found["result"], found["comment"]) == (False, "as file.managed says")
