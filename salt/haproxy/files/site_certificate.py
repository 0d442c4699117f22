#!/opt/salt/bin/python
"""Have an ACME CA sign the site's certificate, and renew it in time.

lego asks the CA. It needs no answer of its own to the challenge: all load balancers have one
account at the CA, so HAProxy on whichever has the site's address knows the answer to any challenge,
which is the token and the thumbprint of the account's key. Each load balancer has a key and a
certificate of its own, so nothing is shared between them.

A certificate is checked before HAProxy gets it, and stays when anything fails. Who failed waits
longer each time, and as long as the CA says when that has had too many requests.

https://www.rfc-editor.org/rfc/rfc8555#section-8.3
https://letsencrypt.org/docs/rate-limits/
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization

CONFIG = "/etc/site-certificate/config.json"
ACCOUNT = "/etc/site-certificate/account.key"
FOLDER = "/var/lib/site-certificate"
SCRATCH = "/run/site-certificate"  # memory
HAPROXY = "/run/haproxy/admin.sock"
LEGO, OPENSSL, SYSTEMCTL = "/usr/bin/lego", "/usr/bin/openssl", "/usr/bin/systemctl"
LEGO_SECONDS = 300
RELOAD_SECONDS = 20  # until HAProxy serves what it has loaded
# A part of a certificate's life: it is renewed with a third of it left, or a little later, so that
# load balancers that began together do not end together.
RENEW, SPREAD = 1 / 3, 1 / 30
# Let's Encrypt allows five failures an hour for a name, of all load balancers together.
FIRST_WAIT, LONGEST_WAIT = timedelta(minutes=30), timedelta(hours=12)
# When a CA has had too many requests: where it does not say until when; what is believed at most.
LIMITED_WAIT, LONGEST_LIMIT = timedelta(days=1), timedelta(days=8)
TIME = "%Y-%m-%dT%H:%M:%SZ"
_RETRY_AFTER = re.compile(r"retry after (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", re.IGNORECASE)
_LOGGED = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)
# What lego says -> what to do about it.
CURES = {
    "rateLimited": "it has had too many requests for this name or account: wait",
    "rejectedIdentifier": "it signs nothing for this name: take another CA, or another name",
    "invalidContact|unsupportedContact": "change settings:acme:email",
    "externalAccountRequired": "it wants an account that is made by hand: take another CA",
    "error:caa": "a CAA record of the name in DNS forbids this CA: add this CA there",
    "error:(dns|connection)": (
        "the name has to lead to the site's address in DNS, and anybody to reach port 80 there"
    ),
    "error:(unauthorized|incorrectResponse)": (
        "the name has to lead to the site's address in DNS, and all load balancers there to have"
        " one account: apply their highstate"
    ),
    "x509: ": "a private CA's own authority has to be in settings:acme:ca_certificate",
    "get directory|serverInternal": (
        "look at what the CA says of its own state, and whether this machine reaches it"
    ),
}


class Failed(Exception):
    """No certificate was got or brought in; a later look tries again.

    Attributes:
        until: before when the CA wants no further request; None: it has not said.
        is_limited: whether the CA has had too many requests.
    """

    def __init__(self, why: str, *, is_limited: bool = False, until: datetime | None = None):
        super().__init__(why)
        self.is_limited, self.until = is_limited, until


@dataclass(frozen=True)
class Config:
    """What the state salt/haproxy/certificate.sls has written.

    Attributes:
        directory: of the ACME CA.
        email: for the CA's mail.
        name: the site's.
        port: of HTTPS, at which HAProxy serves the certificate.
        ca_certificate: the authority of the directory's own certificate, PEM; empty: a public one.
    """

    directory: str
    email: str
    name: str
    port: int
    ca_certificate: str = ""

    @property
    def ca(self) -> str:
        """The host of the CA."""
        return urlsplit(self.directory).netloc

    @property
    def digest(self) -> str:
        """What tells whether anything has changed since a failure."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


@dataclass(frozen=True)
class State:
    """What is kept between two looks; `site_certificate.told` reads it.

    Attributes:
        directory: of the CA that has signed the certificate.
        obtained: when.
        why: the last failure, in one sentence; empty: the last try succeeded.
        since: when the first failure in a row was.
        failures: how many failures in a row there were.
        next: when the next try is, after a failure.
        limited: whether that is because the CA has had too many requests.
        tried: the configuration with which it failed.
        waits: why HAProxy does not serve the certificate yet; empty: it does, or does not run.
    """

    directory: str = ""
    obtained: str = ""
    why: str = ""
    since: str = ""
    failures: int = 0
    next: str = ""
    limited: bool = False
    tried: str = ""
    waits: str = ""

    def holds_back(self, config: Config, now: datetime) -> bool:
        """Return whether it is too early for another try."""
        if self.tried != config.digest or not self.next:
            return False
        # A clock that was wrong does not stop the renewal.
        return now < _time(self.next) <= now + LONGEST_LIMIT

    def failed(self, config: Config, error: Failed, now: datetime) -> State:
        """Return it after a failure."""
        failures = self.failures + 1 if self.tried == config.digest else 1
        if error.is_limited:
            until = min(error.until or now + LIMITED_WAIT, now + LONGEST_LIMIT)
        else:
            wait = min(FIRST_WAIT * 2 ** min(failures - 1, 10), LONGEST_WAIT)
            until = now + wait * random.uniform(1, 1.1)  # noqa: S311 - no secret
        return replace(
            self,
            why=str(error),
            since=self.since or _text(now),
            failures=failures,
            next=_text(until),
            limited=error.is_limited,
            tried=config.digest,
        )


def _time(text: str) -> datetime:
    return datetime.strptime(text, TIME).replace(tzinfo=UTC)


def _text(time: datetime) -> str:
    return time.strftime(TIME)


# -- certificates ----------------------------------------------------------------------------------


def read_certificate(path: Path) -> x509.Certificate | None:
    """Return the certificate of a file with its key; None: HAProxy could not use the file."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def why_needed(certificate: x509.Certificate | None, state: State, config: Config) -> str:
    """Return why a certificate is needed; empty: the one that there is serves."""
    if certificate is None:
        return "there is none"
    if config.name not in _names(certificate):
        return f"the one that there is is not for {config.name}"
    if state.directory != config.directory:
        return "the one that there is is of another CA"
    if datetime.now(UTC) >= renewal(certificate):
        return f"the one that there is ends at {_text(certificate.not_valid_after_utc)}"
    return ""


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.DNSName)


def renewal(certificate: x509.Certificate) -> datetime:
    """Return when a certificate is to be renewed."""
    end = certificate.not_valid_after_utc
    life = end - certificate.not_valid_before_utc
    return end - life * RENEW + life * SPREAD * (certificate.serial_number % 1000 / 1000)


def checked(chain: str, key: str, config: Config, scratch: Path) -> str:
    """Return certificate, chain and key as HAProxy reads them.

    The chain of a private CA is followed to its last certificate, since nothing says which root it
    has; that of a public one to a root that this machine trusts.

    Raises:
        Failed: no client would take the certificate.
    """
    parts = _PEM.findall(chain)
    bundle = scratch / "bundle.pem"
    bundle.write_text(chain + key)
    certificate = read_certificate(bundle)
    if certificate is None or not parts:
        raise Failed(f"what {config.ca} has signed is not of the key that was made for it")
    leaf, others, roots = (scratch / f"{name}.pem" for name in ("leaf", "others", "roots"))
    leaf.write_text(parts[0])
    others.write_text("".join(parts[1:]))
    command = [OPENSSL, "verify", "-purpose", "sslserver", "-verify_hostname", config.name]
    if len(parts) > 1:
        command += ["-untrusted", str(others)]
    if config.ca_certificate:
        roots.write_text("".join(parts[1:][-1:]) + config.ca_certificate)
        command += ["-no-CApath", "-partial_chain", "-CAfile", str(roots)]
    done = subprocess.run([*command, str(leaf)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reasons = re.findall(r"^error \d+ at .*?lookup: (.+)$", done.stderr, re.MULTILINE)
        why = reasons[0] if reasons else done.stderr.strip().replace("\n", " ")[-200:]
        raise Failed(f"what {config.ca} has signed is not good for {config.name}: {why}")
    return bundle.read_text()


# -- the CA ----------------------------------------------------------------------------------------


def obtain(config: Config) -> str:
    """Return a new certificate with its chain and key.

    lego keeps nothing: a CA that knows the key finds its account again.

    Raises:
        Failed: there is none.
    """
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        scratch = Path(folder)
        path, web, trusted = scratch / "lego", scratch / "web", scratch / "ca.pem"
        keys = path / "accounts" / config.ca.replace(":", "_") / config.email / "keys"
        keys.mkdir(parents=True)
        web.mkdir()
        (keys / f"{config.email}.key").write_text(Path(ACCOUNT).read_text())
        environment = {"HOME": folder, "PATH": "/usr/bin"}
        if config.ca_certificate:
            trusted.write_text(config.ca_certificate)
            environment["LEGO_CA_CERTIFICATES"] = str(trusted)
        options = {
            "path": path,
            "server": config.directory,
            "email": config.email,
            "domains": config.name,
            # It writes the answer here, and HAProxy knows it already.
            "http.webroot": web,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        _ask(config, [LEGO, *words, "--accept-tos", "--http", "run"], environment)
        made = path / "certificates" / config.name
        chain, key = (made.with_name(f"{made.name}.{end}").read_text() for end in ("crt", "key"))
        return checked(chain, key, config, scratch)


def _ask(config: Config, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run lego; raise Failed: it has no certificate."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LEGO_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{config.ca} has not finished within {LEGO_SECONDS} s") from None
    except OSError as error:
        raise Failed(f"{LEGO}: {error.strerror}") from error
    if done.returncode == 0:
        return
    said = reason(done.stdout)
    cure = next((cure for words, cure in CURES.items() if re.search(words, said)), "")
    told = f"{config.ca} gives no certificate: {said}" + (f"; {cure}" if cure else "")
    limited = "rateLimited" in said or " 429 " in said
    raise Failed(told, is_limited=limited, until=retry_after(said) if limited else None)


def reason(output: str) -> str:
    """Return what lego says last of an error, in one line."""
    lines = [_LOGGED.sub("", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line and not line.startswith("[INFO]")]
    of_ca = [line for line in lines if "acme: error:" in line]
    found = (of_ca or lines or ["lego says nothing"])[-1]
    return re.sub(r"[^ -~]+", "?", found)[:400]


def retry_after(said: str) -> datetime | None:
    """Return until when a CA wants no request, as Let's Encrypt says it; None: it does not say.

    lego does not hand out the header Retry-After.
    """
    found = _RETRY_AFTER.search(said)
    try:
        return _time("{}T{}Z".format(*found.groups())) if found else None
    except ValueError:
        return None


# -- HAProxy ---------------------------------------------------------------------------------------


def served(config: Config) -> bytes | None:
    """Return the certificate that HAProxy serves for the site; None: it does not run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", config.port), 5) as plain,
            context.wrap_socket(plain, server_hostname=config.name) as connection,
        ):
            return connection.getpeercert(binary_form=True)
    except OSError:
        return None


def bring_in(path: Path, config: Config) -> str:
    """Have HAProxy serve the certificate of a file; return why it does not do so yet, or "".

    It loads the file when it starts. A reload that came while another process looked at the same
    HAProxy would bring drained servers back, so it waits for the end of that.

    Raises:
        Failed: HAProxy does not take the file.
    """
    certificate = read_certificate(path)
    if certificate is None:
        return ""
    wanted = certificate.public_bytes(serialization.Encoding.DER)
    if served(config) in (wanted, None):
        return ""
    if drained := _drained():
        return f"HAProxy is not reloaded while {drained} is out of service"
    done = subprocess.run(
        [SYSTEMCTL, "reload", "haproxy"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"HAProxy does not take the certificate: {done.stderr.strip()[:200]}")
    deadline = time.monotonic() + RELOAD_SECONDS
    while served(config) != wanted:
        if time.monotonic() > deadline:
            raise Failed("HAProxy was reloaded, and serves another certificate")
        time.sleep(0.2)
    return ""


def _drained() -> str:
    """Return a server that somebody has taken out of service at HAProxy's socket, or ""."""
    try:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5)
            admin.connect(HAPROXY)
            admin.sendall(b"show stat\n")
            with admin.makefile() as answer:
                rows = csv.DictReader(io.StringIO(answer.read().removeprefix("# ")))
                found = [row for row in rows if row["status"].startswith(("MAINT", "DRAIN"))]
    except OSError:
        return ""
    return f"{found[0]['pxname']}/{found[0]['svname']}" if found else ""


# -- this machine ----------------------------------------------------------------------------------


def look(config: Config, folder: Path) -> State:
    """Look once whether a certificate is needed, get it, and return what is known now.

    Args:
        config: the configuration.
        folder: with the state, and the certificate in `live`.
    """
    path, known = folder / "live" / "site.pem", folder / "state.json"
    state, now = read_state(known), datetime.now(UTC)
    try:
        needed = why_needed(read_certificate(path), state, config)
        if not needed:
            state = replace(State(), directory=state.directory, obtained=state.obtained)
        elif not state.holds_back(config, now):
            print(f"asking {config.ca} for a certificate: {needed}", flush=True)
            _replace(path, config)
            state = State(directory=config.directory, obtained=_text(now))
            print(f"a certificate of {config.ca} is here", flush=True)
        state = replace(state, waits=bring_in(path, config))
    except Failed as error:
        state = state.failed(config, error, now)
        print(f"{state.why}; the next try is after {state.next}", flush=True)
    _write(known, json.dumps(asdict(state)))
    return state


def _replace(path: Path, config: Config) -> None:
    """Put a new certificate in the place of the one that there is; that stays when this fails."""
    before = path.read_text() if path.exists() else None
    try:
        _write(path, obtain(config))
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}") from error
    try:
        bring_in(path, config)
    except Failed:
        if before is None:
            path.unlink()
        else:
            _write(path, before)
        raise


def _write(path: Path, text: str) -> None:
    """Write a file for HAProxy's group as a whole, also when the power goes."""
    scratch = path.with_name(f".{path.name}.new")  # HAProxy reads no file with such a name
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o640)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    scratch.replace(path)


def read_state(path: Path) -> State:
    """Return what was known; nothing where that is lost."""
    try:
        return State(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return State()


def main() -> int:
    """Look once, and return the exit code: 1 while a certificate is needed and not there."""
    config = Config(**json.loads(Path(CONFIG).read_text()))
    return 1 if look(config, Path(FOLDER)).why else 0


if __name__ == "__main__":
    sys.exit(main())
