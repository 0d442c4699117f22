"""The command line: what it accepts, what it says, and how it ends."""

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
from stackctl import arguments, cli, initialise, local, preflight, salt, status, up
from stackctl.deployment import Deployment
from stackctl.errors import PreflightError, StackError

VERBS = ["up", "launch", "down", "status", "exec", "salt", "logs", "secrets"]
ACTIONS = ["init", "list", "show", "rotate"]


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
    "words",
    [[], ["completion"], *([verb] for verb in VERBS), *(["secrets", action] for action in ACTIONS)],
)
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: stackctl", *words]))


def test_every_verb_is_documented_and_does_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(cli.VERBS) == VERBS  # `completion` is no work on a deployment
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    "words",
    [[], ["destroy"], ["up", "--force"], ["exec"], ["exec", "web-1"], ["salt"], ["secrets"], ["secrets", "rotate"],
     ["secrets", "show"], ["logs", "-n", "many"],
     ["secrets", "init", "--account", "12345678901"], ["logs", "-n", "-1"], ["up", "--on-failure", "ask"],
     ["launch", "web-1"], ["status", "web-1"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage: stackctl" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_names_verbs_and_needs_no_checkout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setattr(cli, "repository_root", raising(AssertionError("it looked for a checkout")))
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*VERBS, *ACTIONS, "--on-failure"))


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
def test_the_deployment_is_taken_before_and_behind_the_verb(verb: list[str]) -> None:
    assert arguments.parser().parse_args(["-d", "prod", *verb]).deployment == "prod"
    assert arguments.parser().parse_args([*verb, "-d", "prod"]).deployment == "prod"
    assert arguments.parser().parse_args(verb).deployment == "local"


def test_a_commands_own_options_are_left_to_it() -> None:
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
    "words",
    [["up", "--dry-run"], ["status"], ["logs"], ["secrets", "list"], ["secrets", "rotate", "x"]],
)
def test_an_unknown_deployment_is_one_sentence(
    capsys: pytest.CaptureFixture[str], here: Path, words: list[str]
) -> None:
    before = files(here)
    assert cli.main(["-d", "nope", *words]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        told.err
        == "error: pillar/nope/settings.sls does not exist. Run: stackctl secrets init -d nope\n"
    )
    assert files(here) == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StackError("web-1: [salt.state] failed [/dev/null].", "See: [docs]"),
         "error: web-1: [salt.state] failed [/dev/null]. See: [docs]\n"),
        (NoCredentialsError(), "error: Unable to locate credentials\n"),
    ],
)  # fmt: skip
def test_errors_are_told_word_for_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    monkeypatch.setitem(cli.VERBS, "status", raising(error))
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err == told


def test_an_interruption_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "status", interrupted)
    assert cli.main(["status"]) == 130
    assert "Run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "told"), [
    (["-d", "Prod", "status"], "'Prod' is no name for a deployment"),
    (["--map", "/tmp/large", "status"], "There is no map '/tmp/large'"),
    (["launch"], "The local cloud does not run. Bring the stack up first: make up"),
    (["status"], "The local cloud does not run. Bring the stack up first: make up"),
    (["exec", "web-1", "true"], "The local cloud does not run."),
    (["logs"], "There is no log of an `up` yet. Run: make up"),
    (["logs", "mail-1"], "'mail-1' is of no known role. Roles: salt, lb, web, postgres, redis."),
    (["secrets", "show", "airflow-admin"], "There is no secret 'airflow-admin'. There are: none."),
])  # fmt: skip
def test_what_cannot_be_done_is_told(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert cli.main(words) == 1
    assert f"error: {told}" in capsys.readouterr().err


# -- secrets ---------------------------------------------------------------------------------------


@pytest.fixture
def initialised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses with which secrets were made, and the account if any, in place of making them."""
    urls: list[str] = []

    def record(
        _deployment: object, url: str, _rotate: frozenset[str], account: str | None
    ) -> list[str]:
        urls.append(f"{url} in {account}" if account else url)
        return []

    monkeypatch.setattr(initialise, "initialise", record)
    return urls


def test_an_address_that_the_settings_contradict_is_not_passed_over(
    capsys: pytest.CaptureFixture[str], initialised: list[str]
) -> None:
    assert (
        cli.main(["secrets", "init", "-d", "prod", "--base-url", "https://other.example.org"]) == 1
    )
    told = capsys.readouterr().err
    assert (
        "has the address https://airflow.example.org already. Change base_url in pillar/prod/settings.sls"
        in told
    )
    assert "stackctl secrets rotate edge-tls -d prod" in told
    assert initialised == []


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (["init", "-d", "prod"], "https://airflow.example.org"),
        (
            ["init", "-d", "prod", "--base-url", "https://airflow.example.org"],
            "https://airflow.example.org",
        ),
        (["rotate", "-d", "prod", "edge-tls"], "https://airflow.example.org"),
        (["init", "-d", "new", "--base-url", "https://new.example.org"], "https://new.example.org"),
        (["init"], "https://127.0.0.1:8443"),
    ],
)
def test_secrets_are_made_for_the_address_of_the_settings(
    initialised: list[str], words: list[str], url: str
) -> None:
    assert cli.main(["secrets", *words]) == 0
    assert initialised == [url]


def test_a_new_deployment_needs_its_address(
    capsys: pytest.CaptureFixture[str], initialised: list[str]
) -> None:
    assert cli.main(["secrets", "init", "-d", "new"]) == 1
    assert "A new deployment needs its address. Add: --base-url" in capsys.readouterr().err
    assert initialised == []


def test_a_new_deployment_is_bound_to_its_account(initialised: list[str]) -> None:
    words = [
        "secrets",
        "init",
        "-d",
        "new",
        "--base-url",
        "https://new.example.org",
        "--account",
        "012345678901",
    ]
    assert cli.main(words) == 0
    assert initialised == ["https://new.example.org in 012345678901"]


def test_no_option_moves_a_deployment_to_another_account(
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


def test_a_dry_run_says_what_up_would_do_and_touches_nothing(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "check_host", lambda _: None)
    before = files(here)
    assert cli.main(["up", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert (
        "deployment local: salt-1, lb-1, postgres-1, redis-1, web-1, web-2 in eu-west-1"
        in told.replace("\n", " ")
    )
    assert "start the Docker engine" in told
    assert "start the local EC2 API on port 5566" in told
    assert files(here) == before


def test_a_dry_run_checks_the_host(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("check_programs", "check_docker", "check_disk", "check_network", "check_port"):
        monkeypatch.setattr(preflight, name, lambda *_: None)
    monkeypatch.setattr(preflight, "available_memory", lambda: preflight.GIB)
    before = files(here)
    assert cli.main(["up", "--dry-run"]) == 1
    assert "1.0 GiB of memory are free" in capsys.readouterr().err
    assert files(here) == before


def test_every_check_of_the_host_can_stop_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_real_account_that_nobody_could_reach_is_not_begun(
    capsys: pytest.CaptureFixture[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    code: int,
) -> None:
    monkeypatch.setattr(up, "list_machines", lambda _: {})
    monkeypatch.setattr(preflight, "check_account", lambda _: None)
    (here / "pillar" / "prod" / "settings.sls").write_text(f"settings: {settings}\n")
    assert cli.main(["up", "--dry-run", "-d", "prod"]) == code
    told = capsys.readouterr()
    if code:
        assert (
            "pillar/prod/settings.sls names no operator_cidrs: nobody could reach salt-1."
            in told.err
        )
        assert told.out == ""
    else:
        assert "launch salt-1" in told.out


def test_who_brought_the_site_up_is_told_how_to_log_in(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cli, "up", lambda *_, **__: up.Result("https://127.0.0.1:8443", changed=False)
    )
    path = here / "pillar" / "base" / "airflow.sls"
    path.write_text(path.read_text().replace("username: admin", "username: root"))
    assert cli.main(["up"]) == 0
    told = capsys.readouterr().out
    assert "Nothing changed" in told
    how = ".venv/bin/stackctl secrets show airflow-admin"
    assert f"Airflow is up: https://127.0.0.1:8443 · user root · password: {how}\n" in told


@pytest.mark.parametrize(
    "words",
    [["up"], ["up", "--dry-run"], ["launch"], ["launch", "--dry-run"], ["status"], ["exec", "web-1", "true"],
     ["salt", "*", "test.ping"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.usefixtures("client")
def test_another_account_is_not_touched(
    capsys: pytest.CaptureFixture[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
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
    assert cli.main(["-d", "prod", *words]) == 1
    assert "and prod lives in 210987654321 (pillar/prod/settings.sls)" in capsys.readouterr().err


# -- down ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["down"], ["down", "--dry-run"], ["down", "--keep-image"]])
def test_only_the_local_deployment_is_taken_down(
    capsys: pytest.CaptureFixture[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    monkeypatch.setattr(localcloud.service, "stop", raising(AssertionError("it went on")))
    before = files(here)
    assert cli.main([*words, "-d", "prod"]) == 1
    told = capsys.readouterr()
    assert "takes only the deployment 'local' away, not 'prod'" in told.err
    assert told.out == ""
    assert files(here) == before


def test_down_removes_the_keys_and_nothing_of_others(
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
    ("lines", "told"), [(0, ""), (2, "[two] ✓\n[/three]\n"), (9, "one\n[two] ✓\n[/three]\n")]
)
def test_the_last_lines_of_the_log(
    capsys: pytest.CaptureFixture[str], here: Path, lines: int, told: str
) -> None:
    folder = here / ".stack" / "local" / "log"
    folder.mkdir(parents=True)
    (folder / "up.log").write_text("one\n[two] ✓\n[/three]\n")
    assert cli.main(["logs", "-n", str(lines)]) == 0
    assert capsys.readouterr().out == told


# -- exec ------------------------------------------------------------------------------------------


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The commands that were to run on a machine, in place of running them, each with whether it gets a terminal."""
    ran: list[tuple[str, bool]] = []

    def run(_deployment: object, _verb: str, name: str, command: str, *, tty: bool = False) -> int:
        ran.append((f"{name}: {command}", tty))
        return 0

    monkeypatch.setattr(cli, "_remote", run)
    return ran


def test_one_word_is_a_shell_line_and_several_are_a_program(remote: list[tuple[str, bool]]) -> None:
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
def test_only_a_person_at_both_ends_gets_a_terminal(
    remote: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch, *, stdin: bool, stdout: bool
) -> None:
    for name, is_terminal in (("stdin", stdin), ("stdout", stdout)):
        monkeypatch.setattr(getattr(sys, name), "isatty", lambda answer=is_terminal: answer)
    assert cli.main(["exec", "postgres-1", "--", "pg_dump"]) == 0
    assert remote == [("postgres-1: pg_dump", stdin and stdout)]
