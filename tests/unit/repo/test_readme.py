"""The README's commands exist, in the order in which a reader of an empty clone needs them.

A clone of this checkout is walked section by section. What needs no machine runs, against an EC2 in
memory; of the rest, verbs, options, targets and programs are looked up. `stackctl` is not there
before a command that makes it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from cryptography import x509

import awsenvironment
from memorycloud import MemoryHost, Running, running
from stackctl.arguments import parser

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
README = ROOT / "README.md"
ACCOUNT = "123456789012"
HERE = "198.51.100.7"  # RFC 5737: where the reader comes from
# Which commands of a fresh clone make .venv.
MAKES_VENV = re.compile(r"scripts/bootstrap|make (?:up|status|test|down)\b")
# What runs as it stands. `stackctl` runs with these verbs; others need machines.
RUNS = {"export", "sed", "git"}
VERBS_THAT_RUN = re.compile(r"stackctl (?:init |plan |secrets |completion |up .*--dry-run)")

pytestmark = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("git", "gpg")),
    reason="git or gpg is not installed",
)


def section(title: str, document: Path = README) -> str:
    """Return a section of a document."""
    _, found, text = document.read_text().partition(f"\n## {title}\n")
    assert found, f"{document.name} has no section '{title}'"
    return text.partition("\n## ")[0]


def commands(text: str) -> list[str]:
    """Return the lines of a document's code blocks without comments."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+# .*", "", line).strip() for block in blocks for line in block.split("\n")]
    return [line for line in lines if line]


@dataclass
class Walk:
    """A reader's shell in a clone.

    Attributes:
        clone: the folder.
        environment: of the shell; `export` changes it.
        done: what the lines printed that ran.
    """

    clone: Path
    environment: dict[str, str]
    done: dict[str, str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """Run a line or look it up; raise AssertionError if it cannot work here and now."""
        program = shlex.split(line)[0]
        if MAKES_VENV.match(line):
            self._make_venv(line)
        elif program == "make":
            self.run(f"make --dry-run {line.removeprefix('make ')}")
        elif program == "aws" and "get-caller-identity" not in line:
            pass  # the command of Amazon; its options are Amazon's
        elif program in RUNS or program == "aws" or VERBS_THAT_RUN.match(line):
            self.run(line)
        else:
            self.run(f"command -v {program}")
            self._look_up(line)

    def _make_venv(self, line: str) -> None:
        """Do what `scripts/bootstrap` does, with the environment of this checkout."""
        if line.startswith("make "):
            rule = (self.clone / "Makefile").read_text()
            assert "$(BIN)/stackctl: uv.lock pyproject.toml scripts/bootstrap\n" in rule
            self.run(f"make --dry-run {line.removeprefix('make ')}")
        assert os.access(self.clone / "scripts" / "bootstrap", os.X_OK)
        folder = self.clone / ".venv" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("stackctl", "salt-call", "salt-cloud", "python"):
            # The installed program, with the clone's code in front of this checkout's.
            (folder / name).write_text(f'#!/bin/sh\nexec "{BIN / name}" "$@"\n')
            (folder / name).chmod(0o755)

    def run(self, line: str) -> None:
        """Run a line; raise AssertionError if it fails."""
        script = f'{line}\nstatus=$?\nprintf %s "$PATH" > ../path\nexit $status'
        ran = subprocess.run(
            ["sh", "-c", script], cwd=self.clone, env=self.environment, timeout=300,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, f"{line}: {ran.stdout}{ran.stderr}"
        self.environment["PATH"] = (self.clone.parent / "path").read_text()
        self.done[line] = ran.stdout

    def _look_up(self, line: str) -> None:
        """Fail unless the command line of `stackctl` or of a Salt program is a right one."""
        if line.startswith("stackctl "):
            errors = StringIO()
            with redirect_stderr(errors):
                try:
                    parser().parse_args(shlex.split(line)[1:])
                except SystemExit:
                    raise AssertionError(f"{line}: {errors.getvalue()}") from None
        else:
            self.run(f"{shlex.split(line)[0]} --help >/dev/null")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An EC2 in memory, with an empty account."""
    with running(tmp_path_factory.mktemp("cloud"), MemoryHost()) as made:
        yield made


@pytest.fixture
def reader(tmp_path: Path) -> Walk:
    """A reader with an empty clone, an empty home and no AWS credentials."""
    return make_reader(tmp_path)


def make_reader(folder: Path) -> Walk:
    """Clone this checkout as it is, changes that are not committed included."""
    clone = folder / "clone"
    _git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone), cwd=folder)
    changed = _git("ls-files", "-z", "--modified", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, changed.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
        else:
            (clone / name).unlink(missing_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "GIT_"))}
    packages = [str(clone / "packages" / name / "src") for name in ("stackctl", "localcloud",
                "saltext-ec2")]  # fmt: skip
    stubs = folder / "bin"
    stubs.mkdir()
    _script(stubs / "curl", f"echo {HERE}")
    _script(
        stubs / "aws",
        f'"{BIN}/python" -c "import boto3;'
        " print(boto3.client('sts', region_name='eu-west-1').get_caller_identity())\"",
    )
    usual = os.pathsep.join(
        place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != BIN
    )
    who = {f"GIT_{role}_{key}": "reader@example.org" for role in ("AUTHOR", "COMMITTER")
           for key in ("NAME", "EMAIL")}  # fmt: skip
    return Walk(
        clone,
        kept | who | {
            "HOME": str(folder),
            "PATH": f"{stubs}{os.pathsep}{usual}",
            "PYTHONPATH": os.pathsep.join(packages),
            "AWS_EC2_METADATA_DISABLED": "true",
            "STACK_OPERATOR_ADDRESS": HERE,
        },
    )  # fmt: skip


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _git(*args: str, cwd: Path) -> str:
    done = subprocess.run(["git", *args], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout


# -- Run it ----------------------------------------------------------------------------------------


def test_commands_of_run_it_exist_in_their_order(reader: Walk) -> None:
    found = commands(section("Run it"))
    assert found[0] == "make up"
    for line in found:
        reader.take(line)


@pytest.mark.parametrize(
    ("before", "line", "error"),
    [
        ([], "stackctl status", "command -v stackctl"),
        (
            ["scripts/bootstrap"],
            "stackctl status",
            "command -v stackctl",
        ),  # it is not on the PATH yet
        ([], "make fly", "No rule to make target 'fly'"),
        ([], "git push nowhere", "nowhere"),
        (["make up", 'export PATH="$PWD/.venv/bin:$PATH"'], "stackctl up --fast", "--fast"),
    ],
)
def test_walk_trips(reader: Walk, before: list[str], line: str, error: str) -> None:
    for earlier in before:
        reader.take(earlier)
    with pytest.raises(AssertionError, match=error):
        reader.take(line)


def test_plain_salt_finds_map_and_orchestration() -> None:
    text = section("Plain Salt")
    (name,) = re.findall(r"salt-cloud -m /etc/salt/cloud\.maps\.d/(\S+)", text)
    assert (ROOT / "cloud.maps.d" / name).is_file()
    (states,) = re.findall(r"state\.orchestrate ([\w.]+)", text)
    assert (ROOT / "salt" / f"{states.replace('.', '/')}.sls").is_file()


# -- On AWS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walked(cloud: Running, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """A reader who has taken every step of "On AWS"."""
    reader = make_reader(tmp_path_factory.mktemp("reader"))
    keys = cloud.credentials
    awsenvironment.lead(Path(reader.environment["HOME"]), cloud)
    reader.environment |= {
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
    }
    for line in commands(section("On AWS")):
        reader.take(line)
    return reader


def settings(walked: Walk) -> dict[str, Any]:
    text = (walked.clone / "pillar" / "prod" / "settings.sls").read_text()
    return dict(yaml.safe_load(text)["settings"])


def address(cloud: Running) -> dict[str, Any]:
    (found,) = cloud.ec2.describe_addresses()["Addresses"]
    return dict(found)


def test_init_says_what_it_allocated_and_what_that_costs(walked: Walk, cloud: Running) -> None:
    printed = next(text for line, text in walked.done.items() if line.startswith("stackctl init"))
    assert (
        f"Allocated the Elastic IP airflow-stack-prod-edge: {address(cloud)['PublicIp']}."
        in printed
    )
    assert "USD an hour" in printed


def test_site_has_the_address_in_settings_and_certificate(walked: Walk, cloud: Running) -> None:
    found = settings(walked)
    assert found["base_url"] == f"https://{address(cloud)['PublicIp']}"
    assert found["aws_account"] == ACCOUNT
    assert found["load_examples"] is True
    assert found["operator_cidrs"] == [f"{HERE}/32"]
    shown = _stackctl(walked, "secrets", "show", "edge-tls", "certificate", "-d", "prod")
    names = x509.load_pem_x509_certificate(shown.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    host = ipaddress.ip_address(urlsplit(found["base_url"]).hostname or "")
    assert host in names.value.get_values_for_type(x509.IPAddress)


def test_plan_launches_every_machine_of_the_map(walked: Walk) -> None:
    printed = walked.done["stackctl plan -d prod"]
    planned = re.findall(r"^create (\S+)", printed, re.MULTILINE)
    assert planned == ["salt-1", "lb-1", "postgres-1", "redis-1", "web-1", "web-2"]
    assert "foundation: aws-vpc, aws-subnet" in printed
    assert "permissions: the calls of EC2 that can be tried are allowed" in printed
    assert "permissions: of S3 and IAM nothing is tried: no policy" in printed
    assert re.search(r"^cost: [\d.]+ USD a month", printed, re.MULTILINE)
    assert "destroy nothing" in printed


def test_deployment_is_committed_without_key_material(walked: Walk) -> None:
    assert _git("status", "--porcelain", "pillar", cwd=walked.clone) == ""
    committed = _git("ls-files", "pillar/prod", ".stack", cwd=walked.clone).split()
    assert "pillar/prod/settings.sls" in committed
    assert not [name for name in committed if name.startswith(".stack")]


def test_launch_of_an_edge_machine_takes_no_address(walked: Walk, cloud: Running) -> None:
    """The steps of `up` that need no machine: foundation, and the launch of `lb-1`.

    The machine takes the address once it serves; another one that serves may have it.
    """
    allocated = address(cloud)
    assert not allocated.get("NetworkInterfaceId")
    folder = _configuration(walked)
    states = ["salt-call", "--local", "--config-dir", folder, "--out=quiet",
              "--retcode-passthrough", "state.apply", "aws"]  # fmt: skip
    site = str(ROOT / "cloud.maps.d/small.map")
    launch = ["salt-cloud", "--config-dir", folder, "-m", site, "lb-1", "--no-deploy",
              "--assume-yes", "--out=json"]  # fmt: skip
    _program(walked, states)
    assert address(cloud)["AllocationId"] == allocated["AllocationId"], "it was allocated twice"
    _program(walked, launch)
    _program(walked, states)
    (instance,) = cloud.ec2.describe_instances()["Reservations"][0]["Instances"]
    assert instance["PublicIpAddress"] != allocated["PublicIp"], "it has a way out of its own"
    assert not address(cloud).get("NetworkInterfaceId")


# -- a secret for one person -----------------------------------------------------------------------


def test_value_is_handed_to_one_person(walked: Walk, tmp_path: Path) -> None:
    """The commands of docs/security.md, with a key that is thrown away afterwards."""
    # Not below tmp_path: the path of an agent's socket has at most 108 characters.
    with tempfile.TemporaryDirectory() as home:
        theirs = {**os.environ, "GNUPGHOME": home}

        def gpg(*args: str) -> str:
            done = subprocess.run(
                ["gpg", "--batch", "--quiet", *args],
                env=theirs, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        gpg("--passphrase", "", "--quick-generate-key", "person@example.org", "default", "default")
        (tmp_path / "key.asc").write_text(gpg("--armor", "--export"))
        _script(tmp_path / "curl", f"cat {tmp_path / 'key.asc'}")
        walked.environment["PATH"] = f"{tmp_path}{os.pathsep}{walked.environment['PATH']}"
        found = commands(section("Hand a value to one person", ROOT / "docs" / "security.md"))
        assert [shlex.split(line)[0] for line in found] == ["curl", "gpg", "stackctl"]
        for line in found:
            walked.run(line)
        assert "person@example.org" in walked.done[found[1]]
        message = walked.clone / found[-1].split("> ")[-1]
        password = _stackctl(walked, "secrets", "show", "airflow-admin", "-d", "prod")
        assert password not in message.read_text()
        assert gpg("--decrypt", str(message)) == password
        subprocess.run(["gpgconf", "--kill", "all"], env=theirs, check=False)
    assert _git("check-ignore", str(message), cwd=walked.clone), "git would commit the message"


def _program(walked: Walk, args: list[str]) -> str:
    done = subprocess.run(
        [str(BIN / args[0]), *args[1:]], cwd=walked.clone, env=walked.environment, timeout=500,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
    return done.stdout


def _stackctl(walked: Walk, *args: str) -> str:
    return _program(walked, ["stackctl", *args])


def _configuration(walked: Walk) -> str:
    """Write Salt's configuration as `up` does, and return its folder."""
    code = (
        "from stackctl.deployment import *; from stackctl.salt import operator_configuration;"
        "print(operator_configuration(Deployment('prod', repository_root())))"
    )
    return _program(walked, ["python", "-c", code]).strip()
