"""Compare settings of the web app on a web machine of this host, and print a table in Markdown.

Two apps run at the same time on the machine: one as salt/airflow starts it, but with one worker,
and one with a change. They are asked in short turns, so that both meet the same host. The clients
do not count: they run beside the machine, and enter its namespaces only. CPU time is the median of
an app's processes over all turns; the ratio is the median of those of two turns that follow each
other. Memory is what they hold in proportion (PSS) after all requests. Nothing of the machine's
configuration is changed. The exit code is 1 when an answer was not 200.

Needs root, and a machine that nobody else uses: one of `make up`, or of a test.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import docker

ROOT = Path(__file__).parents[1]
PROGRAM = (ROOT / "scripts/bench_app_probe.py").read_text()
VISIT = ROOT / "docs/bench/visit.json"
FILES = "/run/bench"
BEFORE = f"{FILES}/before"
REQUESTS: dict[str, str | list[str]] = {
    "login": "/auth/login/",
    "health": "/api/v2/monitor/health",
    "API list": "/api/v2/dags?limit=50",
    "UI list": "/ui/dags?limit=50",
}
GUNICORN = "--bind=unix:/run/airflow/{unit}.sock --worker-class={worker} --no-control-socket"
JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
STOCK_AUTH = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


@dataclass(frozen=True)
class Change:
    """One difference from the app that salt/airflow starts.

    Attributes:
        environment: settings that replace or add to its environment.
        worker: the class of the worker.
        stock: whether Airflow's documented command starts it, with Airflow's own defaults.
        client: what differs in the requests: `plain` (no compression), `kept` (one connection).
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    worker: str = "web_worker.WebWorker"
    stock: bool = False
    client: str = ""


# Needs libjemalloc2 on the machine. `bench_worker` is written there by this script.
CHANGES = {
    "nothing (the noise)": Change(),
    "stock `airflow api-server`": Change(
        {
            "AIRFLOW__API__SERVER_TYPE": "uvicorn",
            "AIRFLOW__CORE__AUTH_MANAGER": STOCK_AUTH,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "5",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": "10",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "bench_worker.NOTHING",
        },
        stock=True,
    ),
    "no bound, look-ups of tokens in the loop": Change(
        {"AIRFLOW__CORE__AUTH_MANAGER": STOCK_AUTH},
        "airflow.api_fastapi.gunicorn_app.AirflowUvicornWorker",
    ),
    "two workers": Change({"AIRFLOW__API__WORKERS": "2"}),
    "jemalloc": Change({"LD_PRELOAD": JEMALLOC}),
    "glibc trims early": Change({"MALLOC_TRIM_THRESHOLD_": "131072"}),
    "asyncio and h11, not uvloop and httptools": Change(worker="bench_worker.Plain"),
    "no access log": Change({"AIRFLOW__LOGGING__NAMESPACE_LEVELS": "http.access=WARNING"}),
    "FAB keeps users for 300 s, not 30": Change({"AIRFLOW__FAB__CACHE_TTL": "300"}),
    "tokens that are not revoked are remembered for 1 s": Change(
        {"AIRFLOW__CORE__AUTH_MANAGER": "bench_worker.RememberingFabAuthManager"}
    ),
    "garbage collected ten times less often": Change(worker="bench_worker.RarelyCollected"),
    "threads take turns every 50 ms, not 5": Change(worker="bench_worker.RarelySwitched"),
    "`PYTHONOPTIMIZE=1`": Change({"PYTHONOPTIMIZE": "1"}),
    "answers not compressed by Python": Change(client="plain"),
    "connections to the app kept": Change(client="kept"),
}

BENCH_WORKER = """
import gc, sys, time
from cachetools import TTLCache
from web_auth import OffLoopFabAuthManager
from web_worker import WebWorker
NOTHING = {}
class Plain(WebWorker):
    CONFIG_KWARGS = {**WebWorker.CONFIG_KWARGS, "loop": "asyncio", "http": "h11"}
class RarelyCollected(WebWorker):
    def run(self):
        gc.set_threshold(20000, 10, 10)
        super().run()
class RarelySwitched(WebWorker):
    def run(self):
        sys.setswitchinterval(0.05)
        super().run()
class RememberingFabAuthManager(OffLoopFabAuthManager):
    _known = TTLCache(1024, 1)
    def _user_of(self, claims):
        user = self._known.get(claims.get("jti"))
        if user is None:
            user = self._known[claims.get("jti")] = super()._user_of(claims)
        return user
"""


class Machine:
    """A web machine in a container of this host."""

    def __init__(self, name: str, workers: int = 1) -> None:
        """Take a container's name, and how many workers an app has."""
        self._workers = str(workers)
        self._container = docker.from_env().containers.get(name)
        process = str(self._container.attrs["State"]["Pid"])
        self._enter = ["nsenter", "-t", process, "-m", "-n", "-p"]

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command on the machine, and return its output.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        inside = ["docker", "exec", "-i", str(self._container.name), *command]
        done = subprocess.run(inside, input=stdin, capture_output=True, text=True, check=True)
        return str(done.stdout)

    def probe(self, **question: Any) -> Any:
        """Ask the probe, which runs in the machine's namespaces but not in its cgroup."""
        program = f"{PROGRAM}\nmain({json.dumps(question)!r})\n"
        done = subprocess.run(
            [*self._enter, "/opt/salt/bin/python", "-"],
            input=program,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def start(self, unit: str, change: Change) -> None:
        """Start an app as a unit of its own, and wait until it answers."""
        arguments = GUNICORN.format(unit=unit, worker=change.worker)
        settings = {
            "AIRFLOW__API__WORKERS": self._workers,
            "PYTHONPATH": f"/etc/airflow:{FILES}",
            "GUNICORN_CMD_ARGS": arguments,
            **change.environment,
        }
        lines = "".join(f"{name}='{value}'\n" for name, value in settings.items())
        self.run("sh", "-c", f"cat > {FILES}/{unit}.env", stdin=lines)
        options = ["--port=8099"] if change.stock else ["--proxy-headers"]
        self.run(
            "systemd-run",
            f"--unit=bench-{unit}",
            "--property=User=airflow",
            "--property=UMask=0077",
            "--property=EnvironmentFile=/etc/airflow/environment",
            "--property=EnvironmentFile=/etc/airflow/secrets.env",
            f"--property=EnvironmentFile={FILES}/{unit}.env",
            "/opt/airflow/current/venv/bin/airflow",
            "api-server",
            "--apps=core",
            *options,
        )

    def stop(self, unit: str) -> None:
        """Stop an app, if it runs."""
        command = f"systemctl stop bench-{unit}; systemctl reset-failed bench-{unit}"
        self.run("sh", "-c", f"{command} 2>/dev/null || true")


def visit() -> list[str]:
    """Return what a browser asks the web app for on its first visit, after the login."""
    recorded = json.loads(VISIT.read_text())["site"]
    return [
        one["path"]
        for one in recorded
        if one["visit"] == "first"
        and one["method"] == "GET"
        and not one["anonymous"]
        and not one["path"].startswith(("/static/", "/auth/static/"))
    ]


def compare(
    machine: Machine,
    change: Change,
    requests: Mapping[str, str | list[str]],
    turns: Mapping[str, Any],
) -> dict[str, Any]:
    """Run an app with a change beside the usual one; return the probe's report.

    Args:
        machine: the web machine.
        change: the difference.
        requests: name -> a page, or the pages of a visit.
        turns: `rounds` of turns, and the `seconds` of each.
    """
    try:
        machine.start("changed", change)
        report: dict[str, Any] = machine.probe(
            requests=requests,
            **turns,
            apps={
                "usual": {"socket": "/run/airflow/usual.sock", "client": ""},
                "changed": {
                    "socket": None if change.stock else "/run/airflow/changed.sock",
                    "client": change.client,
                },
            },
            token=f"{FILES}/token",
        )
    finally:
        machine.stop("changed")
    return report


def row(name: str, report: Mapping[str, Any]) -> str:
    """Return a line of the table: milliseconds of CPU, usual and changed, and memory."""
    cells = []
    for request in report["usual"]["cpu"]:
        usual, changed = (report[app]["cpu"][request] for app in ("usual", "changed"))
        # The host may become twice as slow at any moment: only turns that follow each other are
        # alike.
        pairs = [after / before for before, after in zip(usual, changed, strict=True) if before]
        ratio = f" ({median(pairs):.2f})" if pairs else ""
        cells.append(f"{median(usual):.1f} → {median(changed):.1f}{ratio}")
    memory = " → ".join(f"{report[app]['memory']:.0f}" for app in ("usual", "changed"))
    return f"| {name} | {' | '.join(cells)} | {memory} |"


def put_before(machine: Machine, revision: str) -> Change:
    """Put the Python files of a revision on the machine; return the change to them."""
    machine.run("mkdir", "-p", BEFORE)
    folder = "salt/airflow/files"
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", f"{revision}:{folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split():
        if name.endswith(".py"):
            text = subprocess.run(
                ["git", "show", f"{revision}:{folder}/{name}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            machine.run("sh", "-c", f"cat > {BEFORE}/{name}", stdin=text.stdout)
    return Change({"PYTHONPATH": f"{BEFORE}:{FILES}"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("machine", help="the container of a web machine")
    parser.add_argument("--password", type=Path, required=True, help="a file: admin's password")
    parser.add_argument("--only", default="", help="changes whose name contains this text")
    parser.add_argument("--requests", default="", help="requests whose name contains this text")
    parser.add_argument("--before", default="", help="a revision: compare its Python files, too")
    parser.add_argument("--workers", type=int, default=1, help="of each app")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each app and request")
    asked = parser.parse_args(arguments)
    requests = {
        name: pages
        for name, pages in (REQUESTS | {"visit": visit()}).items()
        if asked.requests in name
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    machine = Machine(asked.machine, asked.workers)
    machine.run("mkdir", "-p", FILES)
    machine.run("sh", "-c", f"cat > {FILES}/bench_worker.py", stdin=BENCH_WORKER)
    changes = dict(CHANGES)
    if asked.before:
        changes[f"the files of {asked.before}"] = put_before(machine, asked.before)
    machine.run("chmod", "-R", "a+rX", FILES)
    machine.run("systemctl", "stop", "airflow")
    failed = False
    try:
        machine.stop("usual")
        machine.start("usual", Change())
        login = {
            "password": asked.password.read_text().strip(),
            "socket": "/run/airflow/usual.sock",
        }
        machine.run("sh", "-c", f"umask 077; cat > {FILES}/token", stdin=machine.probe(login=login))
        print(f"| change | {' | '.join(requests)} | memory |")
        print(f"| -- | {' | '.join('--' for _ in requests)} | -- |")
        turns = {"rounds": asked.rounds, "seconds": asked.seconds}
        for name, change in changes.items():
            if asked.only in name:
                report = compare(machine, change, requests, turns)
                print(row(name, report), flush=True)
                if report["errors"]:
                    print(f"{name}: {report['errors']}", file=sys.stderr)
                    failed = True
    finally:
        machine.stop("usual")
        machine.run("rm", "-rf", FILES)
        machine.run("systemctl", "start", "airflow")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
