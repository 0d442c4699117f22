"""The execution module `airflow`: a site's health, removed releases, and which role does what."""

from __future__ import annotations

import json
import mmap
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from saltmodules import load
from stackctl.certificates import Authority
from tlsserver import Page, serving

NAME = "airflow.example.org"
URL = f"https://{NAME}/api/v2/monitor/health"
AUTHORITY = Authority.new("test")

airflow = load("_modules", "airflow")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`site(status, name)`: serve a health page over TLS; return its address and port."""
    with ExitStack() as servers:

        def serve(status: str = "healthy", name: str = NAME) -> str:
            class Health(Page):
                def answer(self) -> None:
                    self.send_response(
                        200 if self.headers["Host"] == NAME and self.path in URL else 404
                    )
                    self.end_headers()
                    self.wfile.write(json.dumps({"metadatabase": {"status": status}}).encode())

            certificate = AUTHORITY.server(name, [name])
            return f"127.0.0.1:{servers.enter_context(serving(Health, certificate, tmp_path))}"

        yield serve


def test_healthy_site_is_healthy_at_the_given_address(site: Callable[..., str]) -> None:
    assert airflow.healthy(URL, site(), AUTHORITY.certificate_pem)


def test_unhealthy_database_is_not_healthy(site: Callable[..., str]) -> None:
    assert not airflow.healthy(URL, site(status="unhealthy"), AUTHORITY.certificate_pem)


def test_certificate_of_other_name_is_not_healthy(site: Callable[..., str]) -> None:
    assert not airflow.healthy(URL, site(name="other.example.org"), AUTHORITY.certificate_pem)


def test_untrusted_certificate_is_not_healthy(site: Callable[..., str]) -> None:
    assert not airflow.healthy(URL, site())
    assert not airflow.healthy(URL, site(), Authority.new("other").certificate_pem)


def test_unreachable_site_is_not_healthy() -> None:
    assert not airflow.healthy(URL, "127.0.0.1:1", AUTHORITY.certificate_pem)


def test_socket_of_this_machine_is_asked(tmp_path: Path) -> None:
    class Health(Page):
        def answer(self) -> None:
            self.send_response(200 if (self.headers["Host"], self.path) == ("a", "/h") else 404)
            self.end_headers()
            self.wfile.write(b'{"metadatabase": {"status": "healthy"}}')

    path = str(tmp_path / "web.sock")
    assert not airflow.healthy("http://a/h", f"unix:{path}")
    with ThreadingUnixStreamServer(path, Health) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert airflow.healthy("http://a/h", f"unix:{path}")
        assert not airflow.healthy("http://b/h", f"unix:{path}")
        server.shutdown()


def test_prune_keeps_release_in_use(tmp_path: Path) -> None:
    for name in ("serving", "failed", "before", "wanted"):
        library = tmp_path / "releases" / name / "library.so"
        library.parent.mkdir(parents=True)
        library.write_bytes(b"x" * mmap.PAGESIZE)
    with (tmp_path / "releases/serving/library.so").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            assert airflow.prune(["wanted", "before"], str(tmp_path)) == ["failed"]
        assert airflow.prune(["wanted", "before"], str(tmp_path)) == ["serving"]
    assert airflow.releases(str(tmp_path)) == ["before", "wanted"]


# -- the roles of the database ---------------------------------------------------------------------


class Runs:
    """What the module has run: the command, the user, and the environment."""

    def __init__(self) -> None:
        self.all: list[tuple[list[str], str | None, dict[str, str]]] = []

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.all.append((command[1:], options["user"], options["env"]))
        return subprocess.CompletedProcess(command, 0, "{}", "")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The module with settings of its own, and with processes that do nothing."""
    for name, content in {
        "environment": "AIRFLOW_HOME='/var/lib/airflow'",
        "secrets.env": "CONN='postgresql://airflow:app-pass@db/airflow'",
        "command.env": "PGOPTIONS='-c statement_timeout=0'",
        "owner.env": "CONN='postgresql://airflow_owner:owner%2Dpass@db/airflow'",
    }.items():
        (tmp_path / name).write_text(f"{content}\n")
    settings = [str(tmp_path / name) for name in ("environment", "secrets.env")]
    monkeypatch.setattr(airflow, "SETTINGS", tuple(settings))
    monkeypatch.setattr(airflow, "COMMAND_SETTINGS", str(tmp_path / "command.env"))
    monkeypatch.setattr(airflow, "OWNER_SETTINGS", str(tmp_path / "owner.env"))
    runs = Runs()
    monkeypatch.setattr(airflow.subprocess, "run", runs)
    return runs


@pytest.mark.parametrize(
    ("work", "command"), [("migrate", ["db", "migrate"]), ("sync_permissions", ["sync-perm"])]
)
def test_owner_changes_the_schema(runs: Runs, work: str, command: list[str]) -> None:
    getattr(airflow, work)()
    ((arguments, user, environment),) = runs.all
    # Airflow loads plugins of the user airflow: it may not run as root.
    assert (arguments, user) == (command, "airflow")
    assert environment["CONN"].startswith("postgresql://airflow_owner:")
    assert environment["AIRFLOW_HOME"] == "/var/lib/airflow"


def test_owner_marks_as_root(runs: Runs) -> None:
    airflow.mark("permissions", "3.3.2-new")
    ((_, user, environment),) = runs.all
    # The web app runs meanwhile, and may not read the environment.
    assert user is None
    assert environment["CONN"].startswith("postgresql://airflow_owner:")


def test_application_role_does_everything_else(runs: Runs) -> None:
    airflow.serialize_dags()
    airflow.create_user("admin", "secret", {"role": "Admin"})
    airflow.reset_password("admin", "secret")
    airflow.database()
    assert {user for _, user, _ in runs.all} == {"airflow"}
    assert {environment["CONN"] for *_, environment in runs.all} == {
        "postgresql://airflow:app-pass@db/airflow"
    }
    # Commands may take longer than requests.
    assert ["PGOPTIONS" in environment for *_, environment in runs.all] == [True] * 3 + [False]


def test_missing_owner_names_the_state_that_makes_it(runs: Runs) -> None:
    Path(airflow.OWNER_SETTINGS).unlink()
    with pytest.raises(
        CommandExecutionError, match=r"owner\.env.*apply the state airflow\.migrate"
    ):
        airflow.migrate()
    airflow.serialize_dags()


def test_failure_hides_passwords_of_both_roles(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "app-pass, owner-pass and owner%2Dpass")

    monkeypatch.setattr(airflow.subprocess, "run", fail)
    with pytest.raises(CommandExecutionError, match=r"failed with 1: \*{3}, \*{3} and \*{3}$"):
        airflow.migrate()
