#!/opt/salt/bin/python
"""Build a release of Airflow and pack it into one archive for all web machines.

A release is the folder ``/opt/airflow/releases/<name>`` with the virtual environment ``venv``, the
static files ``static``, the answers that never change ``answers``, and ``release.json``. It is
built where it will be unpacked, because scripts in a virtual environment name its path. The archive
``<name>.tar.zst`` is complete when the file ``<name>.tar.zst.sha256`` beside it exists.

Usage: build_release.py NAME LOCKFILE ARCHIVES
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

RELEASES = Path("/opt/airflow/releases")
UV = "/opt/salt/bin/uv"
PYTHON = "/usr/bin/python3"
SYSTEM_CAS = "/etc/ssl/certs/ca-certificates.crt"

# Folder of URLs -> the folder in site-packages whose files Airflow, FAB's provider and
# Flask-AppBuilder serve there. tests/states/test_nginx.py asks the web app for each file.
STATIC = {
    "static": "airflow/ui/dist",
    "auth/static": "airflow/providers/fab/www/static",
    "auth/static/appbuilder": "flask_appbuilder/static/appbuilder",
}
# A template that the web app fills, which is no page by itself.
TEMPLATES = {"static/index.html"}
# What the web app answers to everybody alike, whatever the database holds: the page in which the
# scripts of the UI run (`webapp` in airflow/api_fastapi/core_api/app.py; its only variable is the
# path of the site), and the version (airflow/api_fastapi/core_api/routes/public/version.py).
# tests/states/test_nginx.py asks the web app for both.
ANSWERS = """
import json, sys
from pathlib import Path
from jinja2 import Environment, FileSystemLoader, StrictUndefined
import airflow
from airflow.utils.platform import get_airflow_git_version
templates = Environment(
    loader=FileSystemLoader(sys.argv[1]), autoescape=True, undefined=StrictUndefined
)
page = templates.get_template("index.html").render(backend_server_base_url="/")
version = {"version": airflow.__version__, "git_version": get_airflow_git_version()}
Path(sys.argv[2], "page.html").write_text(page)
Path(sys.argv[2], "version.json").write_text(json.dumps(version, separators=(",", ":")))
"""
# Airflow is loaded without its settings, logs and database.
LIBRARY_ONLY = {"_AIRFLOW__AS_LIBRARY": "1"}
# What compression does not make smaller.
COMPRESSED = {".gif", ".jpg", ".png", ".woff", ".woff2"}
SMALLEST = 256  # bytes: a packet carries that as well
# The best one takes ten times as long and saves a tenth of the bytes.
BROTLI_BEST, BROTLI_GOOD = 11, 9
GZIP_LEVEL = 9
ZSTD_LEVEL = 9

# The folders with Alembic's revisions, by the table that holds the database's revision.
MIGRATIONS = {
    "alembic_version": "airflow/migrations",
    "alembic_version_fab": "airflow/providers/fab/migrations",
}
HEADS = """
import json, sys
from alembic.config import Config
from alembic.script import ScriptDirectory
heads = {}
for table, folder in json.loads(sys.argv[1]).items():
    config = Config()
    config.set_main_option("script_location", folder)
    heads[table] = ScriptDirectory.from_config(config).get_current_head()
print(json.dumps(heads))
"""

INSTALL_SECONDS = 1800  # a machine without CPU credits needs the most of it
TOOL_SECONDS = 900
FREE_BYTES = 2 << 30  # a release, and its archive twice, need half of it
KEPT = 2  # archives beside the newest: a web machine keeps the release before its current one

# The times of all other files: the bytecode is checked by nothing, so they mean nothing.
EPOCH = 0x40000000


class BuildError(Exception):
    """A release cannot be built, with the reason."""


def build(name: str, lockfile: Path, archives: Path) -> Path:
    """Build and pack a release, unless its archive is complete; return the archive.

    Args:
        name: of the release.
        lockfile: the packages, with hashes.
        archives: the folder for the archive. Of the others there, the newest few stay.

    Raises:
        BuildError: the disk is too full, or a tool failed; with the end of its output.
    """
    archive = archives / f"{name}.tar.zst"
    digest = archives / f"{archive.name}.sha256"
    if digest.is_file():
        return archive
    archives.mkdir(parents=True, exist_ok=True)
    for leftover in archives.glob("*.new"):
        leftover.unlink()
    prune(archives, KEPT)
    target = RELEASES / name
    if target.exists():
        shutil.rmtree(target)
    free = shutil.disk_usage(archives).free
    if free < FREE_BYTES:
        raise BuildError(f"{free >> 20} MiB of the disk are free, {FREE_BYTES >> 20} are needed")
    try:
        packages = install(target, lockfile)
        collect_static(packages, target / "static")
        write_answers(packages, target / "answers")
        page = (target / "answers/page.html").read_text()
        compress(target / "static", page)
        compress(target / "answers", page)
        write_manifest(target, packages)
        set_times(target)
        pack(target, archive)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    write_digest(archive, digest)
    return archive


def install(target: Path, lockfile: Path) -> Path:
    """Install the lockfile's packages into a virtual environment; return its site-packages."""
    # uv unpacks wheels inside the release, because /tmp may be mounted noexec.
    scratch = target / "scratch"
    scratch.mkdir(parents=True, mode=0o755)
    environment = {
        **tool_environment(scratch),
        "SSL_CERT_FILE": SYSTEM_CAS,
        "UV_NO_CONFIG": "1",
        # Nothing compares the bytecode with the source when it is loaded: a release never changes.
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
    }
    venv = target / "venv"
    run([UV, "venv", "--quiet", "--no-cache", "--python", PYTHON, str(venv)], environment)
    options = ["--quiet", "--no-cache", "--compile-bytecode", "--python", str(venv / "bin/python")]
    strict = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command = [UV, "pip", "install", *options, *strict, "--requirements", str(lockfile)]
    run(command, environment, INSTALL_SECONDS)
    shutil.rmtree(scratch)
    return next(venv.glob("lib/python*/site-packages"))


def collect_static(packages: Path, static: Path) -> None:
    """Fill a folder with the static files of all packages, each at the path of its URL.

    Raises:
        BuildError: a package has no such folder any more.
    """
    for url, folder in STATIC.items():
        source = packages / folder
        if not source.is_dir():
            raise BuildError(f"this release has no {folder}, which is served below /{url}/")
        for path in files(source):
            relative = Path(url, path.relative_to(source))
            if str(relative) in TEMPLATES or any(part.startswith(".") for part in relative.parts):
                continue
            target = static / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            # The same file: it is packed and stored once.
            os.link(path, target)


def write_answers(packages: Path, answers: Path) -> None:
    """Fill a folder with the answers that never change.

    Raises:
        BuildError: the page wants another variable, or this release has other modules.
    """
    answers.mkdir(mode=0o755)
    python = str(answers.parent / "venv/bin/python")
    templates = str(packages / STATIC["static"])
    with TemporaryDirectory() as home:
        environment = tool_environment(Path(home)) | LIBRARY_ONLY
        run([python, "-c", ANSWERS, templates, str(answers)], environment)


def compress(folder: Path, page: str) -> None:
    """Write ``.br`` and ``.gz`` beside each file that compression makes smaller.

    Args:
        folder: the files, at any depth.
        page: the UI's. Every visitor asks for the files that it names, and these get the best
            compression.
    """
    sources = [
        path
        for path in files(folder)
        if path.suffix not in COMPRESSED and path.stat().st_size >= SMALLEST
    ]
    for path in sources:
        packed = gzip.compress(path.read_bytes(), GZIP_LEVEL, mtime=0)
        path.with_name(f"{path.name}.gz").write_bytes(packed)
    for quality, is_named in ((BROTLI_BEST, True), (BROTLI_GOOD, False)):
        names = [str(path) for path in sources if (path.name in page) == is_named]
        if names:
            command = ["brotli", "--keep", f"--quality={quality}", "--", *names]
            run(command, tool_environment(folder))
    for path in sources:
        for suffix in (".br", ".gz"):
            packed_file = path.with_name(path.name + suffix)
            packed_file.chmod(0o644)
            if packed_file.stat().st_size >= path.stat().st_size:
                packed_file.unlink()


def write_manifest(target: Path, packages: Path) -> None:
    """Write ``release.json``: the name, and the revisions of the database that it needs."""
    folders = {table: str(packages / folder) for table, folder in MIGRATIONS.items()}
    python = str(target / "venv/bin/python")
    with TemporaryDirectory() as home:
        answer = run([python, "-c", HEADS, json.dumps(folders)], tool_environment(Path(home)))
    manifest = {"name": target.name, "heads": json.loads(answer)}
    (target / "release.json").write_text(json.dumps(manifest, indent=2) + "\n")


def set_times(target: Path) -> None:
    """Give each file a time that does not depend on when and where it was built.

    nginx makes an ETag of a file's time and size. The time of a file that it sends follows from its
    content, so a file has the same ETag on all machines and another one when it changes.
    """
    for path in [target, *target.rglob("*")]:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    for path in (*files(target / "static"), *files(target / "answers")):
        time = content_time(path.read_bytes())
        os.utime(path, (time, time))


def content_time(content: bytes) -> int:
    """Return a time in seconds, between 2004 and 2012, that follows from the content."""
    return EPOCH + int(hashlib.sha256(content).hexdigest()[:7], 16)


def pack(target: Path, archive: Path) -> None:
    """Write the archive of a release, owned by root and sorted, through a temporary file."""
    fresh = archive.with_name(f"{archive.name}.new")
    owner = ["--owner=0", "--group=0", "--numeric-owner"]
    compressor = f"--use-compress-program=zstd -{ZSTD_LEVEL} --quiet"
    command = ["tar", "--create", "--sort=name", "--format=gnu", *owner, compressor]
    run([*command, f"--directory={target.parent}", f"--file={fresh}", target.name], {})
    fresh.chmod(0o644)
    sync(fresh)
    fresh.rename(archive)


def write_digest(archive: Path, digest: Path) -> None:
    """Write the SHA-256 of an archive beside it, as sha256sum does: the archive is complete."""
    with archive.open("rb") as packed:
        found = hashlib.file_digest(packed, "sha256").hexdigest()
    fresh = digest.with_name(f"{digest.name}.new")
    fresh.write_text(f"{found}  {archive.name}\n")
    fresh.chmod(0o644)
    sync(fresh)
    fresh.rename(digest)


def prune(archives: Path, keep: int) -> None:
    """Remove all archives but the newest complete ones."""
    complete = sorted(
        archives.glob("*.tar.zst.sha256"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    kept = {path.name for path in complete[:keep]}
    for path in archives.glob("*.tar.zst*"):
        if path.name not in kept and f"{path.name}.sha256" not in kept:
            path.unlink()


def files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted; no links."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def tool_environment(home: Path) -> dict[str, str]:
    """Return the environment of a tool, which may write into its home only."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "AIRFLOW_HOME": str(home),
    }


def run(command: Sequence[str], environment: Mapping[str, str], timeout: int = TOOL_SECONDS) -> str:
    """Run a tool and return its output.

    Raises:
        BuildError: it failed, with the end of its output.
    """
    what = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            env={"PATH": "/usr/bin:/bin", **environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{what} took longer than {timeout} s") from error
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise BuildError(f"{what} failed with {done.returncode}: {output}")
    return done.stdout


def main() -> int:
    """Build the release that the arguments name; print the error and return 1 on failure."""
    name, lockfile, archives = sys.argv[1:]
    try:
        build(name, Path(lockfile), Path(archives))
    except (BuildError, OSError) as error:
        print(f"release {name} is not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
