"""`pip install packages/saltext-ec2` alone gives salt-cloud the driver, without the operator's side.

This repository's lock decides the versions, so that what is published tomorrow changes nothing here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_salt_cloud_finds_the_driver_in_an_environment_of_its_own(tmp_path: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    folder = tmp_path / "venv"
    clean = {
        key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}
    }
    clean |= {"UV_HTTP_RETRIES": "10", "UV_HTTP_TIMEOUT": "120"}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    (tmp_path / "lock").write_text(
        run(uv, "export", "--quiet", "--frozen", "--no-hashes", "--no-emit-workspace")
    )
    constraint = f"--constraint={tmp_path / 'lock'}"
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        constraint,
        "--python",
        str(folder / "bin/python"),
        "packages/saltext-ec2",
    )
    (tmp_path / "cloud.providers.d").mkdir()
    (tmp_path / "cloud.providers.d/mine.conf").write_text(
        yaml.safe_dump({"mine": {"driver": "ec2", "location": "eu-west-1"}})
    )
    (tmp_path / "cloud").write_text(
        yaml.safe_dump({key: str(tmp_path / key) for key in ("pki_dir", "cachedir", "log_file")})
    )
    found = json.loads(
        run(
            str(folder / "bin/salt-cloud"),
            f"--config-dir={tmp_path}",
            "--out=json",
            "--list-providers",
        )
    )
    assert found == {"mine": {"ec2": {}}}
    run(str(folder / "bin/python"), "-c", "import saltext.ec2.clouds.ec2")
