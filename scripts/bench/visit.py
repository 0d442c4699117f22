"""What a browser asks for on a first visit and on the next, and the recording of it.

`make bench-visit` records the lists again; they belong to a release of Airflow, and a replay whose
answers are not found says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FILE = Path(__file__).parents[2] / "docs" / "bench" / "visit.json"
QUIET_SECONDS = 2.0
PAGE_SECONDS = 120
FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "window-size=1400,1000",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)
STATIC = ("/static/", "/auth/static/")


@dataclass(frozen=True)
class Request:
    """A request of a recorded visit.

    Attributes:
        visit: `first` or `repeat`.
        method, path: with its query.
        anonymous: whether it came before the login.
        size: bytes of its answer on the wire.
    """

    visit: str
    method: str
    path: str
    anonymous: bool
    size: int

    @property
    def static(self) -> bool:
        """Whether it is for a file."""
        return self.path.startswith(STATIC)


@dataclass(frozen=True)
class Recording:
    """A recorded visit of a site: `site` or `stock`, whose caches differ."""

    requests: tuple[Request, ...]

    def first(self) -> list[Request]:
        """Return the requests of a browser with an empty cache."""
        return [one for one in self.requests if one.visit == "first"]

    def repeat(self) -> list[Request]:
        """Return those of the same browser that comes back."""
        return [one for one in self.requests if one.visit == "repeat"]

    def phase(self, *, anonymous: bool) -> list[str]:
        """Return the paths of a first visit before or after the login, without the login itself."""
        return [
            one.path
            for one in self.first()
            if one.anonymous == anonymous
            and one.method == "GET"
            and not one.path.startswith("/auth/login")
        ]

    def bundle(self) -> str:
        """Return the path of the largest file."""
        return max((one for one in self.first() if one.static), key=lambda one: one.size).path


def load(path: Path = FILE) -> dict[str, Recording]:
    """Return the recordings by the name of their site."""
    data = json.loads(path.read_text())
    return {name: Recording(tuple(Request(**one) for one in found)) for name, found in data.items()}


def save(recordings: dict[str, Recording], path: Path = FILE) -> None:
    """Write the recordings."""
    data = {name: [asdict(one) for one in found.requests] for name, found in recordings.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")


def _key_hash(base: str) -> str:
    """Return the hash of the key of a site's certificate, as Chromium's option wants it."""
    url = urlsplit(base)
    pem = ssl.get_server_certificate((url.hostname or "", url.port or 443))
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


@contextmanager
def _browser(base: str, profile: str) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    if base.startswith("https:"):
        # Chromium caches nothing of a site whose certificate it does not trust. It knows no CA of
        # ours, but it trusts this key, with a profile of its own.
        options.add_argument(f"--ignore-certificate-errors-spki-list={_key_hash(base)}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for flag in (*FLAGS, "disable-extensions"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        yield driver
    finally:
        driver.quit()


def record(base: str, username: str, password: str) -> Recording:
    """Visit a site with an empty cache, log in, open the list of DAGs, and come back to it."""
    host = urlsplit(base).netloc
    with TemporaryDirectory() as profile, _browser(base, profile) as driver:
        wait = WebDriverWait(driver, PAGE_SECONDS)
        driver.get(base)
        wait.until(lambda page: page.find_elements(By.NAME, "username"))
        before = _quiet(driver)
        driver.find_element(By.NAME, "username").send_keys(username)
        driver.find_element(By.NAME, "password").send_keys(password)
        driver.find_element(By.CSS_SELECTOR, "[type=submit]").click()
        wait.until(lambda page: "/auth/" not in page.current_url)
        after = _quiet(driver)
        driver.get(f"{base}/dags")
        after += _quiet(driver)
        driver.get("about:blank")
        _quiet(driver)
        driver.get(f"{base}/dags")
        again = _quiet(driver)
    return Recording(
        (
            *requests(before, host, "first", anonymous=True),
            *requests(after, host, "first", anonymous=False),
            *requests(again, host, "repeat", anonymous=False),
        )
    )


def _quiet(driver: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return the events of the network, once it is quiet."""
    found: list[dict[str, Any]] = []
    last = began = time.monotonic()
    while time.monotonic() - last < QUIET_SECONDS and time.monotonic() - began < PAGE_SECONDS:
        new = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]  # type: ignore[no-untyped-call]
        if any(event["method"].startswith("Network.") for event in new):
            last = time.monotonic()
        found += new
        time.sleep(0.2)
    return found


def requests(
    events: list[dict[str, Any]], host: str, visit: str, *, anonymous: bool
) -> list[Request]:
    """Return the requests of events that went to a host over the network, in their order."""
    asked: dict[str, tuple[str, str]] = {}
    sizes: dict[str, int] = {}
    cached: set[str] = set()
    redirected: list[Request] = []
    for event in events:
        what, facts = event["method"], event["params"]
        if what == "Network.requestWillBeSent":
            key = facts["requestId"]
            if "redirectResponse" in facts and key in asked:
                size = int(facts["redirectResponse"].get("encodedDataLength", 0))
                redirected.append(Request(visit, *asked[key], anonymous, size))
            url = urlsplit(facts["request"]["url"])
            if url.netloc == host:
                query = f"?{url.query}" if url.query else ""
                asked[key] = (facts["request"]["method"], (url.path or "/") + query)
        elif what == "Network.requestServedFromCache":
            cached.add(facts["requestId"])
        elif what == "Network.responseReceived":
            if facts["response"].get("fromDiskCache"):
                cached.add(facts["requestId"])
        elif what == "Network.loadingFinished":
            sizes[facts["requestId"]] = int(facts["encodedDataLength"])
    return redirected + [
        Request(visit, method, path, anonymous, sizes.get(key, 0))
        for key, (method, path) in asked.items()
        if key not in cached
    ]
