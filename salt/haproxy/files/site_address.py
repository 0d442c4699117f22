#!/opt/salt/bin/python
"""Take the site's elastic address when the machine that has it does not serve, and this one does.

An elastic address is at one machine at a time, so who has it needs no vote: EC2 decides it, and the
machine's own metadata tells whether it is this one. A machine without the address asks the site at
the address, by the internet gateway as clients do, once a second. It takes the address when several
answers in a row were worse than its own HAProxy's, at once when the machine with the address says
that it leaves, or when no machine has it. A machine that comes back takes nothing from one that
serves.

It signs and makes two calls of EC2 itself: boto3 needs 60 MiB more, and on a machine without CPU
credits some 15 s before its first call.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/elastic-ip-addresses-eip.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import http.client
import io
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

CONFIG = "/etc/site-address.json"
STATUS = "/run/site-address/status.json"
HAPROXY = "/run/haproxy/admin.sock"
HERE = "address/here"  # the server in HAProxy's configuration whose state says that this one stays
METADATA = "169.254.169.254"
TOKEN_SECONDS = 21_600

# What an answer at the address says, from the best to the worst.
SERVES, NO_WEB, LEAVING, REFUSED, SILENT = "serves", "no-web", "leaving", "refused", "silent"
ANSWERS = {200: SERVES, 503: NO_WEB, 410: LEAVING}
# The answers of this machine that are better, and how many have to come in a row. A machine whose
# HAProxy restarts refuses for half a second; one without CPU credits is late.
BETTER = {
    NO_WEB: ((SERVES,), 6),
    LEAVING: ((SERVES, NO_WEB), 1),
    REFUSED: ((SERVES, NO_WEB), 3),
    SILENT: ((SERVES, NO_WEB), 3),
}
PROBE_SECONDS = 1.5
INTERVAL, SOON = 1.0, 0.5  # until the next look: when all is well, and after a bad answer
REST_SECONDS = 5  # that a machine which leaves has for the requests that it still holds
CALL_SECONDS = 5  # for a call of EC2
MOVE_SECONDS = 10  # until the metadata knows of a move
# Who has taken the address from one that was late, and lost it soon, may be no better: perhaps both
# have too much to do.
RECENT_SECONDS, RELUCTANCE = 60, 4


class Failed(Exception):
    """Something that the next look may find mended."""


@dataclass(frozen=True)
class Config:
    """What the state salt/haproxy/address.sls has written.

    Attributes:
        name: the address's Name tag.
        tags: its other tags.
        region: where it is.
        endpoint: of EC2's API.
        port: of HTTPS.
        path: of the page by which HAProxy says whether it serves.
        alone: whether there is no other load balancer.
    """

    name: str
    tags: Mapping[str, str]
    region: str
    endpoint: str
    port: int
    path: str
    alone: bool


@dataclass(frozen=True)
class Address:
    """The elastic address.

    Attributes:
        public: the address.
        allocation: its id.
        holder: the interface that has it; empty: none.
    """

    public: str
    allocation: str
    holder: str


@dataclass(frozen=True)
class Status:
    """What `site_address.told` reads.

    Attributes:
        address: the elastic address; empty: it is not known yet.
        holds: whether this machine has it.
        problem: why this machine cannot tell, or cannot take it; empty: nothing.
    """

    address: str = ""
    holds: bool = False
    problem: str = ""


# -- the metadata ----------------------------------------------------------------------------------


class Metadata:
    """The instance metadata service, second version."""

    def __init__(self) -> None:
        self._token, self._until = "", 0.0

    def get(self, path: str) -> str:
        """Return what is at a path below meta-data; an empty text where there is nothing.

        Raises:
            Failed: the service does not answer.
        """
        status, text = self._ask("GET", f"/latest/meta-data/{path}", self._header())
        if status == http.client.UNAUTHORIZED:  # the instance was stopped, or moved
            self._until = 0.0
            status, text = self._ask("GET", f"/latest/meta-data/{path}", self._header())
        if status not in (http.client.OK, http.client.NOT_FOUND):
            raise Failed(f"the instance metadata answers {status} to {path}")
        return text.strip() if status == http.client.OK else ""

    def _header(self) -> dict[str, str]:
        if time.monotonic() >= self._until:
            lasting = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            status, token = self._ask("PUT", "/latest/api/token", lasting)
            if status != http.client.OK:
                raise Failed(f"the instance metadata answers {status} instead of a token")
            self._token, self._until = token, time.monotonic() + TOKEN_SECONDS / 2
        return {"X-aws-ec2-metadata-token": self._token}

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(METADATA, timeout=2)
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the instance metadata does not answer: {error!r}") from error
        finally:
            connection.close()


# -- EC2 -------------------------------------------------------------------------------------------


class Ec2:
    """The calls of EC2 that this program makes, with the credentials of the machine's role."""

    def __init__(self, config: Config, metadata: Metadata) -> None:
        self._config, self._metadata = config, metadata
        self._keys: dict[str, str] = {}
        self._trust = ssl.create_default_context()

    def address(self) -> Address:
        """Return the site's address.

        Raises:
            Failed: EC2 does not tell, or there is not exactly one.
        """
        wanted = {"Name": self._config.name, **self._config.tags}
        filters = {
            key: text
            for number, (tag, value) in enumerate(wanted.items(), 1)
            for key, text in (
                (f"Filter.{number}.Name", f"tag:{tag}"),
                (f"Filter.{number}.Value.1", value),
            )
        }
        found = self._call("DescribeAddresses", filters).findall("{*}addressesSet/{*}item")
        if len(found) != 1:
            raise Failed(f"{len(found)} elastic addresses are called {self._config.name}")
        return Address(
            *(
                found[0].findtext(f"{{*}}{key}") or ""
                for key in ("publicIp", "allocationId", "networkInterfaceId")
            )
        )

    def take(self, address: Address, instance: str) -> None:
        """Have this machine have the address, whoever has it.

        Raises:
            Failed: EC2 refuses, or its answer is lost. This machine's own address changes in that
                moment, so the call may have had its effect then.
        """
        given = {"AllocationId": address.allocation, "InstanceId": instance}
        self._call("AssociateAddress", {**given, "AllowReassociation": "true"})

    def _call(self, action: str, parameters: Mapping[str, str]) -> ET.Element:
        where = urlsplit(self._config.endpoint)
        body = urlencode({"Action": action, "Version": "2016-11-15", **parameters}).encode()
        headers = signed(body, where.netloc, self._config.region, self._credentials())
        connection: http.client.HTTPConnection
        if where.scheme == "https":
            connection = http.client.HTTPSConnection(
                where.netloc, timeout=CALL_SECONDS, context=self._trust
            )
        else:
            connection = http.client.HTTPConnection(where.netloc, timeout=CALL_SECONDS)
        try:
            connection.request("POST", "/", body, headers)
            answer = connection.getresponse()
            tree = ET.fromstring(answer.read())  # noqa: S314 - it is EC2's
        except (OSError, http.client.HTTPException, ET.ParseError) as error:
            raise Failed(f"EC2 does not answer {action}: {error!r}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            reasons = [found.text or "" for found in tree.iterfind(".//Error/*")]
            raise Failed(f"EC2 refuses {action}: {': '.join(reasons) or answer.status}")
        return tree

    def _credentials(self) -> Mapping[str, str]:
        """Return the role's credentials; those that end soon are fetched again."""
        soon = (datetime.now(UTC) + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self._keys.get("Expiration", "") <= soon:
            role = self._metadata.get("iam/security-credentials/")
            found = json.loads(self._metadata.get(f"iam/security-credentials/{role}") or "{}")
            if "AccessKeyId" not in found:
                raise Failed("this machine has no role in its instance metadata")
            self._keys = found
        return self._keys


def signed(body: bytes, host: str, region: str, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a POST to EC2, with its signature (AWS4-HMAC-SHA256)."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
        "host": host,
        "x-amz-date": now,
        "x-amz-security-token": keys["Token"],
    }
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    request = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{now[:8]}/{region}/ec2/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + keys["SecretAccessKey"].encode()
    for part in (*scope.split("/"), text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    credential = f"Credential={keys['AccessKeyId']}/{scope}"
    signature = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return {**headers, "authorization": signature}


# -- HAProxy ---------------------------------------------------------------------------------------


def probe(host: str, port: int, path: str, seconds: float = PROBE_SECONDS) -> str:
    """Return what a load balancer says of itself: one of `BETTER`, or `SERVES`.

    The certificate is not looked at: it names the site, and an answer decides nothing but whether
    this machine takes what its role lets it take.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    try:
        connection.request("GET", path)
        return ANSWERS.get(connection.getresponse().status, SILENT)
    except ConnectionRefusedError:
        return REFUSED
    except (OSError, http.client.HTTPException):
        return SILENT
    finally:
        connection.close()


def say_staying(staying: bool) -> None:
    """Have HAProxy say that this machine stays, or leaves; it serves in either case.

    Raises:
        Failed: HAProxy does not answer, or refuses.
    """
    if answer := _tell(f"set server {HERE} state {'ready' if staying else 'maint'}").strip():
        raise Failed(f"HAProxy refuses: {answer}")


def requests() -> int:
    """Return how many requests of clients HAProxy holds; raise Failed: it does not answer."""
    rows = csv.DictReader(io.StringIO(_tell("show stat").removeprefix("# ")))
    return sum(int(row["scur"] or 0) for row in rows if row["svname"] == "BACKEND")


def _tell(command: str, path: str = HAPROXY) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(CALL_SECONDS)
            admin.connect(path)
            admin.sendall(f"{command}\n".encode())
            with admin.makefile() as answer:
                return answer.read()
    except OSError as error:
        raise Failed(f"HAProxy does not answer at {path}: {error}") from error


# -- this machine ----------------------------------------------------------------------------------


class Edge:
    """This load balancer.

    Args:
        config: the configuration.
        ask: looks at a load balancer; see `probe`.
        path: the file that keeps what it knows; None: no file.

    Attributes:
        status: what it knows.
    """

    def __init__(
        self, config: Config, ask: Callable[..., str] = probe, path: str | None = None
    ) -> None:
        self._config, self._ask, self._path = config, ask, path
        self._metadata = Metadata()
        self._ec2 = Ec2(config, self._metadata)
        self._address: Address | None = None
        self._bad: list[str] = []  # answers in a row
        self._took = float("-inf")  # when, from one that was silent
        self.status = Status()

    def look(self) -> float:
        """Look once whether to take the address; return after how many seconds to look again."""
        try:
            return self._look()
        except Failed as error:
            self._bad.clear()
            self._say(problem=str(error))
            return INTERVAL

    def _look(self) -> float:
        own = self._metadata.get("public-ipv4")
        if not own:
            # Whoever loses an elastic address gets another one from EC2, within minutes.
            self._bad.clear()
            self._say(problem="it has no public address, and so no way to EC2")
            return INTERVAL
        address = self._address = self._address or self._ec2.address()
        self._say(address=address.public, holds=own == address.public)
        if self.status.holds:
            self._bad.clear()
            return INTERVAL
        found = self._ask(address.public, self._config.port, self._config.path)
        if found == SERVES:
            self._bad.clear()
            return INTERVAL
        return self._consider(found)

    def _consider(self, found: str) -> float:
        """Take the address if there is a reason, after a bad answer."""
        wanted, patience = BETTER[found]
        if self._ask("127.0.0.1", self._config.port, self._config.path) not in wanted:
            self._bad.clear()
            return INTERVAL
        self._bad.append(found)
        if found == SILENT and time.monotonic() - self._took < RECENT_SECONDS:
            patience *= RELUCTANCE
        if len(self._bad) == 1 and found in (REFUSED, SILENT):
            # That EC2 answers shows that this machine has a way out, so the next answers count.
            self._address = self._ec2.address()
            if not self._address.holder:
                return self._take("no machine has it")
        if len(self._bad) >= patience:
            if found == SILENT:
                self._took = time.monotonic()
            return self._take(f"the machine with it: {', '.join(self._bad)}")
        return 0 if found == SILENT else SOON  # that took its time

    def _take(self, reason: str) -> float:
        self._bad.clear()
        try:
            self.take(reason)
        except Failed as error:
            self._say(problem=str(error))
        return SOON

    def take(self, reason: str) -> None:
        """Have this machine have the address.

        Raises:
            Failed: it does not.
        """
        address = self._address = self._ec2.address()
        print(f"taking {address.public}: {reason}", flush=True)
        problem = ""
        try:
            self._ec2.take(address, self._metadata.get("instance-id"))
        except Failed as error:  # what counts is the effect
            problem = str(error)
        if not self._has(address.public, expected=True, seconds=3 if problem else MOVE_SECONDS):
            raise Failed(problem or f"EC2 has taken the call, and {address.public} is not here")
        self._say(address=address.public, holds=True)

    def leave(self) -> None:
        """Have another load balancer take the address from this one, which serves until then.

        Raises:
            Failed: none does.
        """
        address = self._ec2.address()
        if self._metadata.get("public-ipv4") != address.public:
            say_staying(False)  # it takes none any more
            return
        if self._config.alone:
            return
        say_staying(False)
        if not self._has(address.public, expected=False, seconds=MOVE_SECONDS):
            say_staying(True)
            raise Failed(f"no other load balancer has taken {address.public}")
        deadline = time.monotonic() + REST_SECONDS
        while requests() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _has(self, public: str, *, expected: bool, seconds: float) -> bool:
        """Wait until this machine has an address, or has it no more; return whether that is so."""
        deadline = time.monotonic() + seconds
        while (self._metadata.get("public-ipv4") == public) is not expected:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def _say(self, **known: Any) -> None:
        status = Status(**{"address": self.status.address, **known})
        if status != self.status:
            self.status = status
            words = "has the address" if status.holds else "does not have the address"
            print(f"this machine {words} {status.address} {status.problem}".strip(), flush=True)
            if self._path:
                scratch = Path(f"{self._path}.new")
                scratch.write_text(json.dumps(asdict(status)))
                scratch.replace(self._path)


def read(path: str = CONFIG) -> Config:
    """Return the configuration."""
    return Config(**json.loads(Path(path).read_text()))


def shuts_down() -> bool:
    """Return whether this machine shuts down; the end of this program alone is no reason to go."""
    done = subprocess.run(
        ["/usr/bin/systemctl", "is-system-running"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "stopping"


def main(verb: str) -> int:
    """Do what the verb says, and return the exit code."""
    edge = Edge(read(), path=STATUS if verb == "run" else None)
    try:
        if verb == "take":
            edge.take("asked to")
        elif verb == "leave" or (verb == "stop" and shuts_down()):
            edge.leave()
        while verb == "run":
            time.sleep(edge.look())
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
