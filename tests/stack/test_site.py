"""The site as people and their browsers use it."""

from __future__ import annotations

import re
import shlex
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from bench.edge import ASK, servers
from bench.visit import FLAGS
from stackctl import site
from stackctl.account import enter
from stackctl.machines import ec2_client, list_machines
from waiting import until
from wholestack import Stack

# On the first page of the list (`rows_per_page` in pillar/base/airflow.sls).
EXAMPLE_DAG = "asset_consumes_1"


class Visitor:
    """A browser's worth of cookies, and trust in nothing but the deployment's CA."""

    def __init__(self, stack: Stack) -> None:
        self.url = stack.url
        context = ssl.create_default_context(
            cadata=str(stack.deployment.settings()["ca_certificate"])
        )
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(CookieJar()),
        )

    def get(self, path: str, data: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Return status, final address and text of a page; `data` makes it a form sent."""
        body = urllib.parse.urlencode(data).encode() if data else None
        request = urllib.request.Request(self.url + path, body, {"Referer": self.url + path})
        try:
            with self.opener.open(request, timeout=120) as answer:
                return answer.status, answer.url, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.url, error.read().decode()

    def log_in(self, password: str) -> tuple[int, str, str]:
        """Fill in the login form as `admin`."""
        status, where, page = self.get("/auth/login/")
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)', page)
        if token is None:
            return status, where, page
        return self.get(
            "/auth/login/", {"csrf_token": token[1], "username": "admin", "password": password}
        )


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("acceptInsecureCerts", True)  # the private CA; Visitor verifies it
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def test_person_logs_in_and_sees_example_dags(stack: Stack, browser: webdriver.Chrome) -> None:
    browser.get(stack.url)
    wait = WebDriverWait(browser, 300)
    wait.until(lambda page: page.find_elements(By.NAME, "username"))
    browser.find_element(By.NAME, "username").send_keys("admin")
    browser.find_element(By.NAME, "password").send_keys(stack.secret("airflow-admin", "password"))
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    wait.until(lambda page: "/auth/" not in page.current_url)
    wait.until(lambda page: "a run that you trigger stays queued" in page.page_source)
    browser.get(f"{stack.url}/dags")
    wait.until(lambda page: EXAMPLE_DAG in page.page_source)
    picture = Path(stack.deployment.state_dir / "dags.png")
    browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000, "the page is blank"


def test_wrong_password_is_refused(stack: Stack) -> None:
    visitor = Visitor(stack)
    _, where, page = visitor.log_in("wrong")
    assert "/auth/login" in where
    assert "Invalid login" in page
    assert visitor.get("/api/v2/dags")[0] == 401


def test_http_redirects_to_https(stack: Stack) -> None:
    address = stack.rows()["lb-1"]["address"]
    answer = stack.sh(
        "salt-1",
        f"curl -s -o /dev/null -w '%{{http_code}} %{{redirect_url}}' http://{address}/home",
    )
    assert answer.split()[0] == "301"
    assert answer.split()[1].startswith("https://")


def test_site_has_certificate_of_deployment_ca(stack: Stack) -> None:
    stranger = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.open(stack.url, timeout=10)


def test_edge_machine_has_the_address_of_the_foundation(stack: Stack) -> None:
    aws = stack.deployment.base_pillar("aws")
    name = stack.deployment.in_account(aws["edge_address"]["name"])
    with enter(stack.deployment):
        client = ec2_client(stack.deployment)
        found = client.describe_addresses(Filters=[{"Name": "tag:Name", "Values": [name]}])
        edge = list_machines(client, stack.deployment)["lb-1"]
    assert [address["PublicIp"] for address in found["Addresses"]] == [edge.public_address]
    told = f"has the site's address {edge.public_address}"
    assert stack.rows()["lb-1"]["replication"] == told


def test_site_gets_its_address_back(stack: Stack) -> None:
    """Nobody has to do anything when the address was taken from the only load balancer."""
    aws = stack.deployment.base_pillar("aws")
    name = stack.deployment.in_account(aws["edge_address"]["name"])
    with enter(stack.deployment):
        client = ec2_client(stack.deployment)
        found = client.describe_addresses(Filters=[{"Name": "tag:Name", "Values": [name]}])
        (address,) = found["Addresses"]
        client.disassociate_address(AssociationId=address["AssociationId"])
    began = time.monotonic()
    until(lambda: not site.problem(stack.deployment, 2), "the site answers again", 20)
    print(f"\nthe site has its address again: {time.monotonic() - began:.1f} s")


def test_site_survives_loss_of_a_web_machine(stack: Stack) -> None:
    visitor = Visitor(stack)
    stack.sh("salt-1", "salt-cloud --assume-yes --action stop web-1")
    try:
        until(lambda: stack.rows()["web-1"]["state"] == "stopped", "web-1 is stopped", every=1)
        assert [visitor.get("/api/v2/monitor/health")[0] for _ in range(20)] == [200] * 20
    finally:
        stack.sh("salt-1", "salt-cloud --assume-yes --action start web-1")
    until(lambda: bool(stack.rows()["web-1"]["healthy"]), "web-1 serves again", 600, every=1)


@contextmanager
def visits(stack: Stack) -> Iterator[list[int]]:
    """Visit the login page all the time; yields the statuses so far, 0 where there is no answer."""
    answers: list[int] = []
    done = threading.Event()

    def visit() -> None:
        visitor = Visitor(stack)
        while not done.wait(0.2):
            try:
                answers.append(visitor.get("/auth/login/")[0])
            except OSError:
                answers.append(0)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        until(lambda: answers, "somebody visits")
        yield answers
        visited = len(answers)
        until(lambda: len(answers) > visited, "somebody visits afterwards")
    finally:
        done.set()
        thread.join()


def test_site_grows_is_updated_and_shrinks_and_nobody_notices(stack: Stack) -> None:
    def at_the_edge() -> set[str]:
        stats = stack.sh("lb-1", shlex.join(["/usr/bin/python3", "-c", ASK, "show stat"]))
        found = [server for server in servers(stats) if server.name.startswith("web-")]
        return {server.name for server in found} - {one.name for one in found if not one.up}

    started = "systemctl show --property=ActiveEnterTimestamp airflow"
    before = [stack.sh(name, started) for name in ("web-1", "web-2")]
    # What the service has to restart for.
    stack.sh("salt-1", "salt 'web-*' cmd.run 'echo >> /etc/airflow/environment'")
    with visits(stack) as answers:
        stack.ctl("scale", "web=3")
        until(lambda: at_the_edge() == {"web-1", "web-2", "web-3"}, "three machines serve")
        stack.ctl("scale", "web=2")
        assert len(answers) > 10
    assert at_the_edge() == {"web-1", "web-2"}
    assert "web-3" not in stack.rows()
    after = [stack.sh(name, started) for name in ("web-1", "web-2")]
    assert all(old != new for old, new in zip(before, after, strict=True)), "both have restarted"
    assert Counter(answers).keys() == {200}, Counter(answers)


def test_login_limit_holds_on_both_web_machines(stack: Stack) -> None:
    allowed, seconds = _login_limit(stack)
    password = stack.secret("airflow-admin", "password")
    for _ in range(5):
        began = time.monotonic()
        tries = [Visitor(stack).log_in(f"wrong-{number}")[0] for number in range(allowed + 3)]
        alone = {
            name: _log_in_without(stack, other)
            for name, other in (("web-1", "web-2"), ("web-2", "web-1"))
        }
        took = time.monotonic() - began
        until(lambda: Visitor(stack).log_in(password)[0] == 200, "logins work again", 300, every=1)
        if took < seconds:  # what was counted is forgotten in a longer one, which proves nothing
            break
    assert 429 in tries, tries
    assert alone == {"web-1": 429, "web-2": 429}, "each knows of the tries on the other"


def _login_limit(stack: Stack) -> tuple[int, int]:
    """Return how many logins an address may try, and in how many seconds."""
    allowed, _, seconds, unit = stack.deployment.base_pillar("airflow")["login_rate_limit"].split()
    assert unit == "seconds"
    return int(allowed), int(seconds)


def _log_in_without(stack: Stack, machine: str) -> int:
    """Return how a wrong password is answered while a web machine gets no requests."""
    stack.sh("lb-1", _haproxy(f"set server app/{machine} state maint"))
    try:
        return Visitor(stack).log_in("wrong")[0]
    finally:
        stack.sh("lb-1", _haproxy(f"set server app/{machine} state ready"))


def _haproxy(command: str) -> str:
    script = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock');"
        f" s.sendall(b'{command}\\n'); print(s.recv(999).decode())"
    )
    return f'/usr/bin/python3 -c "{script}"'
