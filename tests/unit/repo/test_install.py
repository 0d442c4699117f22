"""Each distribution's wheel works alone: it brings what it needs, and nothing of the others.

The versions come from this repository's lock, so that no later release changes these tests.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
UV = str(Path(sys.executable).with_name("uv"))
DRIVER, CLOUD, COMMAND = "saltext.ec2", "localcloud", "stackctl"
WHEELS = {DRIVER: "saltext_ec2", CLOUD: "localcloud", COMMAND: "stackctl"}
"""The name of each distribution, and how the name of its wheel begins."""

LOCK = "lock"
"""The name of the file that holds the lock's versions, beside the environments."""

LAUNCH = """
import sys
from pathlib import Path

from memorycloud import MemoryHost, running

with running(Path(sys.argv[1]), MemoryHost()) as cloud:
    name = "/aws/service/debian/release/13/latest/amd64"
    image = cloud.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    options = {"ImageId": image, "InstanceType": "t2.micro", "MinCount": 1, "MaxCount": 1}
    made = cloud.ec2.run_instances(**options)["Instances"][0]["InstanceId"]
    cloud.settle()
    groups = cloud.ec2.describe_instances()["Reservations"]
    found = [instance for group in groups for instance in group["Instances"]]
    assert [instance["InstanceId"] for instance in found] == [made]
    print(found[0]["State"]["Name"])
"""
IMPORT_ALL = """
import importlib, pkgutil, stackctl

for module in pkgutil.walk_packages(stackctl.__path__, "stackctl."):
    if module.name == "stackctl.__main__":
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""


def normalised(name: str) -> str:
    """Return the one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program from the repository's root, apart from this environment."""
    kept = {
        key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}
    }
    kept |= {"UV_HTTP_RETRIES": "10", "UV_HTTP_TIMEOUT": "120", "PYTHONPATH": path}
    return subprocess.run(
        command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False, timeout=500
    )


def output(*command: str, path: str = "") -> str:
    """Return what a program prints; it succeeds."""
    done = run(*command, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment that was empty before one distribution was installed."""

    folder: Path

    def program(self, name: str) -> str:
        """Return the path of one of its programs."""
        return str(self.folder / "bin" / name)

    def python(self, code: str, *args: str, path: str = "") -> str:
        """Run Python code in it and return what the code prints."""
        return output(self.program("python"), "-c", code, *args, path=path)

    def distributions(self) -> set[str]:
        """Return the normalised names of the distributions in it."""
        listed = json.loads(
            output(UV, "pip", "list", "--format=json", "--python", self.program("python"))
        )
        return {normalised(entry["name"]) for entry in listed}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in WHEELS:
        output(UV, "build", "--quiet", "--wheel", "--package", name, "--out-dir", str(folder))
    return {name: next(folder.glob(f"{start}-*.whl")) for name, start in WHEELS.items()}


@pytest.fixture(scope="session")
def install(
    wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Environment]]:
    """Return what installs distributions into an empty environment, with the lock's versions."""
    root = tmp_path_factory.mktemp("environments")
    lock = root / LOCK
    export = ["export", "--quiet", "--frozen", "--no-hashes", "--all-packages"]
    lock.write_text(output(UV, *export, "--no-emit-workspace"))

    def make(*distributions: str) -> Environment:
        made = Environment(root / "-".join(distributions))
        python = f"--python={made.program('python')}"
        wanted = [f"{name} @ {wheels[name.partition('[')[0]].as_uri()}" for name in distributions]
        output(UV, "venv", "--quiet", "--python", sys.executable, str(made.folder))
        output(UV, "pip", "install", "--quiet", f"--constraint={lock}", python, *wanted)
        return made

    yield make
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def driver(install: Callable[..., Environment]) -> Environment:
    """The driver's environment."""
    return install(DRIVER)


@pytest.fixture(scope="session")
def cloud(install: Callable[..., Environment]) -> Environment:
    """The local cloud's environment."""
    return install(CLOUD)


@pytest.fixture(scope="session")
def command(install: Callable[..., Environment]) -> Environment:
    """The environment of the operator command without its extra; the driver is not on the index."""
    return install(COMMAND, DRIVER)


@pytest.fixture(scope="session")
def local_command(install: Callable[..., Environment]) -> Environment:
    """The environment of the operator command with its extra `local`."""
    return install(f"{COMMAND}[local]", DRIVER, CLOUD)


# -- the driver


def test_salt_cloud_finds_driver(driver: Environment, tmp_path: Path) -> None:
    (tmp_path / "cloud.providers.d").mkdir()
    (tmp_path / "cloud.providers.d/mine.conf").write_text(
        yaml.safe_dump({"mine": {"driver": "ec2", "location": "eu-west-1"}})
    )
    (tmp_path / "cloud").write_text(
        yaml.safe_dump({key: str(tmp_path / key) for key in ("pki_dir", "cachedir", "log_file")})
    )
    listed = output(
        driver.program("salt-cloud"), f"--config-dir={tmp_path}", "--out=json", "--list-providers"
    )
    assert json.loads(listed) == {"mine": {"ec2": {}}}
    driver.python("import saltext.ec2.clouds.ec2")


def test_driver_brings_only_what_salt_and_boto3_need(driver: Environment, tmp_path: Path) -> None:
    (tmp_path / "wanted.in").write_text("salt>=3008,<3009\nboto3\n")
    resolve = ["pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    pins = output(
        UV,
        *resolve,
        f"--constraint={driver.folder.parent / LOCK}",
        f"--python={driver.program('python')}",
        str(tmp_path / "wanted.in"),
    )
    needed = {normalised(pin.partition("==")[0]) for pin in pins.splitlines()}
    assert driver.distributions() == needed | {"saltext-ec2"}
    assert needed & {"docker", "localcloud", "moto", "stackctl"} == set()


# -- the local cloud


def test_boto3_launches_instance_in_local_cloud(cloud: Environment, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/support/memorycloud.py", tmp_path)
    printed = cloud.python(LAUNCH, str(tmp_path / "state"), path=str(tmp_path))
    assert printed == "running\n"


def test_localcloud_command_reports_status(cloud: Environment, tmp_path: Path) -> None:
    for program in ([cloud.program("localcloud")], [cloud.program("python"), "-m", "localcloud"]):
        done = run(*program, "status", str(tmp_path))
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith("does not answer")
        assert output(*program, "stop", str(tmp_path)) == ""


def test_localcloud_needs_no_salt_and_no_stackctl(cloud: Environment) -> None:
    found = cloud.distributions()
    assert {name for name in found if name.startswith(("salt", "stackctl"))} == set()
    assert found >= {"localcloud", "moto", "docker"}


# -- the operator command


def test_stackctl_works_without_local_cloud(command: Environment) -> None:
    assert "usage: stackctl" in output(command.program("stackctl"), "--help")
    assert command.distributions() & {"localcloud", "moto", "docker"} == set()
    failed = command.python(IMPORT_ALL).splitlines()
    assert len(failed) <= 1, failed
    assert {line.split()[1].partition(".")[0] for line in failed} <= {"localcloud"}


def test_stackctl_with_extra_has_local_cloud(local_command: Environment) -> None:
    assert "usage: stackctl" in output(local_command.program("stackctl"), "--help")
    assert local_command.distributions() >= {"localcloud", "moto", "docker"}
    assert local_command.python(IMPORT_ALL) == ""


# -- what the wheels hold


def words_in(wheel: Path, *words: str) -> list[str]:
    """Return the files of a wheel that hold one of the words, in whatever case."""
    pattern = re.compile("|".join(words), re.IGNORECASE)
    with zipfile.ZipFile(wheel) as archive:
        return [
            name
            for name in archive.namelist()
            if pattern.search(name) or pattern.search(archive.read(name).decode())
        ]


def imports_in(wheel: Path, *packages: str) -> list[str]:
    """Return the modules of a wheel that import one of the packages."""
    found = set()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for node in ast.walk(ast.parse(archive.read(name))) if name.endswith(".py") else ():
                if isinstance(node, ast.Import):
                    imported = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    imported = [node.module or ""]
                else:
                    continue
                if {module.partition(".")[0] for module in imported} & set(packages):
                    found.add(name)
    return sorted(found)


def test_driver_wheel_names_nothing_of_the_stack(wheels: dict[str, Path]) -> None:
    assert words_in(wheels[DRIVER], "airflow", "stackctl", "localcloud") == []


def test_localcloud_wheel_knows_no_salt_and_no_stack(wheels: dict[str, Path]) -> None:
    assert imports_in(wheels[CLOUD], "salt", "saltext", "stackctl") == []
    assert words_in(wheels[CLOUD], "airflow", "stackctl", "saltext", "salt-cloud") == []


@pytest.mark.parametrize(
    ("distribution", "files"),
    [
        (DRIVER, {"saltext/ec2/py.typed"}),
        (CLOUD, {"localcloud/py.typed", "localcloud/image/Dockerfile"}),
        (COMMAND, {"stackctl/cli.py"}),
    ],
)
def test_wheel_holds_licence_and_data(
    wheels: dict[str, Path], distribution: str, files: set[str]
) -> None:
    with zipfile.ZipFile(wheels[distribution]) as archive:
        names = set(archive.namelist())
    assert files <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_checks_find_what_they_look_for(tmp_path: Path) -> None:
    planted = tmp_path / "planted.whl"
    with zipfile.ZipFile(planted, "w") as archive:
        archive.writestr("a.py", "def f():\n    from salt.utils import x\n")
        archive.writestr("b.py", "import os, salt\n")
        archive.writestr("c.py", "import salty\n")
        archive.writestr("d.txt", "For Airflow.\n")
        archive.writestr("airflow/e.txt", "")
    assert imports_in(planted, "salt") == ["a.py", "b.py"]
    assert words_in(planted, "airflow") == ["d.txt", "airflow/e.txt"]
