"""The command line: what it accepts, what it prints, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError

import localcloud.engine
import localcloud.image
import localcloud.service
from plainpillar import DEPLOYMENT
from stackctl import (
    arguments,
    cli,
    initialise,
    limits,
    local,
    logs,
    preflight,
    salt,
    status,
    teardown,
    up,
)
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError, StackError
from stackctl.inventory import Thing
from stackctl.teardown import Doomed

VERBS = [
    "init", "plan", "up", "launch", "backup", "restore", "scale", "reboot", "upgrade", "replace",
    "down", "unlock", "status", "cost", "exec", "salt", "logs", "secrets", "master",
]  # fmt: skip
ACTIONS = [
    "init",
    "list",
    "show",
    "set",
    "edit",
    "check",
    "continue",
    "recipients",
    "share",
    "unshare",
    "rotate",
]
OF_MASTER = ["backup", "backups", "restore", "rotate-keys", "rotate-own-key"]


@pytest.fixture(autouse=True)
def here(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the command work on a checkout of the test's own, which has a deployment `prod`."""
    monkeypatch.setattr(cli, "repository_root", lambda: checkout)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("STACK_HTTPS_PORT", "STACK_API_PORT"):
        monkeypatch.delenv(name, raising=False)
    (checkout / "pillar" / "prod").mkdir()
    (checkout / "pillar" / "prod" / "settings.sls").write_text(
        "settings: {base_url: 'https://airflow.example.org'}\n"
    )
    return checkout


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def raising(error: Exception) -> Any:
    def verb(*_: object) -> int:
        raise error

    return verb


# -- usage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["completion"],
        *([verb] for verb in VERBS),
        *(["secrets", action] for action in ACTIONS),
        *(["master", action] for action in OF_MASTER),
    ],
)
def test_help(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*args, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: stackctl", *args]))


def test_every_verb_is_documented_and_implemented(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(cli.VERBS) == VERBS  # `completion` is no work on a deployment
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["destroy"],
        ["up", "--force"],
        ["exec"],
        ["exec", "web-1"],
        ["salt"],
        ["master"],
        ["master", "backup", "--from", "x"],
        ["secrets"],
        ["secrets", "rotate"],
        ["secrets", "rotate", "--all", "redis-airflow"],
        ["secrets", "show"],
        ["logs", "-n", "many"],
        ["secrets", "init", "--account", "12345678901"],
        ["logs", "-n", "-1"],
        ["up", "--on-failure", "ask"],
        ["launch", "web-1"],
        ["status", "web-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    assert "usage: stackctl" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_names_verbs_and_needs_no_checkout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setattr(cli, "repository_root", raising(AssertionError("it looked for a checkout")))
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*VERBS, *ACTIONS, *OF_MASTER, "--on-failure"))


def test_completion_for_bash_is_valid_and_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out + (
        'COMP_WORDS=(stackctl sta) COMP_CWORD=1\n_shtab_stackctl\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("status\n", "")


@pytest.mark.parametrize(
    "verb", [*([verb] for verb in ("up", "launch", "down", "status", "logs")), ["secrets", "list"]]
)
def test_deployment_option_is_accepted_before_and_after_verb(verb: list[str]) -> None:
    assert arguments.parser().parse_args(["-d", "prod", *verb]).deployment == "prod"
    assert arguments.parser().parse_args([*verb, "-d", "prod"]).deployment == "prod"
    assert arguments.parser().parse_args(verb).deployment == "local"


def test_options_of_remote_command_are_not_parsed() -> None:
    options = arguments.parser().parse_args(["exec", "web-1", "--", "journalctl", "-n", "5"])
    assert (options.machine, options.command) == ("web-1", ["journalctl", "-n", "5"])
    assert arguments.parser().parse_args(["salt", "--", "*", "test.ping"]).args == [
        "*",
        "test.ping",
    ]
    dump = ["runuser", "-u", "postgres", "--", "pg_dump", "airflow"]
    assert arguments.parser().parse_args(["exec", "postgres-1", "--", *dump]).command == dump, (
        "the second -- is runuser's"
    )


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [["up", "--dry-run"], ["status"], ["logs"], ["secrets", "list"], ["secrets", "rotate", "x"]],
)
def test_unknown_deployment_is_an_error(
    capsys: pytest.CaptureFixture[str], here: Path, args: list[str]
) -> None:
    before = files(here)
    assert cli.main(["-d", "nope", *args]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        printed.err == "error: pillar/nope/settings.sls does not exist."
        " Run: stackctl secrets init -d nope --account 123456789012\n"
    )
    assert files(here) == before


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (
            StackError("web-1: [salt.state] failed [/dev/null].", "See: [docs]"),
            "error: web-1: [salt.state] failed [/dev/null]. See: [docs]\n",
        ),
        (
            NoCredentialsError(),
            (
                "error: Unable to locate credentials. aws sts get-caller-identity must answer"
                " first; then run the same command again: it goes on from here.\n"
            ),
        ),
    ],
)
def test_errors_are_printed_verbatim(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    printed: str,
) -> None:
    monkeypatch.setitem(cli.VERBS, "status", raising(error))
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err == printed


def test_interrupt_exits_with_130_and_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "status", interrupted)
    assert cli.main(["status"]) == 130
    assert "Run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        (["-d", "Prod", "status"], "'Prod' is no name for a deployment"),
        (["--map", "/tmp/large", "status"], "There is no map '/tmp/large'"),
        (["launch"], "The local cloud does not run. Bring the stack up first: make up"),
        (["status"], "The local cloud does not run. Bring the stack up first: make up"),
        (["exec", "web-1", "true"], "The local cloud does not run."),
        (["logs"], "There is no log of an `up` yet. Run: make up"),
        (
            ["logs", "mail-1"],
            "'mail-1' is of no known role. Roles: salt, lb, web, postgres, redis, monitor.",
        ),
        (["logs", "--all", "mail-1"], "'mail-1' is of no known role."),
        (
            ["logs", "--all"],
            "The map small has no machine that keeps the logs of all. The map production has;",
        ),
        (["logs", "web-1", "web-2"], "Several machines are searched with --all."),
        (["logs", "--grep", "x"], "Search where? Name a machine, or add --all."),
        (
            ["secrets", "show", "airflow-admin"],
            "There is no secret 'airflow-admin'. There are: none.",
        ),
    ],
)
def test_impossible_request_is_an_error(
    capsys: pytest.CaptureFixture[str], args: list[str], printed: str
) -> None:
    assert cli.main(args) == 1
    assert f"error: {printed}" in capsys.readouterr().err


# -- secrets ---------------------------------------------------------------------------------------


@pytest.fixture
def initialised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses and accounts for which secrets were to be made; none are made."""
    urls: list[str] = []

    def record(
        _deployment: object, url: str, _rotate: frozenset[str], account: str | None, **_: object
    ) -> list[str]:
        urls.append(f"{url} in {account}" if account else url)
        return []

    monkeypatch.setattr(initialise, "initialise", record)
    return urls


def test_init_refuses_address_that_differs_from_settings(
    capsys: pytest.CaptureFixture[str], initialised: list[str]
) -> None:
    assert (
        cli.main(["secrets", "init", "-d", "prod", "--base-url", "https://other.example.org"]) == 1
    )
    printed = capsys.readouterr().err
    assert (
        "has the address https://airflow.example.org already."
        " Change base_url in pillar/prod/settings.sls" in printed
    )
    assert "stackctl secrets rotate edge-tls -d prod" in printed
    assert initialised == []


@pytest.mark.parametrize(
    ("args", "url"),
    [
        (["init", "-d", "prod"], "https://airflow.example.org"),
        (
            ["init", "-d", "prod", "--base-url", "https://airflow.example.org"],
            "https://airflow.example.org",
        ),
        (["rotate", "-d", "prod", "edge-tls"], "https://airflow.example.org"),
        (["rotate", "-d", "prod", "--all"], "https://airflow.example.org"),
        (["init", "-d", "new", "--base-url", "https://new.example.org"], "https://new.example.org"),
        (["init"], "https://127.0.0.1:8443"),
    ],
)
def test_secrets_are_made_for_address_of_settings(
    initialised: list[str], args: list[str], url: str
) -> None:
    assert cli.main(["secrets", *args]) == 0
    assert initialised == [url]


def test_init_of_new_deployment_needs_account_or_address(
    capsys: pytest.CaptureFixture[str], initialised: list[str]
) -> None:
    assert cli.main(["secrets", "init", "-d", "new"]) == 1
    printed = capsys.readouterr().err
    assert "'new' is new, and its AWS account is not known." in printed
    assert "Run: stackctl secrets init -d new --account" in printed
    assert initialised == []


def test_init_passes_account_on(initialised: list[str]) -> None:
    args = [
        "secrets",
        "init",
        "-d",
        "new",
        "--base-url",
        "https://new.example.org",
        "--account",
        "012345678901",
    ]
    assert cli.main(args) == 0
    assert initialised == ["https://new.example.org in 012345678901"]


def test_init_refuses_another_account(
    capsys: pytest.CaptureFixture[str], here: Path, initialised: list[str]
) -> None:
    settings = "settings: {base_url: 'https://airflow.example.org', aws_account: '111111111111'}\n"
    (here / "pillar" / "prod" / "settings.sls").write_text(settings)
    assert cli.main(["secrets", "init", "-d", "prod", "--account", "222222222222"]) == 1
    assert "'prod' lives in the AWS account 111111111111 already." in capsys.readouterr().err
    assert cli.main(["secrets", "init", "--account", "111111111111"]) == 1
    assert "'local' lives on this machine" in capsys.readouterr().err
    assert initialised == []
    assert cli.main(["secrets", "init", "-d", "prod", "--account", "111111111111"]) == 0


# -- up --------------------------------------------------------------------------------------------


def test_dry_run_prints_steps_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "check_host", lambda _: None)
    before = files(here)
    assert cli.main(["up", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert (
        "deployment local, map small: salt-1, lb-1, postgres-1, redis-1, web-1, web-2 in eu-west-1"
        in printed.replace("\n", " ")
    )
    assert "start the Docker engine" in printed
    assert "start the local EC2 API on port 5566" in printed
    assert files(here) == before


def test_dry_run_checks_the_host(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("check_programs", "check_docker", "check_disk", "check_network", "check_port"):
        monkeypatch.setattr(preflight, name, lambda *_: None)
    monkeypatch.setattr(preflight, "available_memory", lambda: preflight.GIB)
    before = files(here)
    assert cli.main(["up", "--dry-run"]) == 1
    assert "1.0 GiB of memory are free" in capsys.readouterr().err
    assert files(here) == before


def test_each_failed_check_stops_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        "check_programs",
        "check_docker",
        "check_memory",
        "check_disk",
        "check_network",
        "check_port",
    )
    for name in checks:
        monkeypatch.setattr(preflight, name, lambda *_: None)
    assert cli.main(["up", "--dry-run"]) == 0
    for name in checks:
        with monkeypatch.context() as patch:
            patch.setattr(preflight, name, raising(PreflightError(name)))
            assert cli.main(["up", "--dry-run"]) == 1


@pytest.mark.parametrize(
    ("settings", "code"),
    [("{}", 1), ("{operator_cidrs: []}", 1), ("{operator_cidrs: [198.51.100.7/32]}", 0)],
)
def test_up_refuses_real_account_without_operator_cidrs(
    capsys: pytest.CaptureFixture[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    code: int,
) -> None:
    monkeypatch.setattr(up, "list_machines", lambda *_: {})
    monkeypatch.setattr(up, "find_machines", lambda *_: [])
    monkeypatch.setattr(limits, "check", lambda *_: [])
    monkeypatch.setattr(preflight, "check_account", lambda _: None)
    (here / "pillar" / "prod" / "settings.sls").write_text(f"settings: {settings}\n")
    assert cli.main(["up", "--dry-run", "-d", "prod"]) == code
    printed = capsys.readouterr()
    if code:
        assert (
            "pillar/prod/settings.sls names no operator_cidrs: nobody could reach salt-1."
            in printed.err
        )
        assert printed.out == ""
    else:
        assert "launch salt-1" in printed.out


def test_up_prints_address_user_and_password_command(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cli, "up", lambda *_, **__: up.Result("https://127.0.0.1:8443", changed=False)
    )
    path = here / "pillar" / "base" / "airflow.sls"
    path.write_text(path.read_text().replace("username: admin", "username: root"))
    assert cli.main(["up"]) == 0
    printed = capsys.readouterr().out
    assert "Nothing changed" in printed
    how = ".venv/bin/stackctl secrets show airflow-admin"
    assert f"Airflow is up: https://127.0.0.1:8443 · user root · password: {how}\n" in printed


@pytest.mark.parametrize(
    "args",
    [
        ["up"],
        ["up", "--dry-run"],
        ["launch"],
        ["launch", "--dry-run"],
        ["status"],
        ["exec", "web-1", "true"],
        ["salt", "*", "test.ping"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("client")
def test_verbs_refuse_credentials_of_another_account(
    capsys: pytest.CaptureFixture[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
) -> None:
    touched = raising(AssertionError("it was touched"))
    for module, name in (
        (up, "ec2_client"),
        (salt, "apply_locally"),
        (cli, "ec2_client"),
        (status, "ec2_client"),
    ):
        monkeypatch.setattr(module, name, touched)
    monkeypatch.setattr(preflight, "check_programs", lambda: None)
    settings = "settings: {operator_cidrs: [198.51.100.7/32], aws_account: '210987654321'}\n"
    (here / "pillar" / "prod" / "settings.sls").write_text(settings)
    assert cli.main(["-d", "prod", *args]) == 1
    assert "and prod lives in 210987654321 (pillar/prod/settings.sls)" in capsys.readouterr().err


# -- down ------------------------------------------------------------------------------------------


VOLUME = Thing("volume", "vol-1", "postgres-1", {"Size": 10})
VPC = Thing("vpc", "vpc-1", "airflow-stack-prod")


@pytest.fixture
def teardowns(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each run of `down` in an account destroys data; nothing is destroyed in truth."""
    runs: list[bool] = []

    def doomed(_: Deployment, *, with_data: bool) -> Doomed:
        data = [VOLUME]
        return Doomed([VPC, *(data if with_data else [])], [] if with_data else data, [])

    def destroy(one: Deployment, *_: object, with_data: bool, **__: object) -> Doomed:
        runs.append(with_data)
        return doomed(one, with_data=with_data)

    monkeypatch.setattr(teardown, "doomed", doomed)
    monkeypatch.setattr(teardown, "destroy", destroy)
    return runs


def terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Have somebody at a terminal type an answer."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)


def test_down_of_an_account_shows_and_destroys_nothing_in_a_dry_run(
    capsys: pytest.CaptureFixture[str], here: Path, teardowns: list[bool]
) -> None:
    before = files(here)
    assert cli.main(["down", "-d", "prod", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "destroy vpc vpc-1 airflow-stack-prod" in printed
    assert "keep volume vol-1 postgres-1 of 10 GB: it holds data" in printed
    assert (teardowns, files(here)) == ([], before)


def test_down_of_an_account_asks_for_the_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, teardowns: list[bool]
) -> None:
    assert cli.main(["down", "-d", "prod"]) == 1
    assert "nobody can be asked whether prod shall be. If it shall, add --yes" in (
        capsys.readouterr().err
    )
    terminal(monkeypatch, "y")
    assert cli.main(["down", "-d", "prod"]) == 1
    assert "Nothing was destroyed: that is not prod." in capsys.readouterr().err
    assert teardowns == []
    terminal(monkeypatch, "prod")
    assert cli.main(["down", "-d", "prod"]) == 0
    assert teardowns == [False]
    assert "left in the account: volume vol-1 postgres-1 of 10 GB" in capsys.readouterr().out


def test_down_of_an_account_needs_no_question_and_takes_data_if_told(
    capsys: pytest.CaptureFixture[str], here: Path, teardowns: list[bool]
) -> None:
    assert cli.main(["down", "-d", "prod", "--yes", "--with-data"]) == 0
    assert teardowns == [True]
    assert "left in the account: nothing" in capsys.readouterr().out
    assert (here / "pillar" / "prod" / "settings.sls").is_file()


def test_down_of_an_empty_account_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, teardowns: list[bool]
) -> None:
    monkeypatch.setattr(teardown, "doomed", lambda *_, **__: Doomed([], [], []))
    assert cli.main(["down", "-d", "prod"]) == 0
    assert capsys.readouterr().out == "Nothing of prod is left in the account.\n"
    assert teardowns == []


def test_down_removes_keys_and_no_other_deployment(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destroyed: list[str] = []
    monkeypatch.setattr(localcloud.engine, "stop_if_ours", lambda: False)
    monkeypatch.setattr(
        localcloud.service, "destroy", lambda config, _: destroyed.append(config.name)
    )
    for folder in (
        here / ".stack" / "local" / "ssh",
        here / ".stack" / "prod",
        here / "pillar" / "local",
    ):
        folder.mkdir(parents=True)
    assert cli.main(["down", "--dry-run"]) == 0
    assert "Would remove" in capsys.readouterr().out
    assert (here / ".stack" / "local" / "ssh").is_dir()
    assert cli.main(["down"]) == 0
    assert not (here / ".stack" / "local").exists()
    assert not (here / "pillar" / "local").exists()
    assert destroyed == [local.cloud_name(Deployment("local", here))]
    assert (here / ".stack" / "prod").is_dir()
    assert (here / "pillar" / "prod" / "settings.sls").is_file()


# -- logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "printed"), [(0, ""), (2, "[two] ✓\n[/three]\n"), (9, "one\n[two] ✓\n[/three]\n")]
)
def test_logs_prints_last_lines_of_up(
    capsys: pytest.CaptureFixture[str], here: Path, lines: int, printed: str
) -> None:
    folder = here / ".stack" / "local" / "log"
    folder.mkdir(parents=True)
    (folder / "up.log").write_text("one\n[two] ✓\n[/three]\n")
    assert cli.main(["logs", "-n", str(lines)]) == 0
    assert capsys.readouterr().out == printed


SEARCH = f"journalctl --directory={logs.STORE} --output=short-iso --no-pager"


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["web-1"], ("web-1", "journalctl --no-pager -n 50 -u airflow")),
        (
            ["web-1", "-n", "5", "--unit", "nginx", "--since=-1h", "--grep", "it's"],
            (
                "web-1",
                "journalctl --no-pager -n 5 --since=-1h '--grep=it'\"'\"'s' -u nginx",
            ),
        ),
        (
            ["--all"],
            (
                "monitor-1",
                f"{SEARCH} -n 50",
            ),
        ),
        (
            ["--all", "web-9", "lb-1", "--unit", "haproxy", "--grep", "$(id)"],
            (
                "monitor-1",
                f"{SEARCH} -n 50 '--grep=$(id)' -u haproxy _HOSTNAME=web-9 _HOSTNAME=lb-1",
            ),
        ),
    ],
    ids=["machine", "search", "all", "some"],
)
def test_logs_are_searched_where_they_are(
    remote: list[tuple[str, bool]],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    asked: tuple[str, str],
) -> None:
    del remote
    ran: list[tuple[str, str]] = []

    def note(_deployment: Deployment, _verb: str, name: str, line: str) -> int:
        ran.append((name, line))
        return 0

    monkeypatch.setattr(cli, "_remote", note)
    monkeypatch.setattr(cli, "_require_remembered_map", lambda _: None)
    assert cli.main(["--map", "production", "logs", *args]) == 0
    assert ran == [asked]


def test_store_is_where_the_receiver_writes() -> None:
    unit = DEPLOYMENT.root / "salt/journal_remote/files/journal-remote.service.j2"
    assert f"--output={logs.STORE}/" in unit.read_text()


# -- exec ------------------------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The commands for machines, in place of running them, and whether they get a terminal."""
    ran: list[tuple[str, bool]] = []

    def run(_deployment: object, _verb: str, name: str, command: str, *, tty: bool = False) -> int:
        ran.append((f"{name}: {command}", tty))
        return 0

    monkeypatch.setattr(cli, "_remote", run)
    return ran


def test_exec_takes_shell_line_or_program_with_args(remote: list[tuple[str, bool]]) -> None:
    assert cli.main(["exec", "web-1", "--", "ps | wc -l"]) == 0
    assert cli.main(["exec", "web-1", "--", "echo", "a b"]) == 0
    assert cli.main(["salt", "--", "*", "test.ping"]) == 0
    assert [command for command, _ in remote] == [
        "web-1: ps | wc -l",
        "web-1: echo 'a b'",
        "salt-1: salt '*' test.ping",
    ]


@pytest.mark.parametrize("stdin", [True, False])
@pytest.mark.parametrize("stdout", [True, False])
def test_exec_asks_for_terminal_only_when_stdin_and_stdout_are_one(
    remote: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch, *, stdin: bool, stdout: bool
) -> None:
    for name, is_terminal in (("stdin", stdin), ("stdout", stdout)):
        monkeypatch.setattr(getattr(sys, name), "isatty", lambda answer=is_terminal: answer)
    assert cli.main(["exec", "postgres-1", "--", "pg_dump"]) == 0
    assert remote == [("postgres-1: pg_dump", stdin and stdout)]
