"""Backups of the Salt master's keys: for their readers alone, and refused when they are not whole.

The bucket is the local cloud's, and gpg and the program are those of the master.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import awsenvironment
from localcloud.faults import Fault
from memorycloud import Running, with_bucket
from plainpillar import ROOT
from saltmodules import load, load_file

program = load_file(ROOT / "salt/master/files/master_backup.py")
told = load("_modules", "master_backup").told
BUCKET = "stack-prod-123456789012-eu-west-1"
KEY = "master/backup.tar.gpg"
PRIVATE = "-----BEGIN RSA PRIVATE KEY-----\nof the master\n"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with with_bucket(tmp_path_factory.mktemp("cloud"), BUCKET) as made:
        yield made


@pytest.fixture
def s3(cloud: Running, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the empty bucket's owner."""
    awsenvironment.use(monkeypatch, cloud)
    client = cloud.client("s3")
    for one in client.list_object_versions(Bucket=BUCKET).get("Versions", ()):
        client.delete_object(Bucket=BUCKET, Key=one["Key"], VersionId=one["VersionId"])
    return client


def gpg(home: Path, *args: str, stdin: bytes = b"", check: bool = True) -> bytes:
    """Run gpg with a keyring, and return its output."""
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", *args]
    return subprocess.run(command, input=stdin, capture_output=True, check=check).stdout


@pytest.fixture(scope="module")
def keyrings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A function that returns somebody's keyring, with a key pair and the file `public.asc`."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            home = made[name] = tmp_path_factory.mktemp("k")
            home.chmod(0o700)
            kind = ("future-default", "default", "never")
            gpg(home, "--passphrase", "", "--quick-generate-key", name, *kind)
            (home / "public.asc").write_bytes(gpg(home, "--armor", "--export"))
        return made[name]

    yield make
    for home in made.values():
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


@dataclass
class Master:
    """A Salt master's disk, and what its program says there."""

    places: Any
    capture: pytest.CaptureFixture[str]

    def run(self, *args: str, deployment: str = "prod", code: int = 0) -> Any:
        """Run the program; return what it prints, or its sentence for another exit code than 0."""
        whose = ("--deployment", deployment, "--region", "eu-west-1")
        bucket = ("--bucket", "stack-prod-{account}-eu-west-1")
        assert program.main([*whose, *bucket, *args], self.places) == code
        out, err = self.capture.readouterr()
        assert err.count("\n") <= 1, "a sentence is one line"
        return json.loads(out) if code == 0 else err.strip()

    def restore(self, *args: str, code: int = 0) -> Any:
        return self.run("restore", "--id", "salt-1", *args, code=code)

    def files(self) -> dict[str, str]:
        pki = self.places.pki
        return {
            str(one.relative_to(pki)): one.read_text() for one in pki.rglob("*") if one.is_file()
        }

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.places.state.read_text()))


@pytest.fixture
def master_of(
    tmp_path: Path, keyrings: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> Callable[..., Master]:
    """A function that makes a new master's disk: which deployment's, with whose keys."""

    def make(name: str, key: str = "prod", operators: tuple[str, ...] = ()) -> Master:
        folder = tmp_path / name
        for pillar in (folder / "pillar" / "prod", folder / "pillar" / "test"):
            (pillar / "operators").mkdir(parents=True)
            (pillar / "public.asc").write_bytes((keyrings(key) / "public.asc").read_bytes())
            for one in operators:
                public = (keyrings(one) / "public.asc").read_bytes()
                (pillar / "operators" / f"{one}.asc").write_bytes(public)
        places = program.Places(
            pki=folder / "pki",
            counts=folder / "cloud.conf.d" / "machines.conf",
            keyring=keyrings(key),
            pillar=folder / "pillar",
            state=folder / "state" / "state.json",
        )
        return Master(places, capsys)

    return make


def with_keys(master: Master, **minions: str) -> Master:
    """Give a master its keys, those of its minions, and numbers of machines."""
    pki = master.places.pki
    for folder in ("minions", "minions_pre", "minions_rejected"):
        (pki / folder).mkdir(parents=True, exist_ok=True)
    for kind, text in (("pem", PRIVATE), ("pub", "public half")):
        (pki / f"salt-1.{kind}").write_text(text)
    for name, text in {"salt-1": "own", "web-1": "of web-1", **minions}.items():
        (pki / "minions" / name).write_text(text)
    (pki / "minions_pre" / "web-9").write_text("nobody knows it yet")
    (pki / "minions_rejected" / "eve-1").write_text("rejected")
    master.places.counts.parent.mkdir(exist_ok=True)
    master.places.counts.write_text('{"machine_counts": {"web": 3}}')
    return master


def test_new_master_gets_the_keys_of_the_lost_one(
    s3: Any, master_of: Callable[..., Master]
) -> None:
    old, new = with_keys(master_of("old"), **{"lb-1": "of lb-1"}), master_of("new")
    made = old.run("backup")
    assert made["where"] == f"s3://{BUCKET}/{KEY}"
    assert (made["minions"], made["readers"]) == (["lb-1", "salt-1", "web-1"], 1)
    assert made["bytes"] == s3.head_object(Bucket=BUCKET, Key=KEY)["ContentLength"]
    found = new.restore("--if-new")
    assert (found["minions"], found["left"]) == (["lb-1", "web-1"], [])
    assert new.files() == {
        "salt-1.pem": PRIVATE,
        "salt-1.pub": "public half",
        "minions/lb-1": "of lb-1",
        "minions/web-1": "of web-1",
        "minions_rejected/eve-1": "rejected",
    }, "not its own minion's, and no key that nobody has judged"
    assert new.places.counts.read_text() == '{"machine_counts": {"web": 3}}'
    modes = {one.name: one.stat().st_mode & 0o777 for one in new.places.pki.glob("salt-1.*")}
    assert modes == {"salt-1.pem": 0o400, "salt-1.pub": 0o644}
    assert new.restore("--if-new") == {"restored": False}
    assert new.restore()["changes"] == []


def test_key_of_a_machine_that_is_gone_stays_out(s3: Any, master_of: Callable[..., Master]) -> None:
    with_keys(master_of("old"), **{"lb-1": "of lb-1"}).run("backup")
    new = master_of("new")
    found = new.restore("--machines", "salt-1,lb-1")
    assert (found["minions"], found["left"]) == (["lb-1"], ["web-1"])
    assert not (new.places.pki / "minions" / "web-1").exists()


def test_restore_by_hand_names_what_differs_and_can_be_rehearsed(
    s3: Any, master_of: Callable[..., Master]
) -> None:
    master = with_keys(master_of("old"))
    master.run("backup")
    (master.places.pki / "minions" / "web-1").write_text("another")
    (master.places.pki / "minions" / "web-2").write_text("newer than the backup")
    before = master.files()
    wanted = [str(master.places.pki / "minions" / "web-1")]
    assert master.restore("--dry-run")["changes"] == wanted
    assert master.files() == before
    assert master.restore()["changes"] == wanted
    assert master.files() == {**before, "minions/web-1": "of web-1"}


def test_nobody_but_the_deployment_and_its_operators_opens_a_backup(
    s3: Any, master_of: Callable[..., Master], keyrings: Callable[[str], Path]
) -> None:
    with_keys(master_of("old", operators=("ann",))).run("backup")
    sealed = s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    for secret in (PRIVATE, "web-1", "PRIVATE KEY BLOCK"):
        assert secret.encode() not in sealed
    for reader in ("prod", "ann"):
        assert b"of the master" in gpg(keyrings(reader), "--decrypt", stdin=sealed, check=False)
    assert gpg(keyrings("eve"), "--decrypt", stdin=sealed, check=False) == b""


def test_backup_holds_the_key_that_decrypts_the_pillar(
    s3: Any, master_of: Callable[..., Master], keyrings: Callable[[str], Path], tmp_path: Path
) -> None:
    with_keys(master_of("old", operators=("ann",))).run("backup")
    sealed = s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    public = keyrings("prod") / "public.asc"
    with program.keyring(keyrings("ann") / "public.asc", keyrings("ann")) as home:
        gpg(home, "--import", str(public))
        backup = program.unseal(sealed, public, home, "prod")
    secret = gpg(keyrings("prod"), "--encrypt", "--recipient-file", str(public), stdin=b"secret")
    fresh = tmp_path / "fresh"
    fresh.mkdir(mode=0o700)
    gpg(fresh, "--import", stdin=backup.files["gpg-private.asc"])
    try:
        assert gpg(fresh, "--decrypt", stdin=secret) == b"secret"
    finally:
        subprocess.run(["gpgconf", "--homedir", str(fresh), "--kill", "all"], check=False)


def seal(
    keyrings: Callable[[str], Path], signer: str, files: dict[str, bytes], deployment: str = "prod"
) -> bytes:
    """Return an archive of files, encrypted to prod's key and signed by another, or by nobody."""
    packed = program.Backup(deployment, "2026-01-01T00:00:00Z", files).packed()
    to = ("--recipient-file", str(keyrings("prod") / "public.asc"))
    home = keyrings(signer or "prod")
    return gpg(home, *(("--sign",) if signer else ()), *to, "--encrypt", stdin=packed)


KEYS = {"pki/salt-1.pem": b"key"}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("unsigned", "has not signed it: somebody else has put it there"),
        ("foreign", "has not signed it"),
        ("cut", "is refused: it is damaged"),
        ("garbage", "is refused: it is damaged"),
        ("bent", "is refused: it is damaged"),
        ("path", "'../../etc/passwd' belongs in no backup of a master"),
        ("other", "it is of the deployment 'test', and not of 'prod'"),
        ("empty", "it holds no key of a master"),
    ],
)
def test_backup_that_is_not_whole_and_own_is_refused(
    s3: Any,
    master_of: Callable[..., Master],
    keyrings: Callable[[str], Path],
    what: str,
    why: str,
) -> None:
    good = seal(keyrings, "prod", KEYS)
    middle = len(good) // 2
    contents: dict[str, Callable[[], bytes]] = {
        "unsigned": lambda: seal(keyrings, "", KEYS),
        "foreign": lambda: seal(keyrings, "eve", KEYS),
        "cut": lambda: good[:-50],
        "garbage": lambda: b"no message",
        "bent": lambda: good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "path": lambda: seal(keyrings, "prod", {**KEYS, "../../etc/passwd": b"root"}),
        "other": lambda: seal(keyrings, "prod", KEYS, "test"),
        "empty": lambda: seal(keyrings, "prod", {}),
    }
    s3.put_object(Bucket=BUCKET, Key=KEY, Body=contents[what]())
    new = master_of("new")
    error = new.restore(code=1)
    assert error.startswith("the backup of 20")
    assert why in error
    assert new.files() == {}


def test_backup_to_other_keys_is_named_as_that(s3: Any, master_of: Callable[..., Master]) -> None:
    with_keys(master_of("old", key="eve")).run("backup")
    error = master_of("new").restore(code=1)
    assert "no key here opens it: it is encrypted to " in error
    assert "so it is of another deployment" in error


def test_bucket_without_backup_is_told_apart(s3: Any, master_of: Callable[..., Master]) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{KEY}.old", Body=b"another object")
    error = master_of("new").restore(code=program.NONE)
    assert error == f"there is no backup at s3://{BUCKET}/{KEY}"


def test_older_backup_is_restored_by_its_name(s3: Any, master_of: Callable[..., Master]) -> None:
    old, new = with_keys(master_of("old")), master_of("new")
    first = old.run("backup")["version"]
    with_keys(old, **{"web-1": "another"}).run("backup")
    backups = old.run("list")["backups"]
    assert [one["version"] for one in backups][-1] == first
    assert len(backups) == 2
    new.restore("--version", first)
    assert new.files()["minions/web-1"] == "of web-1"
    error = new.restore("--version", "2020-01-01T00:00:00Z", code=1)
    assert "has no backup of 2020-01-01T00:00:00Z: the newest is of 20" in error


def test_backup_is_made_when_a_key_changes_and_once_a_day(
    s3: Any, master_of: Callable[..., Master], keyrings: Callable[[str], Path]
) -> None:
    master = with_keys(master_of("old"))

    def needed() -> bool:
        return bool(master.run("backup", "--if-needed")["made"])

    assert needed()
    assert not needed()
    (master.places.pki / "minions" / "web-2").write_text("new")
    assert needed()
    assert not needed()
    (master.places.pki / "minions" / "web-2").unlink()
    assert needed()
    operator = master.places.pillar / "prod" / "operators" / "ann.asc"
    operator.write_bytes((keyrings("ann") / "public.asc").read_bytes())
    assert needed(), "the operator opens the backups from now on"
    assert not needed()
    state = master.state
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(hours=24)
    master.places.state.write_text(json.dumps({**state, "made": yesterday.strftime(program.TIME)}))
    assert needed()
    assert master.places.state.stat().st_mode & 0o777 == 0o600


def test_master_without_key_makes_no_backup(s3: Any, master_of: Callable[..., Master]) -> None:
    master = master_of("old")
    assert "holds no key of a master" in master.run("backup", code=1)
    assert "Versions" not in s3.list_object_versions(Bucket=BUCKET)


def test_failure_is_remembered_until_a_backup_is_made(
    s3: Any, cloud: Running, master_of: Callable[..., Master]
) -> None:
    master = with_keys(master_of("old"))
    master.run("backup")
    made = master.state
    with cloud.faults.inject(Fault("error", "PutObject", code="AccessDenied", status=403)):
        assert "AccessDenied" in master.run("backup", code=1)
        first = master.state["failing"]
        assert "AccessDenied" in first["why"]
        assert "AccessDenied" in master.run("backup", "--if-needed", code=1), "it tries again"
    assert master.state == {**made, "failing": first}, "the time of the first failure"
    assert master.run("backup", "--if-needed")["made"]
    assert "failing" not in master.state


def test_keys_of_gpg_are_nowhere_afterwards(
    s3: Any, master_of: Callable[..., Master], keyrings: Callable[[str], Path]
) -> None:
    homes = []
    with program.keyring(keyrings("prod") / "public.asc", keyrings("prod")) as home:
        homes.append(home)
        assert home.stat().st_mode & 0o777 == 0o700
        (key, *_) = (home / "private-keys-v1.d").iterdir()
        assert key.stat().st_mode & 0o777 == 0o600
    assert not homes[0].exists()


# -- what status says ------------------------------------------------------------------------------


def ago(**time: int) -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(**time)).strftime(program.TIME)


@pytest.mark.parametrize(
    ("state", "backup", "problem"),
    [
        ({}, "keys not backed up yet", ""),
        ({"begun": {"hours": 1}}, "keys not backed up yet", ""),
        ({"begun": {"hours": 27}}, "keys not backed up yet", "not backed up for more than a day"),
        ({"begun": {"days": 9}, "made": {"minutes": 119}}, "keys backed up 119 min ago", ""),
        ({"made": {"minutes": 120}}, "keys backed up 2 h ago", ""),
        ({"made": {"hours": 25}}, "keys backed up 25 h ago", ""),
        ({"made": {"hours": 27}}, "keys backed up 27 h ago", "not backed up for more than a day"),
        ({"made": {"days": 2}}, "keys backed up 2 d ago", "not backed up for more than a day"),
        (
            {"made": {"hours": 1}, "failing": {"since": {"minutes": 29}, "why": "no way"}},
            "keys backed up 60 min ago; the next backup fails: no way",
            "",
        ),
        (
            {"made": {"hours": 1}, "failing": {"since": {"minutes": 31}, "why": "no way"}},
            "keys backed up 60 min ago; the next backup fails: no way",
            "backups fail for 31 min: no way",
        ),
    ],
)
def test_age_and_failure_are_told(
    tmp_path: Path, state: dict[str, Any], backup: str, problem: str
) -> None:
    def dated(value: Any) -> Any:
        """Return a value with a time for each age in it: the test may run long after this line."""
        if not isinstance(value, dict):
            return value
        if value.keys() <= {"days", "hours", "minutes"}:
            return ago(**value)
        return {key: dated(one) for key, one in value.items()}

    path = tmp_path / "state.json"
    path.write_text(json.dumps(dated(state) if state else {}))
    found = told(str(path), __file__)
    assert found["backups"] == backup
    assert problem in found["problem"]
    assert bool(found["problem"]) == bool(problem)


def test_machine_that_makes_no_backups_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"begun": ago(days=9)}))
    assert told(str(path), str(tmp_path / "absent")) == {"backups": "", "problem": ""}
    assert told(str(tmp_path / "absent"), __file__)["problem"] == ""
