"""Ask the site of a running deployment for pages, then print what the programs of machines hold.

The pages are those that people open, so each connection to the database that a pool keeps has seen
them. Then each machine runs a highstate with `test=True`, because the minion needs its most memory
for that, and `memory_probe.py` samples it meanwhile. `own` counts anonymous memory and page tables,
`largest` those of one process; docs/capacity.md holds what was found. The exit code is 1 when an
answer was an error of the server.
"""

from __future__ import annotations

import argparse
import json
import ssl
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stackctl.deployment import Deployment

ROOT = Path(__file__).parents[1]
PROBE = (ROOT / "scripts/memory_probe.py").read_text()
HIGHSTATE = "/opt/salt/bin/salt-call state.highstate test=True"
DAG = "example_bash_operator"
# What the pages of the web app ask for: the list, a DAG's tabs, the dashboard, browse and admin.
PAGES = (
    "/ui/dags?limit=50",
    "/ui/dashboard/historical_metrics_data?start_date=2026-01-01T00:00:00Z",
    "/ui/dashboard/dag_stats",
    "/ui/config",
    "/ui/auth/menus",
    "/ui/dependencies",
    f"/ui/dags/{DAG}/latest_run",
    f"/ui/structure/structure_data?dag_id={DAG}",
    f"/ui/grid/structure/{DAG}",
    f"/ui/grid/runs/{DAG}",
    f"/ui/calendar/{DAG}",
    f"/api/v2/dags/{DAG}/details",
    f"/api/v2/dags/{DAG}/dagRuns",
    f"/api/v2/dags/{DAG}/dagRuns/~/taskInstances?limit=50",
    f"/api/v2/dags/{DAG}/tasks",
    f"/api/v2/dags/{DAG}/dagVersions",
    f"/api/v2/dagSources/{DAG}",
    "/api/v2/dags?limit=50",
    "/api/v2/dagTags",
    "/api/v2/dagWarnings",
    "/api/v2/dagStats",
    "/api/v2/importErrors",
    "/api/v2/assets",
    "/api/v2/assets/events",
    "/api/v2/eventLogs",
    "/api/v2/jobs",
    "/api/v2/pools",
    "/api/v2/variables",
    "/api/v2/connections",
    "/api/v2/monitor/health",
    "/auth/login/",
)


@dataclass(frozen=True)
class Site:
    """A site, and the password of its administrator.

    Attributes:
        url: the address that users type.
        ca: the certificate that signed the site's own, PEM.
        username, password: of Airflow.
    """

    url: str
    ca: str
    username: str
    password: str

    def load(self, clients: int, rounds: int) -> Counter[int]:
        """Ask for every page in `rounds` rounds, `clients` at a time; return status -> answers."""
        header = {"Authorization": f"Bearer {self._token()}"}
        with ThreadPoolExecutor(clients) as pool:
            answers = pool.map(lambda page: self._ask(page, None, header)[0], PAGES * rounds)
            return Counter(answers)

    def _token(self) -> str:
        login = {"username": self.username, "password": self.password}
        kind = {"Content-Type": "application/json"}
        status, text = self._ask("/auth/token", json.dumps(login).encode(), kind)
        if status >= 400:
            # 429: the edge limits logins (pillar/base/haproxy.sls).
            raise SystemExit(f"{self.url}/auth/token answers {status}")
        return str(json.loads(text)["access_token"])

    def _ask(self, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        trust = ssl.create_default_context()
        trust.load_verify_locations(cadata=self.ca)
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=120, context=trust) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def measure(run: Sequence[str]) -> dict[str, dict[str, int]]:
    """Run the probe on a machine and return its report.

    Args:
        run: the command that runs a shell line on the machine, without that line.
    """
    line = f"/opt/salt/bin/python - {HIGHSTATE}"
    done = subprocess.run(
        [*run, line], input=PROBE, capture_output=True, text=True, check=True, timeout=600
    )
    report: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return report


def table(reports: dict[str, dict[str, dict[str, int]]]) -> Table:
    """Return the figures in MiB, a row for each kind of program of each machine."""
    shown = Table("machine", "programs", box=None)
    for name in ("processes", "own", "largest", "shared", "own at peak"):
        shown.add_column(name, justify="right")
    for machine, report in reports.items():
        total: Counter[str] = Counter()
        for group, figures in report.items():
            total.update(figures)
            shown.add_row(machine, group, *_cells(figures))
        shown.add_row(machine, "all", *_cells(dict(total) | {"each_kib": 0}), end_section=True)
    return shown


def _cells(figures: dict[str, int]) -> list[str]:
    return [str(figures["processes"])] + [
        f"{figures[key] / 1024:.1f}" if figures[key] else ""
        for key in ("own_kib", "each_kib", "shared_kib", "peak_kib")
    ]


def main() -> int:
    """Load, measure, print; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deployment", "-d", default="local")
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time")
    parser.add_argument("--rounds", type=int, default=20, help="how often each page is asked for")
    options = parser.parse_args()
    deployment = Deployment(options.deployment, ROOT)
    stackctl = [sys.executable, "-m", "stackctl"]
    settings: dict[str, Any] = deployment.settings()
    site = Site(
        url=str(settings["base_url"]),
        ca=str(settings["ca_certificate"]),
        username=deployment.base_pillar("airflow")["admin"]["username"],
        password=subprocess.run(
            [*stackctl, "secrets", "show", "-d", deployment.name, "airflow-admin", "password"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip(),
    )
    answers = site.load(options.clients, options.rounds)
    print(", ".join(f"{count} x {status}" for status, count in sorted(answers.items())))
    reports = {
        machine: measure([*stackctl, "exec", "-d", deployment.name, machine, "--"])
        for machine in deployment.machines()
    }
    Console(width=100).print(table(reports))
    return int(any(status >= 500 for status in answers))


if __name__ == "__main__":
    sys.exit(main())
