"""Every machine prints its host keys from its first boot on, and again for a while."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from plainpillar import ROOT
from saltext.ec2.host_keys import from_console

UNIT = ROOT / "salt" / "base" / "files" / "console-host-keys.service"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGkbQBpO2s3MoOYRT0nsTu7cTyL1ZRjPnz9d8yKdHyW6"


def userdata() -> str:
    profiles = yaml.safe_load((ROOT / "cloud.profiles.d" / "machines.conf").read_text())
    return str(profiles["debian-13"]["userdata"])


def run(script: str, folder: Path, *programs: str) -> Path:
    """Run a script in which the machine's folders are below another; return what programs did."""
    done = folder / "done"
    (folder / "bin").mkdir()
    for name in programs:
        (folder / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{done}\n')
        (folder / "bin" / name).chmod(0o755)
    for name in ("etc/systemd/system", "etc/ssh", "dev"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/ssh/ssh_host_ed25519_key.pub").write_text(f"{KEY} root@web-1\n")
    for name in ("/etc/", "/dev/"):
        script = script.replace(name, f"{folder}{name}")
    subprocess.run(
        ["sh", "-ec", script], check=True, env={"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    )
    return done


def test_user_data_installs_the_unit_that_salt_manages(tmp_path: Path) -> None:
    assert userdata().startswith("#!/bin/sh\n")
    done = run(userdata(), tmp_path, "systemctl")
    # The script's own paths were replaced, those of the unit too.
    unit = UNIT.read_text().replace("/etc/", f"{tmp_path}/etc/")
    unit = unit.replace("/dev/", f"{tmp_path}/dev/")
    assert (tmp_path / "etc/systemd/system" / UNIT.name).read_text() == unit
    assert done.read_text().splitlines() == [
        "systemctl daemon-reload",
        f"systemctl enable --now {UNIT.name}",
    ]


def test_unit_prints_the_keys_and_prints_them_again(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("\\\n", "").replace("$$", "$")
    (command,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    script = command.partition("-c '")[2].removesuffix("'")
    done = run(script.replace(">/dev/console", ">>/dev/console"), tmp_path, "sleep")
    printed = (tmp_path / "dev/console").read_text()
    assert from_console(printed) == [KEY]
    assert printed.count("BEGIN") == 15
    # A copy of a console holds 64 KiB; half of it stays for the rest of the boot, even if the
    # machine has keys of three types, of about 900 bytes.
    assert 15 * 900 < 32 * 1024
    assert done.read_text().splitlines() == ["sleep 60"] * 15
