"""Load by h2load: as fast as answers come, over HTTP/2 and TLS or over plain HTTP/1.1.

h2load writes a line per answer: when the request began in microseconds, its status (-1: none came),
and the microseconds that it took. Debian has it in `nghttp2-client`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machines import LOAD_CORE

BROWSER = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-US,en;q=0.9",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36",
}
TRAFFIC = re.compile(r"^traffic: .*?\((\d+)\) total", re.MULTILINE)


@dataclass(frozen=True)
class Address:
    """How the load generator reaches a site.

    Attributes:
        base: scheme, host and port.
        headers: that each request has, besides a browser's.
        namespace: a process whose network the generator uses; 0: this host's.
    """

    base: str
    headers: Mapping[str, str] = field(default_factory=dict)
    namespace: int = 0

    @property
    def tls(self) -> bool:
        """Whether it is reached over TLS and HTTP/2."""
        return self.base.startswith("https:")

    def prefix(self) -> list[str]:
        """Return the command that runs a load generator: on its core, in its network."""
        inside = ["nsenter", "-t", str(self.namespace), "-n"] if self.namespace else []
        return ["taskset", "-c", str(LOAD_CORE), *inside]


@dataclass(frozen=True)
class Answer:
    """An answer: when its request began (seconds since 1970), status, and seconds."""

    began: float
    status: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it is what was asked for."""
        return 200 <= self.status < 400


@dataclass(frozen=True)
class Answers:
    """The answers to a load.

    Attributes:
        answers: in no order.
        size: bytes on the wire, without TLS.
        seconds: from the first request to the end.
    """

    answers: Sequence[Answer]
    size: int
    seconds: float

    @property
    def good(self) -> int:
        """How many were what was asked for."""
        return sum(answer.ok for answer in self.answers)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds if self.seconds else 0.0

    def after(self, seconds: float) -> Answers:
        """Return the answers that came later than some seconds after the first request."""
        begin = min((answer.began for answer in self.answers), default=0.0) + seconds
        late = [answer for answer in self.answers if answer.began + answer.seconds > begin]
        size = self.size * len(late) // max(1, len(self.answers))
        return Answers(late, size, max(0.0, self.seconds - seconds))

    def statuses(self) -> dict[str, int]:
        """Return status -> answers, of those that were not good; `none`: no answer came."""
        bad = Counter(answer.status for answer in self.answers if not answer.ok)
        return {("none" if status < 100 else str(status)): n for status, n in sorted(bad.items())}

    def figures(self) -> dict[str, object]:
        """Return what the results keep."""
        times = [answer.seconds for answer in self.answers if answer.ok]
        return {
            "answers": self.good,
            "rate": round(self.rate, 2),
            "p50_ms": round(percentile(times, 50) * 1000, 2),
            "p99_ms": round(percentile(times, 99) * 1000, 2),
            "bytes": round(self.size / len(self.answers)) if self.answers else 0,
            "errors": self.statuses(),
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below or at which `percent` of the values are; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]


def parse(log: str, output: str, seconds: float) -> Answers:
    """Return the answers that h2load's log and output tell.

    Args:
        log: its log file.
        output: its standard output, which has the traffic.
        seconds: how long it was to load, or 0: as long as it took.
    """
    answers = []
    for line in log.splitlines():
        began, status, took = line.split("\t")
        answers.append(Answer(int(began) / 1e6, int(status), int(took) / 1e6))
    traffic = TRAFFIC.search(output)
    if not seconds and answers:
        ends = max(answer.began + answer.seconds for answer in answers)
        seconds = ends - min(answer.began for answer in answers)
    return Answers(answers, int(traffic[1]) if traffic else 0, seconds)


@dataclass(frozen=True)
class Load:
    """What to ask for, and how.

    Attributes:
        paths: asked for in this order by each client.
        clients: connections.
        seconds: how long; 0: until each client has asked for every path once.
        streams: requests at the same time on a connection of HTTP/2.
    """

    paths: Sequence[str]
    clients: int = 1
    seconds: float = 0
    streams: int = 1

    def command(self, address: Address, folder: Path) -> list[str]:
        """Return h2load's command line; its input and its log are in `folder`."""
        (folder / "paths").write_text("".join(f"{address.base}{path}\n" for path in self.paths))
        headers = BROWSER | dict(address.headers)
        if "host" in headers:
            # Under its own name h2load would send it beside a Host of its own.
            headers[":authority"] = headers.pop("host")
        much = (
            ["-D", f"{self.seconds:g}"]
            if self.seconds
            else ["-n", str(self.clients * len(self.paths))]
        )
        # Without HTTP/2 more than one request on a connection would be pipelined.
        streams = ["-m", str(self.streams)] if address.tls else ["--h1"]
        return [
            *address.prefix(),
            "h2load",
            *("-c", str(self.clients)),
            *much,
            *streams,
            *(f"--header={name}: {value}" for name, value in headers.items()),
            f"--log-file={folder / 'log'}",
            f"--input-file={folder / 'paths'}",
        ]


def run(load: Load, address: Address, *, timeout: float = 120) -> Answers:
    """Load a site and return its answers; those that are missing after `timeout` have none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = load.command(address, folder)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
            output = done.stdout
        except subprocess.TimeoutExpired as expired:
            output = (expired.stdout or b"").decode()
        log = folder / "log"
        return parse(log.read_text() if log.exists() else "", output, load.seconds)


def install() -> None:
    """Install h2load and nsenter's friends, where they are missing."""
    missing = {"h2load": "nghttp2-client", "nsenter": "util-linux", "ip": "iproute2"}
    packages = sorted({package for name, package in missing.items() if not shutil.which(name)})
    if packages:
        print(f"installing the packages {' '.join(packages)}", file=sys.stderr)
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install_them = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(install_them, check=True, stdout=subprocess.DEVNULL)
