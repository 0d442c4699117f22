"""The deploy script, below another root and with stand-ins for the programs that it calls."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plainpillar import ROOT

SCRIPT = (ROOT / "cloud.deploy.d/salt-minion.sh").read_text()
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
    """`deploy(name=text)`: run the script as salt-cloud does, with these files beside it."""

    def run(**beside: str) -> subprocess.CompletedProcess[str]:
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
        (tmp_path / "opt/salt-deploy/requirements.txt").write_text("salt==3008.5\n")
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
    assert updates == ["apt-get update -qq"] * 4
    assert "-o DPkg::Lock::Timeout=300" in install


def test_deploy_fails_with_apt_message_when_lock_stays(
    tmp_path: Path, program: Program, deploy: Deploy
) -> None:
    clock = tmp_path / "clock"
    program("date", f"echo >> {clock}; echo $((100 * $(wc -l < {clock})))")
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
