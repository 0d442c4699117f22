"""Archives of Airflow's releases: built on the Salt master, unpacked on web machines.

salt/airflow/files/build_release.py writes an archive and its digest; salt/_states/airflow.py and
salt/_states/airflow_artefact.py decide.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__opts__: dict[str, Any]
__salt__: dict[str, Any]

ROOT = "/opt/airflow"
MANIFEST = "release.json"
UNIT = "airflow-release@{}.service"
# The union of the static files of all releases, beside them.
ASSETS = "assets"

# In seconds. A build installs some 180 packages and compresses; a machine may be without credits.
_BUILD_TIMEOUT = 7200
_UNPACK_TIMEOUT = 900


def built(name: str, archives: str) -> bool:
    """Return whether the archive of a release is complete in the folder ``archives``."""
    return Path(archives, f"{name}.tar.zst.sha256").is_file()


def build(name: str, *, wait: bool) -> None:
    """Have systemd build the archive of a release; a build that runs already is joined.

    Args:
        name: of the release.
        wait: until the archive is complete.

    Raises:
        CommandExecutionError: the build failed, with what it printed last.
    """
    unit = UNIT.format(name)
    command = ["systemctl", "start", *([] if wait else ["--no-block"]), unit]
    if _run(*command, timeout=_BUILD_TIMEOUT)["retcode"] == 0:
        return
    journal = ["journalctl", "--no-pager", "--output=cat", "--lines=12", "--unit", unit]
    raise CommandExecutionError(
        f"{unit} failed: {_run(*journal, timeout=_BUILD_TIMEOUT)['stdout']}"
    )


def fetch(name: str, archives: str, root: str = ROOT) -> None:
    """Unpack a release from its archive on the Salt master.

    The release appears when it is whole: it is unpacked beside the others and then renamed.

    Args:
        name: of the release.
        archives: the folder of the archives, a URL of Salt's file server.
        root: the folder of Airflow.

    Raises:
        CommandExecutionError: there is no archive, or it is broken.
    """
    url = f"{archives}/{name}.tar.zst"
    digest = __salt__["cp.get_file_str"](f"{url}.sha256")
    if not digest:
        raise CommandExecutionError(
            f"the Salt master has no complete {url}: apply the state airflow.artefact there"
        )
    archive = __salt__["cp.cache_file"](url)
    if not archive:
        raise CommandExecutionError(f"the Salt master does not send {url}")
    try:
        expected, found = str(digest).split()[0], _digest(Path(archive))
        if found != expected:
            raise CommandExecutionError(
                f"{url} is broken: its SHA-256 is {found}, and not {expected}"
            )
        _unpack(Path(archive), name, Path(root))
    finally:
        # Without a master, the "cache" is the file itself.
        if Path(archive).is_relative_to(__opts__["cachedir"]):
            Path(archive).unlink(missing_ok=True)


def _unpack(archive: Path, name: str, root: Path) -> None:
    incoming = root / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["tar", "--extract", "--zstd", f"--file={archive}", f"--directory={incoming}"],
            capture_output=True,
            text=True,
            timeout=_UNPACK_TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise CommandExecutionError(f"{archive.name} cannot be unpacked: {done.stderr[-500:]}")
        fresh = incoming / name
        manifest = fresh / MANIFEST
        if not manifest.is_file() or json.loads(manifest.read_text())["name"] != name:
            raise CommandExecutionError(f"{archive.name} does not hold the release {name}")
        _sync(incoming)
        target = root / "releases" / name
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(exist_ok=True)
        fresh.rename(target)
    except subprocess.TimeoutExpired as error:
        raise CommandExecutionError(
            f"unpacking {archive.name} took longer than {_UNPACK_TIMEOUT} s"
        ) from error
    except OSError as error:
        raise CommandExecutionError(f"cannot unpack {archive.name}: {error.strerror}") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def unshared(root: str = ROOT) -> list[str]:
    """Return the paths in which the shared assets differ from the static files of all releases."""
    wanted, found = _wanted(Path(root)), _shared(Path(root))
    return sorted(
        {path for path in wanted if not _same(wanted[path], found.get(path))}
        | (found.keys() - wanted.keys())
    )


def share(root: str = ROOT) -> None:
    """Make the assets the union of the static files of all installed releases.

    A page of one release finds its files also where another release is current. The files are hard
    links, so the union takes no space, and no file is missing while it changes.
    """
    top = Path(root, ASSETS)
    wanted, found = _wanted(Path(root)), _shared(Path(root))
    for path, source in wanted.items():
        if not _same(source, found.get(path)):
            target = top / path
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.new")
            fresh.unlink(missing_ok=True)
            os.link(source, fresh)
            fresh.replace(target)
    for path in found.keys() - wanted.keys():
        (top / path).unlink()
    for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def _wanted(root: Path) -> dict[str, Path]:
    """Return path -> the file of a complete release."""
    wanted: dict[str, Path] = {}
    for manifest in sorted(root.glob(f"releases/*/{MANIFEST}")):
        static = manifest.parent / "static"
        wanted.update({str(path.relative_to(static)): path for path in _files(static)})
    return wanted


def _shared(root: Path) -> dict[str, Path]:
    top = root / ASSETS
    return {str(path.relative_to(top)): path for path in _files(top)}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _same(source: Path, shared: Path | None) -> bool:
    return shared is not None and source.samefile(shared)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Wait until the file system of a folder is on the disk: a crash leaves no half release."""
    _run("sync", "--file-system", str(folder), timeout=_UNPACK_TIMEOUT)


def _run(*command: str, timeout: int) -> dict[str, Any]:
    done: dict[str, Any] = __salt__["cmd.run_all"](
        list(command), python_shell=False, cwd="/", ignore_retcode=True, timeout=timeout
    )
    return done
