"""The deploy script, below another root and with stand-ins for the programs that it calls."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from plainpillar import DEPLOYMENT, ROOT
from stackctl.salt import file_map

SCRIPT = (ROOT / "cloud.deploy.d/salt-minion.sh").read_text()
FILES = [Path(path).name for path in file_map(DEPLOYMENT).values()]
HELD = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 812 (apt-get)"

Deploy = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`program(name, text)`: put a program on the machine that records its calls."""
    (tmp_path / "bin").mkdir()

    def make(name: str, text: str = "") -> None:
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{text}\n')
        path.chmod(0o755)

    make("systemctl")
    make("apt-get")
    make("sleep")
    make(
        "python3",
        f'mkdir -p "{tmp_path}/opt/salt/bin"; ln -sf /bin/true "{tmp_path}/opt/salt/bin/pip"',
    )
    return make


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    """`deploy(name=text)`: run the script as salt-cloud does, with these files beside it.

    `files` are the names of those that `file_map` uploads.
    """

    def run(files: Sequence[str] | None = None, **beside: str) -> subprocess.CompletedProcess[str]:
        staged = tmp_path / "staged"
        staged.mkdir(exist_ok=True)
        for name, text in {
            "minion": "id: web-1\n",
            "minion.pem": "-",
            "minion.pub": "-",
            **beside,
        }.items():
            (staged / name).write_text(text)
        for folder in ("opt/salt-deploy", "etc/systemd/system", "usr/local/bin"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in FILES if files is None else files:
            (tmp_path / "opt/salt-deploy" / name).write_text(f"{name}\n")
        text = re.sub(r"(?<![\w/])/(?=(opt|etc|usr)/)", f"{tmp_path}/", SCRIPT)
        (staged / "deploy.sh").write_text(text)
        return subprocess.run(
            ["sh", str(staged / "deploy.sh")],
            env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


def calls(tmp_path: Path, name: str) -> list[str]:
    return [
        line
        for line in (tmp_path / "calls").read_text().splitlines()
        if line.startswith(f"{name} ")
    ]


def test_deploy_waits_for_apt_lock(tmp_path: Path, program: Program, deploy: Deploy) -> None:
    count = tmp_path / "updates"
    program("apt-get", f'''
        [ "$1" = update ] || exit 0
        echo >> {count}
        [ "$(wc -l < {count})" -gt 3 ] || {{ echo "{HELD}"; exit 100; }}
    ''')  # fmt: skip
    done = deploy()
    assert done.returncode == 0, done.stderr
    *updates, install = calls(tmp_path, "apt-get")
    assert updates == ["apt-get update -qq --error-on=any"] * 4
    assert "-o DPkg::Lock::Timeout=900" in install


def test_apt_that_fetches_nothing_fails(tmp_path: Path) -> None:
    """With the options of the script, and Debian's own apt-get."""
    (options,) = re.findall(r"output=\$\((apt-get update .*) 2>&1\)", SCRIPT)
    (tmp_path / "sources.list").write_text("deb http://127.0.0.1:9/debian trixie main\n")
    (tmp_path / "lists").mkdir()
    places = {
        "Dir::Etc::SourceList": tmp_path / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": tmp_path / "lists",
        "Acquire::http::Proxy": "DIRECT",
        "Acquire::Retries": 0,
    }
    options = [*options.split(), *(f"-o{name}={value}" for name, value in places.items())]
    assert subprocess.run(options, capture_output=True, check=False).returncode == 100
    options.remove("--error-on=any")
    assert subprocess.run(options, capture_output=True, check=False).returncode == 0


def test_salt_is_built_with_what_the_lockfile_has(
    tmp_path: Path, program: Program, deploy: Deploy
) -> None:
    """What builds it is named by its own source; pip fetches the newest of each, without hashes."""
    pip = f"""
        mkdir -p "{tmp_path}/opt/salt/bin"
        cp "{tmp_path}/bin/pip" "{tmp_path}/opt/salt/bin/pip"
    """
    program("pip", "")
    program("python3", pip)
    assert deploy().returncode == 0
    wheels, salt = calls(tmp_path, "pip")
    assert "--only-binary :all:" in wheels
    assert "--no-build-isolation" in salt
    locked = (ROOT / "requirements/salt.txt").read_text()
    assert re.search(r"^setuptools==", locked, re.MULTILINE)


def test_deploy_fails_with_apt_message_when_lock_stays(
    tmp_path: Path, program: Program, deploy: Deploy
) -> None:
    clock = tmp_path / "clock"
    program("date", f"echo >> {clock}; echo $((300 * $(wc -l < {clock})))")
    program("apt-get", f'echo "{HELD}"; exit 100')
    done = deploy()
    assert done.returncode == 1
    assert done.stderr == f"salt-minion deploy: apt-get update: {HELD}\n"
    assert len(calls(tmp_path, "sleep")) == 2


@pytest.mark.parametrize("ending", [0, 1])
def test_deploy_waits_for_cloud_init(
    tmp_path: Path, program: Program, deploy: Deploy, ending: int
) -> None:
    program("cloud-init", f"exit {ending}")
    done = deploy()
    assert done.returncode == 0, done.stderr
    assert ("cloud-init has failed" in done.stdout) == bool(ending)
    first = (tmp_path / "calls").read_text().splitlines()[0]
    assert first == "cloud-init status --wait"


def test_deploy_installs_grains_of_profile(
    tmp_path: Path, program: Program, deploy: Deploy
) -> None:
    assert deploy(grains="rack: 7\n").returncode == 0
    assert (tmp_path / "etc/salt/grains").read_text() == "rack: 7\n"


def test_deploy_keeps_existing_grains(tmp_path: Path, program: Program, deploy: Deploy) -> None:
    (tmp_path / "etc/salt").mkdir(parents=True)
    (tmp_path / "etc/salt/grains").write_text("rack: 8\n")
    assert deploy().returncode == 0
    assert (tmp_path / "etc/salt/grains").read_text() == "rack: 8\n"


def test_deploy_installs_unit_and_reconnection(
    tmp_path: Path, program: Program, deploy: Deploy
) -> None:
    assert deploy().returncode == 0
    unit = tmp_path / "etc/systemd/system/salt-minion.service"
    assert unit.read_text() == "salt-minion.service\n"
    assert (tmp_path / "etc/salt/minion.d/stack.conf").read_text() == "stack.conf\n"
    assert not (tmp_path / "opt/salt-deploy").exists()


@pytest.mark.parametrize("missing", FILES)
def test_deploy_names_missing_file(
    tmp_path: Path, program: Program, deploy: Deploy, missing: str
) -> None:
    done = deploy(files=[name for name in FILES if name != missing])
    assert done.returncode == 1
    assert f"opt/salt-deploy/{missing} is missing: set file_map" in done.stderr
    assert not (tmp_path / "etc/systemd/system/salt-minion.service").exists()


def test_master_uploads_the_same_files_as_the_operator() -> None:
    template = (ROOT / "salt/master/files/cloud.j2").read_text()
    block = template.partition("file_map:\n")[2].partition("\nenable_")[0]
    own, _, proxied = block.partition("\n{%- if proxied %}\n")
    assert proxied.startswith("  /etc/salt/apt-proxy.conf: /opt/salt-deploy/apt-proxy.conf\n")
    lines = dict(line.strip().split(": ") for line in own.splitlines())
    assert {path.removeprefix("{{ tree }}/"): there for path, there in lines.items()} == {
        str(Path(path).relative_to(ROOT)): there for path, there in file_map(DEPLOYMENT).items()
    }


def test_units_of_ours_that_must_run_restart_whatever_their_exit_code() -> None:
    files = [*(ROOT / "salt").rglob("*.service*"), *(ROOT / "packages").rglob("*.service")]
    units = {str(path.relative_to(ROOT)): path.read_text().splitlines() for path in files}
    restarts = {
        name: line.removeprefix("Restart=")
        for name, lines in units.items()
        for line in lines
        if line.startswith("Restart=") and "Type=oneshot" not in lines
    }
    assert {"salt/minion/files/salt-minion.service"} < set(restarts)
    assert set(restarts.values()) == {"always"}, restarts


# -- the proxy on salt-1

PROXY = "http://10.20.1.250:3128"
APT_PROXY = (ROOT / "salt/base/files/apt-proxy.conf.j2").read_text().replace("{{ url }}", PROXY)
PLACE = "etc/apt/apt.conf.d/60-stack-proxy"


@pytest.fixture
def proxied(tmp_path: Path, program: Program) -> Path:
    """A machine to which salt-1 uploads its proxy; pip records the proxy that it is told."""
    program("pip", f'echo "pip by ${{https_proxy-none}}" >> {tmp_path}/calls')
    program(
        "python3",
        f"mkdir -p {tmp_path}/opt/salt/bin; cp {tmp_path}/bin/pip {tmp_path}/opt/salt/bin/pip",
    )
    (tmp_path / "opt/salt-deploy").mkdir(parents=True)
    (tmp_path / "opt/salt-deploy/apt-proxy.conf").write_text(APT_PROXY)
    (tmp_path / "etc/apt/apt.conf.d").mkdir(parents=True)
    return tmp_path / PLACE


def test_machine_fetches_by_the_masters_proxy_from_the_first_package_on(
    tmp_path: Path, program: Program, deploy: Deploy, proxied: Path
) -> None:
    program("apt-get", f"cat {proxied} >/dev/null || exit 100")
    program("cloud-init", f"test -e {proxied}")
    done = deploy()
    assert done.returncode == 0, done.stderr
    assert proxied.read_text() == APT_PROXY, "what salt/base manages later"
    assert "cloud-init has failed" not in done.stdout
    assert calls(tmp_path, "pip by") == [f"pip by {PROXY}"] * 2
    shown = ["apt-config", "dump", "--format=%f=%v%n", "Acquire"]
    environment = {"APT_CONFIG": str(proxied), "PATH": os.environ["PATH"]}
    dumped = subprocess.run(shown, env=environment, capture_output=True, text=True, check=True)
    assert {f"Acquire::{kind}::Proxy={PROXY}" for kind in ("http", "https")} <= {
        *dumped.stdout.splitlines()
    }


def test_salt_master_goes_out_by_itself(tmp_path: Path, deploy: Deploy, proxied: Path) -> None:
    """As does a machine that an operator deploys: nobody uploads a proxy to it."""
    proxied.write_text(APT_PROXY)
    (tmp_path / "opt/salt-deploy/apt-proxy.conf").unlink()
    assert deploy().returncode == 0
    assert not proxied.exists()
    assert calls(tmp_path, "pip by") == ["pip by "] * 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "apt-get",
            "E: Failed to fetch http://deb.debian.org/x  403  Forbidden [IP: 10.20.1.250 3128]",
        ),
        (
            "pip",
            "ERROR: (Caused by ProxyError(OSError('Tunnel connection failed: 403 Forbidden')))",
        ),
    ],
)
@pytest.mark.usefixtures("proxied")
def test_refusal_of_the_proxy_is_named_at_once(
    tmp_path: Path, program: Program, deploy: Deploy, name: str, text: str
) -> None:
    (tmp_path / "refusal").write_text(text)
    program(name, f"cat {tmp_path}/refusal; exit 1")
    done = deploy()
    assert done.returncode == 1
    assert "refused a host: put it into proxy:hosts of pillar/base/proxy.sls" in done.stderr
    assert text in done.stderr
    assert not (tmp_path / "calls").read_text().count("sleep ")


def test_other_failure_of_a_package_is_told_as_it_is(
    tmp_path: Path, program: Program, deploy: Deploy, proxied: Path
) -> None:
    del proxied
    program("pip", "echo no hash matches; exit 1")
    done = deploy()
    assert done.returncode == 1
    assert done.stderr == "salt-minion deploy: pip install: no hash matches\n"
    program("pip", "")
    program("apt-get", '[ "$1" = update ] || { echo no such package; exit 100; }')
    assert deploy().stderr == "salt-minion deploy: apt-get install: no such package\n"
