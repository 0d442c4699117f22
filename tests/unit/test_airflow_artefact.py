"""Archives of releases: what is built, what is refused, and the assets of several releases."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from plainpillar import ROOT
from saltmodules import load, load_file

PROGRAM = ROOT / "salt/airflow/files/build_release.py"
NAME = "3.3.2-abc"
PACKAGES = "venv/lib/python3.13/site-packages"
PAGE = "<script src=/static/assets/index-1a2b.js></script>" * 9
SCRIPT = b"const page = 'the page';\n" * 100
# Path in site-packages -> content.
FILES = {
    "airflow/ui/dist/index.html": b"<base href={{ backend_server_base_url }}>" * 20,
    "airflow/ui/dist/.vite/manifest.json": b"{}" * 300,
    "airflow/ui/dist/assets/index-1a2b.js": SCRIPT,
    "airflow/ui/dist/pin_32.png": b"picture" * 100,
    "airflow/ui/dist/i18n/locales/en/short.json": b"{}",
    "airflow/providers/fab/www/static/css/main.css": b"body { color: red }\n" * 50,
    "flask_appbuilder/static/appbuilder/js/ab.js": b"ab();\n" * 100,
    "airflow/module.py": b"",
}
STATIC = [
    "auth/static/appbuilder/js/ab.js",
    "auth/static/css/main.css",
    "static/assets/index-1a2b.js",
    "static/i18n/locales/en/short.json",
    "static/pin_32.png",
]


# -- the build -------------------------------------------------------------------------------------


class Tools:
    """In place of the programs of a build: make what those would make.

    Attributes:
        commands: what was asked for.
        failing: the program that fails.
    """

    def __init__(self, program: ModuleType) -> None:
        self.commands: list[Sequence[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.failing = ""
        self.files = dict(FILES)
        self._error = program.BuildError

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], *_timeout: int
    ) -> str:
        self.commands.append(command)
        self.environments.append(environment)
        words = " ".join(command)
        if self.failing and self.failing in words:
            raise self._error(f"{self.failing} failed")
        if " venv " in words:
            (Path(command[-1]) / "lib/python3.13/site-packages").mkdir(parents=True)
        elif " pip install " in words:
            packages = Path(command[command.index("--python") + 1]).parents[1]
            for name, content in self.files.items():
                path = packages / "lib/python3.13/site-packages" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        elif command[0] == "brotli":
            for source in command[command.index("--") + 1 :]:
                Path(f"{source}.br").write_bytes(b"br" + Path(source).read_bytes()[:20])
        elif "page.html" in words:
            Path(command[-1], "page.html").write_text(PAGE)
        elif command[0] == "tar":
            archive = next(word.partition("=")[2] for word in command if "--file=" in word)
            Path(archive).write_bytes(b"packed")
        else:
            return json.dumps({"alembic_version": "a1"})
        return ""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, which builds below a folder of the test."""
    module = load_file(PROGRAM)
    monkeypatch.setattr(module, "RELEASES", tmp_path / "releases")
    return module


@pytest.fixture
def tools(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools(program)
    monkeypatch.setattr(program, "run", tools)
    return tools


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return tmp_path / "archives"


def build(program: ModuleType, archives: Path, name: str = NAME) -> Path:
    return Path(program.build(name, archives.parent / "requirements.txt", archives))


def test_archive_is_built_once_and_its_folder_goes(
    program: ModuleType, tools: Tools, archives: Path
) -> None:
    archive = build(program, archives)
    assert archive.read_bytes() == b"packed"
    digest = hashlib.sha256(b"packed").hexdigest()
    assert (archives / f"{NAME}.tar.zst.sha256").read_text() == f"{digest}  {NAME}.tar.zst\n"
    assert not (program.RELEASES / NAME).exists()
    assert len(tools.commands) == 8
    build(program, archives)
    assert len(tools.commands) == 8, "a complete archive is not built again"


def test_only_what_the_lockfile_pins_is_installed(
    program: ModuleType, tools: Tools, archives: Path
) -> None:
    build(program, archives)
    (install,) = (command for command in tools.commands if "install" in command)
    lockfile = str(archives.parent / "requirements.txt")
    for option in ("--require-hashes", "--no-deps", "--only-binary", ":all:", lockfile):
        assert option in install


@pytest.mark.parametrize("tool", ["venv", "install", "brotli", "alembic", "tar"])
def test_failed_build_leaves_no_archive_and_no_folder(
    program: ModuleType, tools: Tools, archives: Path, tool: str
) -> None:
    tools.failing = tool
    with pytest.raises(program.BuildError, match=f"{tool} failed"):
        build(program, archives)
    assert list(archives.iterdir()) == []
    assert list(program.RELEASES.iterdir()) == []


def test_interrupted_build_is_repeated(program: ModuleType, tools: Tools, archives: Path) -> None:
    archives.mkdir()
    (archives / f"{NAME}.tar.zst").write_text("half")
    (archives / f"{NAME}.tar.zst.new").write_text("half")
    (program.RELEASES / NAME / "venv").mkdir(parents=True)
    assert build(program, archives).read_bytes() == b"packed"
    assert not (archives / f"{NAME}.tar.zst.new").exists()


def test_old_archives_are_bounded(program: ModuleType, tools: Tools, archives: Path) -> None:
    for number in range(5):
        build(program, archives, f"3.3.{number}")
    assert sorted(path.name for path in archives.glob("*.sha256")) == [
        f"3.3.{number}.tar.zst.sha256" for number in (2, 3, 4)
    ]
    assert len(list(archives.iterdir())) == 6


def test_full_disk_is_refused_before_anything_is_installed(
    program: ModuleType, tools: Tools, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(archives.parent)._replace(free=100 << 20)
    monkeypatch.setattr(program.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(program.BuildError, match=r"100 MiB of the disk are free, 2048 are needed"):
        build(program, archives)
    assert tools.commands == []


@pytest.fixture
def static(program: ModuleType, tools: Tools, tmp_path: Path) -> Path:
    """The static files of a release that is built but not packed."""
    target: Path = program.RELEASES / NAME
    packages = program.install(target, tmp_path / "requirements.txt")
    program.collect_static(packages, target / "static")
    program.compress(target / "static", PAGE)
    program.write_manifest(target, packages)
    program.set_times(target)
    return target / "static"


def test_static_files_have_the_paths_of_their_urls(program: ModuleType, static: Path) -> None:
    found = [str(path.relative_to(static)) for path in program.files(static)]
    assert [path for path in found if not path.endswith((".br", ".gz"))] == STATIC
    source = static.parent / PACKAGES / "airflow/ui/dist/assets/index-1a2b.js"
    assert (static / "static/assets/index-1a2b.js").samefile(source)


def test_what_compression_makes_smaller_is_compressed(static: Path) -> None:
    script = static / "static/assets/index-1a2b.js"
    assert gzip.decompress(script.with_name(f"{script.name}.gz").read_bytes()) == SCRIPT
    assert script.with_name(f"{script.name}.br").is_file()
    for name in ("static/pin_32.png", "static/i18n/locales/en/short.json"):
        assert not (static / f"{name}.gz").exists()
        assert not (static / f"{name}.br").exists()


def test_what_every_visitor_asks_for_is_compressed_best(tools: Tools, static: Path) -> None:
    qualities = {
        Path(name).name: command[2]
        for command in tools.commands
        if command[0] == "brotli"
        for name in command[command.index("--") + 1 :]
    }
    assert qualities.pop("index-1a2b.js") == "--quality=11"
    assert set(qualities) == {"main.css", "ab.js"}
    assert set(qualities.values()) == {"--quality=9"}


def test_compression_that_makes_larger_is_left_out(
    program: ModuleType, tools: Tools, tmp_path: Path
) -> None:
    (tmp_path / "static").mkdir()
    noise = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(20))
    (tmp_path / "static/noise.bin").write_bytes(noise)
    program.compress(tmp_path / "static", PAGE)
    assert sorted(path.name for path in (tmp_path / "static").iterdir()) == [
        "noise.bin",
        "noise.bin.br",
    ]


def test_time_of_a_static_file_follows_from_its_content(program: ModuleType, static: Path) -> None:
    script = static / "static/assets/index-1a2b.js"
    assert script.stat().st_mtime == program.content_time(SCRIPT)
    packed = script.with_name(f"{script.name}.gz")
    assert packed.stat().st_mtime == program.content_time(packed.read_bytes())
    assert program.content_time(SCRIPT) != program.content_time(SCRIPT + b"x")
    assert (static.parent / "release.json").stat().st_mtime == program.EPOCH


@pytest.fixture
def answering(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """`answering(template)`: the answers of a release whose page is made of this template."""

    def make(template: str) -> Path:
        target = tmp_path / "release"
        modules = {
            "airflow/__init__.py": "import os\n__version__ = '3.9'\n"
            "assert os.environ['_AIRFLOW__AS_LIBRARY']",
            "airflow/utils/__init__.py": "",
            "airflow/utils/platform.py": "def get_airflow_git_version(): return 'abc'",
            "airflow/ui/dist/index.html": template,
        }
        for name, text in modules.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        python = target / "venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH={target} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        program.write_answers(target, target / "answers")
        return target / "answers"

    return make


def test_answers_are_those_of_the_web_app(answering: Callable[[str], Path]) -> None:
    answers = answering("<base href={{ backend_server_base_url }}>\n")
    assert (answers / "page.html").read_text() == "<base href=/>"
    assert (answers / "version.json").read_text() == '{"version":"3.9","git_version":"abc"}'


def test_page_that_is_not_constant_is_refused(
    program: ModuleType, answering: Callable[[str], Path]
) -> None:
    with pytest.raises(program.BuildError, match="'user' is undefined"):
        answering("<base href={{ backend_server_base_url }}>{{ user }}")


def test_time_of_an_answer_follows_from_its_content(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "static").mkdir()
    page = tmp_path / "answers/page.html"
    page.write_bytes(SCRIPT)
    program.set_times(tmp_path)
    assert page.stat().st_mtime == program.content_time(SCRIPT)


def test_release_without_an_expected_folder_is_refused(
    program: ModuleType, tools: Tools, archives: Path
) -> None:
    del tools.files["flask_appbuilder/static/appbuilder/js/ab.js"]
    with pytest.raises(program.BuildError, match="no flask_appbuilder/static/appbuilder, which is"):
        build(program, archives)


def test_failed_tool_is_named_with_the_end_of_its_output(program: ModuleType) -> None:
    script = ["/bin/sh", "-c", "seq 1 20; exit 3"]
    with pytest.raises(program.BuildError, match=r"sh failed with 3: 13\n14\n(.*\n)+20$"):
        program.run(script, {})
    with pytest.raises(program.BuildError, match="cannot run /nowhere: No such file"):
        program.run(["/nowhere"], {})
    with pytest.raises(program.BuildError, match="sh took longer than 1 s"):
        program.run(["/bin/sh", "-c", "exec tail -f /dev/null"], {}, 1)


def test_program_says_why_nothing_was_built(
    program: ModuleType, tools: Tools, archives: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(program.sys, "argv", ["x", NAME, "requirements.txt", str(archives)])
    assert program.main() == 0
    tools.failing = "tar"
    monkeypatch.setattr(program.sys, "argv", ["x", "3.4", "requirements.txt", str(archives)])
    assert program.main() == 1
    assert capsys.readouterr().err == "release 3.4 is not built: tar failed\n"


# -- on a web machine ------------------------------------------------------------------------------


class Master:
    """Salt's file server with one archive, and the minion's cache.

    Attributes:
        served: name of a file -> content.
    """

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.served: dict[str, bytes] = {}

    def publish(self, name: str, content: bytes, digest: str | None = None) -> None:
        self.served[f"{name}.tar.zst"] = content
        found = digest or hashlib.sha256(content).hexdigest()
        self.served[f"{name}.tar.zst.sha256"] = f"{found}  {name}.tar.zst\n".encode()

    def text(self, url: str) -> str:
        return self.served.get(Path(url).name, b"").decode()

    def cached(self, url: str) -> str | bool:
        assert url.startswith("salt://archives/")
        if Path(url).name not in self.served:
            return False
        path = self.cache / Path(url).name
        path.write_bytes(self.served[path.name])
        return str(path)


@pytest.fixture
def master(tmp_path: Path) -> Master:
    return Master(tmp_path)


@pytest.fixture
def artefact(master: Master) -> ModuleType:
    def run_all(command: list[str], **_: Any) -> dict[str, Any]:
        assert command[:2] == ["sync", "--file-system"]
        return {"retcode": 0}

    functions = {
        "cp.get_file_str": master.text,
        "cp.cache_file": master.cached,
        "cmd.run_all": run_all,
    }
    return load(
        "_modules",
        "airflow_artefact",
        __salt__=functions,
        __opts__={"cachedir": str(master.cache)},
    )


def packed(folder: Path, name: str = NAME, **files: str) -> bytes:
    """Return the archive of a release with some files."""
    for path, content in {"release.json": json.dumps({"name": name}), **files}.items():
        target = folder / "make" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    command = ["tar", "--create", "--zstd", f"--directory={folder / 'make'}", name]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "opt").mkdir()
    return tmp_path / "opt"


def test_archive_is_unpacked_and_leaves_nothing_else(
    artefact: ModuleType, master: Master, root: Path
) -> None:
    master.publish(NAME, packed(root.parent, **{"static/static/a.js": "a"}))
    artefact.fetch(NAME, "salt://archives", str(root))
    assert (root / "releases" / NAME / "static/static/a.js").read_text() == "a"
    assert [path.name for path in root.iterdir()] == ["releases"]
    assert list(master.cache.iterdir()) == []


def test_interrupted_release_is_replaced(artefact: ModuleType, master: Master, root: Path) -> None:
    for leftover in ("releases", "incoming"):
        (root / leftover / NAME / "venv").mkdir(parents=True)
    master.publish(NAME, packed(root.parent))
    artefact.fetch(NAME, "salt://archives", str(root))
    assert [path.name for path in (root / "releases" / NAME).iterdir()] == ["release.json"]


def test_archive_of_a_running_master_without_cache_stays(
    artefact: ModuleType, master: Master, root: Path
) -> None:
    """`salt-call --local` is given the file itself."""
    artefact.__opts__["cachedir"] = "/var/cache/elsewhere"
    master.publish(NAME, packed(root.parent))
    artefact.fetch(NAME, "salt://archives", str(root))
    assert [path.name for path in master.cache.iterdir()] == [f"{NAME}.tar.zst"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda master: master.served.clear(), "has no complete .*: apply the state airflow.artef"),
        (lambda master: master.served.pop(f"{NAME}.tar.zst"), "does not send salt://archives"),
        (lambda master: master.publish(NAME, b"x", "0" * 64), r"is broken: its SHA-256 is .*not 0"),
        (lambda master: master.publish(NAME, b"no archive"), "cannot be unpacked: .*tar"),
    ],
)
def test_broken_archive_is_refused_with_its_cause(
    artefact: ModuleType,
    master: Master,
    root: Path,
    spoil: Callable[[Master], None],
    message: str,
) -> None:
    master.publish(NAME, packed(root.parent))
    spoil(master)
    with pytest.raises(CommandExecutionError, match=f"(?s){message}"):
        artefact.fetch(NAME, "salt://archives", str(root))
    assert not (root / "releases" / NAME).exists()
    assert not (root / "incoming").exists()
    assert list(master.cache.iterdir()) == []


def test_truncated_archive_is_refused(artefact: ModuleType, master: Master, root: Path) -> None:
    whole = packed(root.parent, **{"static/static/a.js": "a" * 100_000})
    master.publish(NAME, whole)
    master.served[f"{NAME}.tar.zst"] = whole[:-20]
    with pytest.raises(CommandExecutionError, match="is broken"):
        artefact.fetch(NAME, "salt://archives", str(root))


def test_archive_of_another_release_is_refused(
    artefact: ModuleType, master: Master, root: Path
) -> None:
    master.publish(NAME, packed(root.parent, "other"))
    with pytest.raises(CommandExecutionError, match=f"does not hold the release {NAME}"):
        artefact.fetch(NAME, "salt://archives", str(root))


# -- the assets of several releases ----------------------------------------------------------------


def unpacked(root: Path, name: str, *assets: str) -> None:
    for path in ("release.json", *(f"static/{asset}" for asset in assets)):
        target = root / "releases" / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{name} {path}")


def test_assets_of_all_releases_are_shared_and_go_with_them(
    artefact: ModuleType, root: Path
) -> None:
    unpacked(root, "old", "static/assets/old-1.js", "static/pin.png")
    artefact.share(str(root))
    unpacked(root, "new", "static/assets/new-2.js", "static/pin.png", "auth/static/x/y.css")
    assert artefact.unshared(str(root)) == [
        "auth/static/x/y.css",
        "static/assets/new-2.js",
    ]
    artefact.share(str(root))
    assert artefact.unshared(str(root)) == []
    found = {
        str(path.relative_to(root / "assets"))
        for path in (root / "assets").rglob("*")
        if path.is_file()
    }
    assert found == {
        "auth/static/x/y.css",
        "static/assets/new-2.js",
        "static/assets/old-1.js",
        "static/pin.png",
    }
    shutil.rmtree(root / "releases/new")
    artefact.share(str(root))
    assert not (root / "assets/auth").exists()
    assert not (root / "assets/static/assets/new-2.js").exists()
    assert (root / "assets/static/assets/old-1.js").is_file()


def test_incomplete_release_shares_nothing(artefact: ModuleType, root: Path) -> None:
    unpacked(root, "half", "static/a.js")
    (root / "releases/half/release.json").unlink()
    assert artefact.unshared(str(root)) == []


def test_changed_and_strange_assets_are_put_right(artefact: ModuleType, root: Path) -> None:
    unpacked(root, "one", "static/a.js", "static/b.js")
    artefact.share(str(root))
    (root / "assets/static/a.js").unlink()
    (root / "assets/static/a.js").write_text("by hand")
    (root / "assets/static/strange.js").write_text("by hand")
    assert artefact.unshared(str(root)) == ["static/a.js", "static/strange.js"]
    artefact.share(str(root))
    assert (root / "assets/static/a.js").read_text() == "one static/static/a.js"
    assert artefact.unshared(str(root)) == []


# -- on the Salt master ----------------------------------------------------------------------------


class Systemd:
    """In place of systemd and its journal."""

    def __init__(self, retcode: int = 0) -> None:
        self.retcode = retcode
        self.commands: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> dict[str, Any]:
        self.commands.append(" ".join(command))
        return {"retcode": self.retcode, "stdout": "release 3.3 is not built: the disk is full"}


@pytest.mark.parametrize(("wait", "option"), [(True, ""), (False, "--no-block ")])
def test_build_is_a_unit_that_is_joined(wait: bool, option: str) -> None:
    systemd = Systemd()
    artefact = load("_modules", "airflow_artefact", __salt__={"cmd.run_all": systemd})
    artefact.build("3.3", wait=wait)
    assert systemd.commands == [f"systemctl start {option}airflow-release@3.3.service"]


def test_failed_build_says_why() -> None:
    artefact = load("_modules", "airflow_artefact", __salt__={"cmd.run_all": Systemd(1)})
    with pytest.raises(CommandExecutionError, match=r"3\.3\.service failed: .* the disk is full"):
        artefact.build("3.3", wait=True)


def test_archive_without_digest_is_not_built(tmp_path: Path) -> None:
    artefact = load("_modules", "airflow_artefact")
    (tmp_path / "3.3.tar.zst").touch()
    assert not artefact.built("3.3", str(tmp_path))
    (tmp_path / "3.3.tar.zst.sha256").touch()
    assert artefact.built("3.3", str(tmp_path))


class Builder:
    """A master as the state sees it."""

    def __init__(
        self,
        *,
        built: bool = False,
        error: str = "",
        broken: bool = False,
        bucket: str | None = "",
    ) -> None:
        """Say what there is.

        Args:
            built: whether the archive is complete.
            error: of a build.
            broken: whether a build leaves no archive.
            bucket: the release that it has; None: it cannot be used.
        """
        self.is_built, self.error, self.broken, self.bucket = built, error, broken, bucket
        self.done: list[bool] = []
        self.moved: list[str] = []

    def _has(self, name: str) -> bool:
        if self.bucket is None:
            raise CommandExecutionError("AccessDenied")
        return name == self.bucket

    def _get(self, name: str, folder: str) -> None:
        assert (name, folder) == (NAME, "/archives")
        self.moved.append("get")
        if self.broken:
            raise CommandExecutionError("its SHA-256 is 0, and not 1")
        self.is_built = True

    def _put(self, name: str, folder: str) -> str:
        assert (name, folder) == (NAME, "/archives")
        self.moved.append("put")
        if self.broken:
            raise CommandExecutionError("AccessDenied")
        self.bucket = name
        return f"s3://bucket/{name}"

    def build(self, name: str, *, wait: bool) -> None:
        assert name == NAME
        if self.error:
            raise CommandExecutionError(self.error)
        self.done.append(wait)
        self.is_built = wait and not self.broken

    def state(
        self, *, test: bool = False, lockfile: bool = True, what: str = "built", **options: Any
    ) -> dict[str, Any]:
        functions = {
            "file.file_exists": lambda _: lockfile,
            "airflow.release_name": lambda _: NAME,
            "airflow_artefact.built": lambda name, folder: (
                (name, folder) == (NAME, "/archives") and self.is_built
            ),
            "airflow_artefact.build": self.build,
            "release_bucket.has": self._has,
            "release_bucket.same": lambda name, folder: folder == "/archives" and self._has(name),
            "release_bucket.get": self._get,
            "release_bucket.put": self._put,
        }
        states = load("_states", "airflow_artefact", __salt__=functions, __opts__={"test": test})
        ret: dict[str, Any] = getattr(states, what)("/archives", "/lock", **options)
        assert ret["name"] == "/archives"
        return ret


def test_state_builds_and_waits() -> None:
    builder = Builder()
    ret = builder.state()
    assert (ret["result"], ret["changes"]) == (True, {"built": NAME})
    assert builder.done == [True]
    again = builder.state()
    assert (again["result"], again["changes"]) == (True, {})
    assert builder.done == [True]


def test_state_starts_a_build_in_the_background() -> None:
    builder = Builder()
    ret = builder.state(wait=False)
    assert (ret["result"], ret["comment"]) == (
        True,
        f"{NAME} is being built; the bucket does not have it",
    )
    assert builder.done == [False]


@pytest.mark.parametrize("lockfile", [True, False])
def test_state_predicts_a_build(lockfile: bool) -> None:
    builder = Builder()
    ret = builder.state(test=True, lockfile=lockfile)
    assert (ret["result"], builder.done) == (None, [])
    assert Builder(built=True).state(test=True)["result"] is True


def test_state_fails_with_the_build() -> None:
    ret = Builder(error="the disk is full").state()
    assert (ret["result"], ret["comment"]) == (False, "the disk is full")
    ret = Builder(broken=True).state()
    why = "the bucket does not have it"
    assert (ret["result"], ret["comment"]) == (
        False,
        f"the build of {NAME} left no archive; {why}",
    )


# -- the bucket of the deployment ------------------------------------------------------------------


def test_state_takes_from_the_bucket_what_it_has() -> None:
    master = Builder(bucket=NAME)
    predicted = master.state(test=True)
    assert (predicted["result"], predicted["comment"]) == (
        None,
        f"{NAME} would be taken from the bucket",
    )
    assert master.moved == []
    ret = master.state(wait=False)
    assert (ret["result"], ret["changes"]) == (True, {"taken": NAME})
    assert (master.moved, master.done) == (["get"], [])
    assert master.state()["changes"] == {}
    assert master.moved == ["get"]


@pytest.mark.parametrize(
    ("bucket", "broken", "why"),
    [
        (None, False, "AccessDenied"),
        (NAME, True, "its SHA-256 is 0, and not 1"),
    ],
)
def test_state_builds_what_the_bucket_does_not_give(
    bucket: str | None, broken: bool, why: str
) -> None:
    master = Builder(bucket=bucket, broken=broken)
    if not broken:
        assert why in master.state(test=True)["comment"]
    ret = master.state(wait=False)
    assert (ret["result"], master.done) == (True, [False])
    assert f"warning: it was not taken from the bucket: {why}" in ret["comment"]


def test_release_is_kept_in_the_bucket_once() -> None:
    master = Builder(built=True)
    predicted = master.state(what="kept", test=True)
    assert (predicted["result"], predicted["changes"], master.moved) == (None, {}, [])
    assert "would be put into the bucket" in predicted["comment"]
    ret = master.state(what="kept")
    assert (ret["result"], ret["changes"]) == (True, {"kept": f"s3://bucket/{NAME}"})
    for test in (True, False):
        again = master.state(what="kept", test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert master.moved == ["put"]
    ret = Builder().state(what="kept", test=True, lockfile=False)
    assert (ret["result"], ret["changes"]) == (None, {})


@pytest.mark.parametrize(("bucket", "broken"), [(None, False), ("", True)])
def test_bucket_that_cannot_be_used_is_a_warning(bucket: str | None, broken: bool) -> None:
    ret = Builder(built=True, bucket=bucket, broken=broken).state(what="kept")
    assert (ret["result"], ret["changes"]) == (True, {})
    warning = f"warning: {NAME} is not kept in the bucket: AccessDenied"
    assert ret["comment"] == warning
