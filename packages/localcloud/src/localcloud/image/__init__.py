"""Builds the machines' image: a Debian made by mmdebstrap, and the additions of a Debian AMI.

An image's tag is a hash of its content, so an unchanged image is found and a changed one is built.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound

from localcloud import packages
from localcloud.config import Report
from localcloud.errors import BaseImageFailed, ImageBuildFailed

SUITE = "trixie"
MIRROR = "http://deb.debian.org"
# As Debian's image for EC2 has them: suite -> archive.
SUITES = {SUITE: "debian", f"{SUITE}-updates": "debian", f"{SUITE}-security": "debian-security"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_CA = Path("/usr/local/share/ca-certificates")
PACKAGES = [
    "ca-certificates",
    "curl",
    "dbus",
    "gnupg",
    "iproute2",
    "iputils-ping",
    "libpam-systemd",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-venv",
    "python3-yaml",
    "sudo",
    "systemd",
    "systemd-sysv",
    "unattended-upgrades",
]
BASE_REPOSITORY = "localcloud/debian-13"
REPOSITORY = "localcloud/machine"
_OURS = re.compile(r":[0-9a-f]{12}$")


def ensure(client: docker.DockerClient, report: Report, requirements: Path) -> str:
    """Return the tag of the machines' image; build the image if it is missing.

    Args:
        client: the engine to build in.
        report: receives one line per step.
        requirements: hash-locked requirements, which the image gets at /opt/salt.

    Raises:
        BaseImageFailed: mmdebstrap failed; the text has the reason and a hint.
        ImageBuildFailed: a step of the Dockerfile failed.
        PackagesFailed: mmdebstrap could not be installed.
    """
    wanted, base = tag(requirements), _base_tag()
    if exists(client, wanted):
        return wanted
    if not exists(client, base):
        _make_base(client, report, base)
    report(f"building {wanted}")
    _build(client, report, wanted, requirements)
    _remove_ours(client, keep={wanted, base})
    return wanted


def tag(requirements: Path) -> str:
    """Return the tag of the machines' image with these requirements."""
    context = sorted(_context(requirements).items())
    parts = [part for item in context for part in _flat(item)]
    return f"{REPOSITORY}:{_digest(_base_tag().encode(), *parts)}"


def exists(client: docker.DockerClient, wanted: str) -> bool:
    """Return whether the engine has an image with this tag."""
    try:
        client.images.get(wanted)
    except ImageNotFound:
        return False
    return True


def remove(client: docker.DockerClient) -> bool:
    """Remove the images that `ensure` has built, and return whether there were any.

    An image that a container uses stays.
    """
    return _remove_ours(client, keep=set())


def _remove_ours(client: docker.DockerClient, keep: set[str]) -> bool:
    removed = False
    for repository in (REPOSITORY, BASE_REPOSITORY):
        for image in client.images.list(name=repository):
            for name in set(filter(_OURS.search, image.tags)) - keep:
                with suppress(APIError):
                    client.images.remove(name)
                    removed = True
    return removed


def _base_tag() -> str:
    return f"{BASE_REPOSITORY}:{_digest(json.dumps([SUITES, PACKAGES]).encode())}"


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:12]


def _flat(item: tuple[str, tuple[int, bytes]]) -> tuple[bytes, ...]:
    name, (mode, content) = item
    return name.encode(), str(mode).encode(), content


def _context(requirements: Path) -> dict[str, tuple[int, bytes]]:
    """Return the build context: path -> (mode, content)."""
    context: dict[str, tuple[int, bytes]] = {"salt.txt": (0o644, requirements.read_bytes())}
    for entry in files(__name__).iterdir():
        if not entry.is_file() or entry.name.endswith(".py"):
            continue
        content = entry.read_bytes()
        context[entry.name] = (0o755 if content.startswith(b"#!") else 0o644, content)
    # The folder needs a file even if the host has no CA of its own, since COPY of nothing fails.
    context["host-ca/README"] = (0o644, b"CA certificates of the host that built this image.\n")
    for path in sorted(HOST_CA.rglob("*.crt")):
        context[f"host-ca/{path.relative_to(HOST_CA)}"] = (0o644, path.read_bytes())
    return context


def _make_base(client: docker.DockerClient, report: Report, tag: str) -> None:
    wanted = [] if shutil.which("mmdebstrap") else ["mmdebstrap"]
    if not KEYRING.exists():
        wanted.append(KEYRING.stem)
    if wanted:
        packages.install(wanted, report)
    report(f"making a Debian 13 base image with mmdebstrap from {MIRROR} (about a minute)")
    with tempfile.TemporaryDirectory(prefix="localcloud-", dir="/var/tmp") as scratch:
        packed = Path(scratch) / "base.tar"
        done = subprocess.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--keyring={KEYRING}",
                f"--include={','.join(PACKAGES)}",
                SUITE,
                str(packed),
                *(f"deb {MIRROR}/{archive} {suite} main" for suite, archive in SUITES.items()),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BaseImageFailed(_explain(done.stdout))
        report(f"importing {tag}")
        repository, _, version = tag.partition(":")
        client.api.import_image_from_file(
            str(packed),
            repository=repository,
            tag=version,
            changes=["LABEL localcloud.image=base"],
        )


def _explain(output: str) -> str:
    end = packages.tail(output)
    if any(
        sign in output for sign in ("NO_PUBKEY", "not signed", "Missing key", "no valid OpenPGP")
    ):
        return (
            f"mmdebstrap does not trust Debian 13's archive: {KEYRING} lacks trixie's keys. "
            "Upgrade the package debian-archive-keyring (2023.3+deb12u2, 2025.1 or newer)."
            f"\n{end}"
        )
    if (
        "Could not resolve" in output
        or "Failed to fetch" in output
        or "Could not connect" in output
    ):
        return (
            f"mmdebstrap could not download from {MIRROR}. Is the network up? "
            f"Does it need a proxy in http_proxy?\n{end}"
        )
    return f"mmdebstrap failed. The end of its output:\n{end}"


def _build(client: docker.DockerClient, report: Report, tag: str, requirements: Path) -> None:
    log: list[str] = []
    try:
        for event in client.api.build(
            fileobj=_tar(_context(requirements)),
            custom_context=True,
            tag=tag,
            buildargs={"BASE": _base_tag(), **_download_variables()},
            rm=True,
            forcerm=True,
            decode=True,
        ):
            _follow(event, log, report)
    except APIError as error:
        raise ImageBuildFailed(
            f"docker build failed: {error.explanation}\n{packages.tail(''.join(log))}"
        ) from error


def _download_variables() -> dict[str, str]:
    """Return the host's package index and proxies, as far as they are set."""
    names = ["PIP_INDEX_URL"]
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        names += [name, name.upper()]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _follow(event: dict[str, Any], log: list[str], report: Report) -> None:
    if text := event.get("stream"):
        log.append(text)
        if text.startswith("Step "):
            report(text.strip()[:120])
    if error := event.get("error"):
        raise ImageBuildFailed(f"docker build failed: {error}\n{packages.tail(''.join(log))}")


def _tar(context: dict[str, tuple[int, bytes]]) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, (mode, content) in sorted(context.items()):
            # Owner root and time 0, the defaults, keep the context equal for Docker's cache.
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(content)
            tar.addfile(entry, io.BytesIO(content))
    archive.seek(0)
    return archive
