#!/opt/salt/bin/python
"""Back up what the Salt master alone has into the deployment's bucket, and take it from there.

That is what is in no repository and cannot be made again: the master's key pair, the minions' keys
that it has accepted or rejected, the private key that decrypts the pillar, and the numbers of
machines that the master has chosen. An archive is signed by the deployment's key and encrypted to
that key and to the operators' before it leaves this process. Nothing is written in plaintext but
what `restore` puts in its place; keys that gpg needs are in /run meanwhile, which is memory.

All backups are versions of one object. The bucket expires a version some time after a newer one has
replaced it, so the newest stays whatever happens, and this program may delete nothing.

It prints JSON. Its exit code is 0, 1 with a sentence for the operator, or 3 where there is no
backup. On a new master it runs from the tree, before any state has been applied.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime as dt
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OBJECT = "master/backup.tar.gpg"
FORMAT = 1
NONE = 3  # exit code: there is no backup
DAILY = dt.timedelta(hours=24)
TIME = "%Y-%m-%dT%H:%M:%SZ"
_ID = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_KEYS = re.compile(rf"pki/({_ID}\.(pem|pub)|minions(_rejected)?/{_ID})")
COUNTS, PRIVATE_KEY, MANIFEST = "machines.conf", "gpg-private.asc", "manifest.json"
OTHERS = (COUNTS, PRIVATE_KEY, MANIFEST)


class BackupError(Exception):
    """Why there is no backup, or why one is refused: a sentence for the operator."""


class NoBackupError(BackupError):
    """The bucket has no backup."""


@dataclass(frozen=True)
class Places:
    """Where everything is on the master.

    Attributes:
        pki: the Salt master's keys.
        counts: the numbers of machines.
        keyring: gpg's folder with the deployment's private key.
        pillar: of the deployment, with the public keys of those who can open a backup.
        state: what is known of the last backup; salt/_modules/master_backup.py reads it.
    """

    pki: Path = Path("/etc/salt/pki/master")
    counts: Path = Path("/etc/salt/cloud.conf.d/machines.conf")
    keyring: Path = Path("/etc/salt/gpgkeys")
    pillar: Path = Path("/srv/stack/pillar")
    state: Path = Path("/var/lib/master-backup/state.json")


@dataclass(frozen=True)
class Version:
    """A backup in the bucket."""

    id: str
    made: dt.datetime
    size: int

    @property
    def name(self) -> str:
        """When it was put there, which is its name."""
        return self.made.strftime(TIME)

    def told(self) -> dict[str, Any]:
        """Return what `list` prints of it."""
        return {"name": self.name, "bytes": self.size, "version": self.id}


# -- the bucket ------------------------------------------------------------------------------------


class Bucket:
    """The backups in the deployment's bucket.

    It needs s3:PutObject, s3:GetObjectVersion and s3:ListBucketVersions below `master/`.
    """

    def __init__(self, name: str, region: str) -> None:
        """Find the account; boto3 finds the credentials.

        Args:
            name: of the bucket, with ``{account}`` for the account's number.
            region: where it is.
        """
        import boto3  # noqa: PLC0415 - its import takes a second, and most calls need none
        from botocore.config import Config  # noqa: PLC0415

        patience = Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        sts: Any = boto3.client("sts", region_name=region, config=patience)
        account = sts.get_caller_identity()["Account"]
        self._s3: Any = boto3.client("s3", region_name=region, config=patience)
        self._where = {
            "Bucket": name.replace("{account}", account),
            "ExpectedBucketOwner": account,
        }
        self.address = f"s3://{self._where['Bucket']}/{OBJECT}"

    def versions(self) -> list[Version]:
        """Return the backups, the newest first."""
        pages = self._s3.get_paginator("list_object_versions").paginate(
            Prefix=OBJECT, **self._where
        )
        found = [
            Version(one["VersionId"], one["LastModified"], one["Size"])
            for page in pages
            for one in page.get("Versions", ())
            if one["Key"] == OBJECT
        ]
        return sorted(found, key=lambda one: one.made, reverse=True)

    def find(self, name: str) -> Version:
        """Return the backup of a name, or the newest for an empty name; raise BackupError."""
        found = self.versions()
        if not found:
            raise NoBackupError(f"there is no backup at {self.address}")
        for one in found:
            if name in ("", one.name, one.id):
                return one
        raise BackupError(
            f"{self.address} has no backup of {name}: the newest is of {found[0].name}, the oldest"
            f" of {found[-1].name}; stackctl master backups lists them"
        )

    def get(self, version: Version) -> bytes:
        """Return what a backup holds, encrypted."""
        answer = self._s3.get_object(Key=OBJECT, VersionId=version.id, **self._where)
        content: bytes = answer["Body"].read()
        return content

    def put(self, content: bytes) -> str:
        """Keep a backup, which S3 compares with its digest; return the version's id."""
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        answer = self._s3.put_object(Key=OBJECT, Body=content, ChecksumSHA256=digest, **self._where)
        return str(answer.get("VersionId", ""))


# -- the archive -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        deployment: whose it is.
        made: when.
        files: name in the archive -> content, without the manifest.
    """

    deployment: str
    made: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def minions(self) -> list[str]:
        """The minions whose keys were accepted."""
        folder = "pki/minions/"
        return sorted(name.removeprefix(folder) for name in self.files if name.startswith(folder))

    def packed(self) -> bytes:
        """Return it as a tar archive."""
        manifest = {"format": FORMAT, "deployment": self.deployment, "made": self.made}
        files = {MANIFEST: json.dumps(manifest).encode(), **self.files}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in sorted(files.items()):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o600
                archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    @classmethod
    def unpacked(cls, content: bytes, deployment: str) -> Backup:
        """Return what an archive holds; raise BackupError unless it is a deployment's backup."""
        files: dict[str, bytes] = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                for member in archive:
                    if not member.isfile() or not (
                        _KEYS.fullmatch(member.name) or member.name in OTHERS
                    ):
                        raise BackupError(f"{member.name!r} belongs in no backup of a master")
                    file = archive.extractfile(member)
                    files[member.name] = file.read() if file else b""
            manifest = json.loads(files.pop(MANIFEST))
            known = (manifest["format"], manifest["deployment"], str(manifest["made"]))
        except (tarfile.TarError, LookupError, ValueError, TypeError) as error:
            raise BackupError(f"it holds no archive of this program: {error}") from None
        if known[0] != FORMAT:
            raise BackupError(f"it has the format {known[0]}, and this program reads {FORMAT}")
        if known[1] != deployment:
            raise BackupError(f"it is of the deployment {known[1]!r}, and not of {deployment!r}")
        if not any(name.endswith(".pem") for name in files):
            raise BackupError("it holds no key of a master")
        return cls(deployment, known[2], files)


def gather(places: Places, deployment: str, now: dt.datetime) -> Backup:
    """Return what there is to back up now, without the private key of gpg."""
    files = {}
    for pattern in ("*.pem", "*.pub", "minions/*", "minions_rejected/*"):
        for path in places.pki.glob(pattern):
            name = f"pki/{path.relative_to(places.pki)}"
            if path.is_file() and _KEYS.fullmatch(name):
                files[name] = path.read_bytes()
    if not any(name.endswith(".pem") for name in files):
        raise BackupError(f"{places.pki} holds no key of a master: has salt-master started?")
    if places.counts.is_file():
        files[COUNTS] = places.counts.read_bytes()
    return Backup(deployment, now.strftime(TIME), files)


# -- gpg -------------------------------------------------------------------------------------------


def readers(pillar: Path) -> list[Path]:
    """Return the public keys of those who can open a backup, the deployment's own first.

    Raises:
        BackupError: the deployment's is missing.
    """
    own = pillar / "public.asc"
    if not own.is_file():
        raise BackupError(f"{own} is missing: stackctl up brings the pillar to the master")
    return [own, *sorted((pillar / "operators").glob("*.asc"))]


@contextmanager
def keyring(public: Path, private: Path) -> Iterator[Path]:
    """Yield a keyring in memory with the deployment's key, which is removed afterwards.

    An agent of its own serves it: one of Salt's keyring would end with the unit that started it,
    while Salt decrypts.

    Args:
        public: the file of the public key.
        private: gpg's folder that holds the private one.
    """
    memory = "/run" if os.access("/run", os.W_OK) else None
    # A short path: the path of the agent's socket holds 107 bytes at most.
    home = Path(tempfile.mkdtemp(prefix="master-backup-", dir=memory))
    try:
        keys = home / "private-keys-v1.d"
        keys.mkdir(mode=0o700)
        for path in (private / "private-keys-v1.d").glob("*.key"):
            (keys / path.name).touch(mode=0o600)
            (keys / path.name).write_bytes(path.read_bytes())
        gpg(home, ["--import", str(public)])
        yield home
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(
                ["gpgconf", "--homedir", str(home), "--kill", "all"],
                check=False,
                capture_output=True,
            )
        shutil.rmtree(home, ignore_errors=True)


def gpg(
    home: Path | None, args: Sequence[str], stdin: bytes = b"", told: list[str] | None = None
) -> bytes:
    """Run gpg and return its output; raise BackupError with its last word.

    Args:
        home: the keyring; None: of whoever runs this.
        args: of gpg; none is secret.
        stdin: what it reads.
        told: receives its status lines, also of a failure.
    """
    where = ["--homedir", str(home), "--batch"] if home else []
    command = ["gpg", *where, "--quiet", "--no-tty", "--status-fd", "2", *args]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    except FileNotFoundError:
        raise BackupError("gpg is not installed") from None
    lines = done.stderr.decode(errors="replace").splitlines()
    status = [line.removeprefix("[GNUPG:] ") for line in lines if line.startswith("[GNUPG:] ")]
    if told is not None:
        told += status
    if done.returncode:
        words = [line for line in lines if line.strip() and not line.startswith("[GNUPG:] ")]
        raise BackupError(words[-1].strip() if words else f"gpg ends with {done.returncode}")
    return done.stdout


def fingerprint(public: Path) -> str:
    """Return the fingerprint of the primary key in a file."""
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        shown = gpg(Path(home), ["--with-colons", "--show-keys", str(public)])
    found = re.search(rb"^fpr:+([0-9A-F]+):", shown, re.MULTILINE)
    if not found:
        raise BackupError(f"{public} holds no public key")
    return found[1].decode()


def seal(backup: Backup, keys: Sequence[Path], home: Path) -> bytes:
    """Return a backup signed by the deployment's key and encrypted to all keys.

    Args:
        backup: what to seal; the deployment's private key is added to it.
        keys: the public keys of those who can open it, the deployment's first.
        home: a keyring with the deployment's private key.
    """
    own = fingerprint(keys[0])
    private = gpg(home, ["--armor", "--export-secret-keys", own])
    if not private:
        raise BackupError(f"the private key {own} is not on this machine")
    whole = Backup(backup.deployment, backup.made, {**backup.files, PRIVATE_KEY: private})
    to = [part for key in keys for part in ("--recipient-file", str(key))]
    return gpg(home, ["--local-user", own, "--sign", *to, "--encrypt"], whole.packed())


def unseal(content: bytes, public: Path, home: Path | None, deployment: str) -> Backup:
    """Return what a sealed backup holds.

    Args:
        content: the sealed backup.
        public: the file of the deployment's public key, which has to have signed it.
        home: a keyring with a key that opens it; None: of whoever runs this.
        deployment: whose it has to be.

    Raises:
        BackupError: it cannot be opened, is damaged, or is somebody else's.
    """
    told: list[str] = []
    own = fingerprint(public)
    with tempfile.TemporaryDirectory(prefix="gpg-") as scratch:
        # An operator's own keyring need not know the deployment's key.
        known = ["--no-default-keyring", "--keyring", f"{scratch}/public.gpg"] if not home else []
        if known:
            gpg(None, [*known, "--import", str(public)])
            known = ["--keyring", f"{scratch}/public.gpg"]
        try:
            plain = gpg(home, [*known, "--decrypt"], content, told)
        except BackupError as error:
            raise BackupError(_refusal(told, own, str(error))) from None
    words = [line.split() for line in told]
    signers = [line[-1] for line in words if line[0] == "VALIDSIG"]
    if signers != [own] or sum(line[0] == "PLAINTEXT" for line in words) != 1:
        raise BackupError(
            f"the deployment's key {own} has not signed it: somebody else has put it there"
        )
    return Backup.unpacked(plain, deployment)


def _refusal(told: Sequence[str], own: str, error: str) -> str:
    """Return why gpg does not open a backup."""
    words = [line.split()[0] for line in told]
    if "BADSIG" in words or "ERRSIG" in words:
        return f"the deployment's key {own} has not signed it: {error}"
    if "ENC_TO" in words and "DECRYPTION_KEY" not in words:
        keys = ", ".join(line.split()[1] for line in told if line.startswith("ENC_TO"))
        return (
            f"no key here opens it: it is encrypted to {keys}, so it is of another deployment, or"
            " of a time before this deployment's key was made"
        )
    return f"it is damaged: {error}"


# -- what is done ----------------------------------------------------------------------------------


def digest(backup: Backup, keys: Sequence[Path]) -> str:
    """Return the digest of what a backup holds and of who can open it, but not of its time."""
    found = hashlib.sha256()
    for name, content in sorted(backup.files.items()):
        found.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    for key in keys:
        found.update(key.read_bytes())
    return found.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """Return what is known of the last backup; nothing: an empty dictionary."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(mode)
    fresh.replace(path)


def is_due(state: Mapping[str, Any], wanted: str, now: dt.datetime) -> bool:
    """Return whether another backup is needed: a key has changed, or the last one is a day old."""
    if state.get("digest") != wanted or state.get("failing"):
        return True
    made = dt.datetime.strptime(state["made"], TIME).replace(tzinfo=dt.UTC)
    return now - made >= DAILY


def back_up(options: argparse.Namespace, places: Places) -> dict[str, Any]:
    """Make a backup, unless none is needed and `--if-needed` is given; return what was done."""
    now = dt.datetime.now(dt.UTC)
    state = read_state(places.state)
    state.setdefault("begun", now.strftime(TIME))
    try:
        keys = readers(places.pillar / options.deployment)
        backup = gather(places, options.deployment, now)
        wanted = digest(backup, keys)
        if options.if_needed and not is_due(state, wanted, now):
            return {"made": False}
        with keyring(keys[0], places.keyring) as home:
            sealed = seal(backup, keys, home)
        bucket = Bucket(options.bucket, options.region)
        version = bucket.put(sealed)
    except Exception as error:
        why = " ".join(str(error).split())
        failing = state.get("failing") or {"since": now.strftime(TIME)}
        failed = {**state, "failing": {**failing, "why": why}}
        write(places.state, json.dumps(failed).encode(), 0o600)
        raise
    state = {"begun": state["begun"], "made": backup.made, "digest": wanted}
    write(places.state, json.dumps(state).encode(), 0o600)
    return {
        "made": True,
        "where": bucket.address,
        "version": version,
        "bytes": len(sealed),
        "minions": backup.minions,
        "readers": len(keys),
    }


def restore(options: argparse.Namespace, places: Places) -> dict[str, Any]:
    """Put a backup in its place, and return what differs from what was there.

    The key of the master's own minion stays as it is: that minion is on this machine.
    """
    if options.if_new and any(places.pki.glob("*.pem")):
        return {"restored": False}
    bucket = Bucket(options.bucket, options.region)
    version = bucket.find(options.version)
    public = readers(places.pillar / options.deployment)[0]
    with keyring(public, places.keyring) as home:
        try:
            backup = unseal(bucket.get(version), public, home, options.deployment)
        except BackupError as error:
            raise BackupError(f"the backup of {version.name} is refused: {error}") from None
    skipped = {options.id, *_gone(backup, options.machines)}
    todo = _differing(backup, places, skipped)
    if not options.dry_run and todo:
        _put_back(todo, places)
    return {
        "restored": True,
        "name": version.name,
        "made": backup.made,
        "minions": [name for name in backup.minions if name not in skipped],
        "left": sorted(skipped & {*backup.minions} - {options.id}),
        "changes": [str(path) for path in todo],
    }


def _gone(backup: Backup, machines: Collection[str] | None) -> set[str]:
    """Return the minions of a backup whose machines do not exist any more."""
    return set() if machines is None else {*backup.minions} - {*machines}


def _differing(
    backup: Backup, places: Places, skipped: Collection[str]
) -> dict[Path, tuple[bytes, int]]:
    """Return path -> content and mode of the files that differ, the master's own keys last.

    So a restore that was interrupted is seen: the master has no key yet.
    """
    wanted: dict[Path, tuple[bytes, int]] = {}
    for name, content in backup.files.items():
        folder, _, key = name.removeprefix("pki/").rpartition("/")
        if name == COUNTS:
            wanted[places.counts] = (content, 0o644)
        elif name.startswith("pki/") and not (folder and key in skipped):
            secret = name.endswith(".pem")
            wanted[places.pki / folder / key] = (content, 0o400 if secret else 0o644)
    order = sorted(wanted, key=lambda path: (path.parent == places.pki, path.suffix == ".pem"))
    return {
        path: wanted[path]
        for path in order
        if not path.is_file() or path.read_bytes() != wanted[path][0]
    }


def _put_back(todo: Mapping[Path, tuple[bytes, int]], places: Places) -> None:
    """Write files while the Salt master, where there is one, stands still."""
    places.pki.mkdir(parents=True, exist_ok=True)
    places.pki.chmod(0o700)
    asked = ["systemctl", "is-active", "--quiet", "salt-master"]
    runs = subprocess.run(asked, check=False).returncode == 0
    if runs:
        subprocess.run(["systemctl", "stop", "salt-master"], check=True)
    try:
        for path, (content, mode) in todo.items():
            write(path, content, mode)
    finally:
        if runs:
            subprocess.run(["systemctl", "start", "salt-master"], check=True)


def listed(options: argparse.Namespace, _: Places) -> dict[str, Any]:
    """Return the backups in the bucket, the newest first."""
    bucket = Bucket(options.bucket, options.region)
    return {"where": bucket.address, "backups": [one.told() for one in bucket.versions()]}


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Back up the Salt master's keys, or restore them.")
    parser.add_argument("--deployment", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--bucket", required=True, help="with {account} for the account's number")
    verbs = parser.add_subparsers(required=True)
    backup = verbs.add_parser("backup")
    backup.add_argument("--if-needed", action="store_true")
    backup.set_defaults(act=back_up)
    verbs.add_parser("list").set_defaults(act=listed)
    back = verbs.add_parser("restore")
    back.add_argument("--id", required=True, help="of the master's own minion")
    back.add_argument("--version", default="", help="the name of a backup (default: the newest)")
    back.add_argument("--machines", type=lambda text: text.split(","), help="those that exist")
    back.add_argument("--if-new", action="store_true", help="unless this master has a key")
    back.add_argument("--dry-run", action="store_true")
    back.set_defaults(act=restore)
    return parser


def main(given: Sequence[str] | None = None, places: Places | None = None) -> int:
    """Do what the command line says; return 0 done, 1 refused, 3 there is no backup."""
    options = arguments().parse_args(given)
    try:
        print(json.dumps(options.act(options, places or Places())))
    except NoBackupError as error:
        print(error, file=sys.stderr)
        return NONE
    except Exception as error:  # noqa: BLE001 - boto3, gpg and the disk fail in many ways
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
