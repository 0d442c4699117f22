"""The proxy from both sides: what it leads to, and what it refuses, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness import BUILDER, Fleet, Machine, changed, failed
from plainpillar import DEPLOYMENT, ROOT
from waiting import until

PORT = DEPLOYMENT.base_pillar("endpoints")["proxy"]["port"]
HOSTS = DEPLOYMENT.base_pillar("proxy")["hosts"]
# Answers with the status of the proxy's answer to one request line.
ASK = """
    import socket
    with socket.create_connection((proxy, port), 60) as connection:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", "", ""]
        connection.sendall("\\r\\n".join(lines).encode())
        answer = connection.makefile("rb")
        result = int(answer.readline().split()[1])
        if result >= 400:
            answer.read()
"""

Ask = Callable[..., int]


@pytest.fixture(scope="module")
def proxy(fleet: Fleet) -> Iterator[Machine]:
    """A second machine of the role: the first one is this host."""
    machine = fleet.machine(BUILDER)
    states = machine.apply("proxy")
    assert not failed(states), failed(states)
    yield machine
    fleet.retire(BUILDER)


@pytest.fixture
def ask(proxy: Machine) -> Ask:
    """Ask the proxy from an address of the VPC, its own, and return its status."""

    def get(method: str, target: str, host: str = "deb.debian.org", source: str = "") -> int:
        address = source or proxy.address
        names = {"proxy": address, "port": PORT, "method": method, "target": target, "host": host}
        return int(proxy.python(ASK, **names))

    return get


def test_second_run_changes_nothing(proxy: Machine) -> None:
    assert changed(proxy.apply("proxy")) == []
    assert changed(proxy.apply("proxy", test=True)) == []


def test_machine_fetches_packages_by_the_proxy_alone(proxy: Machine) -> None:
    """With the file that salt/base and the deploy script write, and no other way out."""
    proxy.run("nft", "add", "table", "inet", "alone")
    chain = "{ type filter hook output priority 0; policy accept; }"
    proxy.run("nft", "add", "chain", "inet", "alone", "out", chain)
    proxy.run(
        "nft", "add", "rule", "inet", "alone", "out",
        "meta", "skuid", "!=", "proxy", "tcp", "dport", "{ 80, 443 }", "reject",
    )  # fmt: skip
    try:
        update = ("apt-get", "update", "-q", "--error-on=any", "-oAcquire::Retries=0")
        direct = proxy.run(*update)
        assert direct.returncode == 100, direct.stdout
        template = (ROOT / "salt/base/files/apt-proxy.conf.j2").read_text()
        url = f"http://{proxy.address}:{PORT}"
        proxy.put("/etc/apt/apt.conf.d/60-stack-proxy", template.replace("{{ url }}", url))
        done = proxy.run(*update)
        assert done.returncode == 0, done.stderr
        pip = "https_proxy=$0 /opt/salt/bin/pip download --no-deps --dest /root/x idna==3.10"
        fetched = proxy.run("sh", "-c", pip, url)
        assert fetched.returncode == 0, fetched.stderr
    finally:
        proxy.run("nft", "delete", "table", "inet", "alone")
        proxy.run("rm", "-f", "/etc/apt/apt.conf.d/60-stack-proxy")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "http://example.com/"),
        ("CONNECT", "example.com:443"),
        ("GET", "http://deb.debian.org.example.com/"),
        ("GET", "http://evil-deb.debian.org/"),
        ("CONNECT", "deb.debian.org:22"),
        ("CONNECT", "deb.debian.org:80"),
        ("GET", "http://deb.debian.org:8080/"),
        ("GET", "http://169.254.169.254/latest/meta-data/"),
        ("GET", "http://127.0.0.1/"),
        ("CONNECT", "1.1.1.1:443"),
        ("CONNECT", "[::1]:443"),
        ("GET", "http://2852039166/"),
        ("GET", "ftp://deb.debian.org/"),
        ("GET", "http://salt-2/squid-internal-mgr/info"),
    ],
)
def test_everything_else_is_refused(ask: Ask, method: str, target: str) -> None:
    assert ask(method, target) == 403


def test_refusal_is_403_and_names_client_and_target(proxy: Machine, ask: Ask) -> None:
    assert ask("CONNECT", "refused.example.com:443") == 403
    line = f"{proxy.address} TCP_DENIED/403 CONNECT refused.example.com:443"

    def logged() -> bool:
        return line in proxy.run("journalctl", "--unit=squid", "--output=cat").stdout

    until(logged, "the journal has the refusal")


def test_client_outside_the_vpc_is_refused(ask: Ask) -> None:
    assert ask("GET", f"http://{HOSTS[0]}/", source="127.0.0.1") == 403


def test_name_that_leads_inside_is_refused(proxy: Machine, ask: Ask) -> None:
    """A name of the list, and a name server that has been taken over."""
    before = proxy.run("cat", "/etc/hosts").stdout
    inside = ("169.254.169.254", "127.0.0.1", proxy.address)
    try:
        for address in inside:
            proxy.put("/etc/hosts.new", f"{before}{address} security.debian.org\n")
            proxy.run("cp", "/etc/hosts.new", "/etc/hosts")
            assert proxy.run("systemctl", "restart", "squid").returncode == 0
            assert ask("GET", "http://security.debian.org/") == 403
            assert ask("CONNECT", "security.debian.org:443") == 403
    finally:
        proxy.put("/etc/hosts.new", before)
        proxy.run("cp", "/etc/hosts.new", "/etc/hosts")
        proxy.run("systemctl", "restart", "squid")


def test_broken_or_changed_proxy_comes_back(proxy: Machine, ask: Ask) -> None:
    proxy.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "squid")
    until(lambda: proxy.run("systemctl", "is-active", "squid").returncode == 0, "squid runs")
    config = proxy.run("cat", "/etc/squid/squid.conf").stdout
    proxy.put("/etc/squid/squid.conf", config.replace("deny !packages", "allow machines"))
    proxy.run("systemctl", "reload", "squid")
    until(lambda: ask("CONNECT", "localhost:443", "localhost") != 403, "it leads anywhere")
    states = proxy.apply("proxy")
    assert not failed(states), failed(states)
    assert any("proxy-config" in tag for tag in changed(states))
    assert any("proxy-reload" in tag for tag in changed(states)), "without a restart"
    until(lambda: ask("CONNECT", "localhost:443", "localhost") == 403, "it refuses again")
