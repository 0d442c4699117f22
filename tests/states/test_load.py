"""The web app under load: it never freezes, its memory has a bound, and a database may stand still.

`LOAD_REQUESTS` says how many lists the test of the memory reads: 1500, which takes a minute, or
10000, after which the memory is level.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import pytest

from harness import MACHINE_MEBIBYTES, Fleet, Machine
from saltmodules import load
from waiting import until
from webrequests import LOAD

MEMORY = MACHINE_MEBIBYTES << 20
DAGS = "/ui/dags?limit=50"
HEALTH = "/api/v2/monitor/health"
FROZEN_SECONDS = 20
LOAD_REQUESTS = int(os.environ.get("LOAD_REQUESTS", "1500"))
# Read last by systemd, so it changes one setting of /etc/airflow/environment.
DROP_IN = "/etc/systemd/system/airflow.service.d/zz-test.conf"
OVERRIDE = "/etc/airflow-test.env"
HELD = "/var/lib/airflow/held.json"
# A host that gives the machine half a CPU has 64 requests wait for longer than people do.
PATIENT = {"WEB_WAIT_SECONDS": "60", "WEB_ANSWER_SECONDS": "60"}

web_sizes = load("_modules", "web_sizes")


class Answer(NamedTuple):
    """A request: its start as a time stamp, and how long it took, in seconds."""

    path: str
    start: float
    seconds: float
    status: int | str

    @property
    def end(self) -> float:
        return self.start + self.seconds


def ask(edge: Machine, web: Machine, password: str, program: str, **values: Any) -> Any:
    """Run a program with `load` on the only machine that the web machine listens to."""
    names = {"address": web.address, "client": "192.0.2.9", "password": password}
    log_in = "\nbearer = token(password)\n"
    return edge.python(LOAD + log_in + program, **names, **values)


@contextmanager
def changed_settings(web: Machine, **settings: str) -> Iterator[None]:
    """Run the web app with other settings in its environment."""
    web.put(OVERRIDE, "".join(f"{name}='{value}'\n" for name, value in settings.items()))
    web.put(DROP_IN, f"[Service]\nEnvironmentFile={OVERRIDE}\n")
    try:
        restart(web)
        yield
    finally:
        web.run("rm", "-f", DROP_IN, OVERRIDE)
        restart(web)


def restart(web: Machine) -> None:
    """Restart the web app and wait until it is healthy."""
    web.run("systemctl", "daemon-reload")
    done = web.run("systemctl", "restart", "airflow")
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    socket = "unix:/run/airflow/web.sock"
    while not web.salt("airflow.healthy", f"http://localhost{HEALTH}", socket):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def processes(web: Machine, title: str) -> set[str]:
    """Return the processes of the web app with this title."""
    listed = shown(web, "pid=,args=").splitlines()
    return {line.split()[0] for line in listed if f"gunicorn: {title}" in line}


def held(web: Machine) -> int:
    """Return the proportional memory of all processes, in bytes."""
    return sum(int(pss) * 1024 for pss in shown(web, "pss=").split())


def shown(web: Machine, columns: str) -> str:
    """Return what `ps` shows of all processes, at least itself.

    Docker may lose what a short command prints on a busy host.
    """
    return until(lambda: str(web.run("ps", "axo", columns).stdout or ""), "ps lists itself", 10)


def test_64_connections_are_all_answered_as_fast_as_few(
    edge: Machine, web: Machine, password: str
) -> None:
    """In turns, so that both meet the same host. `make bench` asks for more, on a quiet one."""
    rounds = """
result = []
for _ in range(3):
    for connections in (4, 64):
        start = time.time()
        rows = load([path] * connections + [health], 5)
        answered = [row for row in rows if row[0] == path]
        speed = len(answered) / (max(row[1] + row[2] for row in rows) - start)
        result.append([connections, speed, rows])
"""
    with changed_settings(web, **PATIENT):
        found = ask(edge, web, password, rounds, path=DAGS, health=HEALTH)
    rows = [Answer(*row) for _, _, answered in found for row in answered]
    assert Counter(row.status for row in rows).keys() == {200}
    assert max(row.seconds for row in rows if row.path == HEALTH) < 5
    few, many = (
        median(speed for number, speed, _ in found if number == connections)
        for connections in (4, 64)
    )
    print(f"answers per second: {few:.1f} over 4 connections, {many:.1f} over 64")
    assert many >= 0.9 * few


@pytest.mark.long
def test_no_request_holds_more_connections_than_its_share(
    edge: Machine, web: Machine, password: str
) -> None:
    """What the sizes of the pools are computed from: every page, and every kind of change."""
    web.put("/etc/airflow/measured_worker.py", MEASURED_WORKER)
    arguments = "--bind=unix:/run/airflow/web.sock --worker-class=measured_worker.MeasuredWorker"
    try:
        with changed_settings(web, GUNICORN_CMD_ARGS=f"{arguments} --workers=1"):
            statuses, failed = ask(edge, web, password, EVERY_PAGE)
            counted = json.loads(web.run("cat", HELD).stdout)
    finally:
        web.run("rm", "-f", "/etc/airflow/measured_worker.py", HELD)
    assert statuses["200"] > 70, (statuses, failed)
    requests = {name: most for name, most in counted.items() if not name.startswith("thread ")}
    beside = {name: most for name, most in counted.items() if name.startswith("thread ")}
    assert max(requests.values()) == web_sizes.PER_REQUEST, requests
    assert beside == {"thread auth_0": 1}
    assert {"POST /api/v2/backfills", "GET /auth/roles/list/"} <= requests.keys()


def test_new_worker_serves_before_the_old_one_leaves(
    edge: Machine, web: Machine, password: str
) -> None:
    reading = "result = load([path] * 4, seconds)"
    seen: list[set[str]] = []
    with changed_settings(web, WEB_WORKER_REQUESTS="20"), ThreadPoolExecutor(1) as pool:
        (old,) = processes(web, "worker")
        work = pool.submit(ask, edge, web, password, reading, path="/ui/dags?limit=5", seconds=20)
        while not work.done():
            seen.append(processes(web, "worker"))
            time.sleep(0.2)
        assert {Answer(*row).status for row in work.result()} == {200}
        until(lambda: len(processes(web, "worker")) == 1, "one worker is left")
    assert {1, 2} == {len(workers) for workers in seen}
    assert old not in seen[-1]


@pytest.mark.long
def test_memory_has_a_bound_and_its_renewal_fails_no_request(
    edge: Machine, web: Machine, password: str
) -> None:
    """Workers leave after requests that they have served soon, and one at a time."""
    reading = "result = load([path] * 6, seconds)"
    seen: list[tuple[set[str], int]] = []
    answered: list[Answer] = []
    with (
        changed_settings(web, WEB_WORKER_REQUESTS=str(LOAD_REQUESTS // 4)),
        ThreadPoolExecutor(1) as pool,
    ):
        before = processes(web, "worker")
        while len(answered) < LOAD_REQUESTS:
            work = pool.submit(
                ask, edge, web, password, reading, path="/api/v2/dags?limit=50", seconds=45
            )
            while not work.done():
                seen.append((processes(web, "worker"), held(web)))
                time.sleep(0.5)
            answered += [Answer(*row) for row in work.result()]
    assert Counter(row.status for row in answered).keys() == {200}
    workers = [pids for pids, _ in seen]
    assert before - workers[-1], "no worker was renewed"
    assert all(pids for pids in workers), "all workers left at once"
    assert max(map(len, workers)) == 2, "the new one did not come before the old one left"
    assert max(memory for _, memory in seen) <= 0.75 * MEMORY
    quarter = len(seen) // 4
    second, last = (
        median(memory for _, memory in part)
        for part in (seen[quarter : 2 * quarter], seen[-quarter:])
    )
    assert last <= 1.1 * second
    assert web.oom_kills() == 0


def test_database_that_stands_still_stops_the_web_machine_no_longer(
    fleet: Fleet, edge: Machine, web: Machine, password: str
) -> None:
    database = fleet.machine("postgres-1")
    paths = ["/api/v2/dags?limit=5"] * 3 + ["/ui/dags?limit=5", "/auth/login/", HEALTH]
    lightly = "result = load(paths, seconds, pause=0.2)"
    restart(web)  # most requests need a new connection
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(
            ask, edge, web, password, lightly, paths=paths, seconds=FROZEN_SECONDS + 20
        )
        time.sleep(5)  # the log-in, and some answers
        try:
            assert database.run("pkill", "-STOP", "-u", "postgres").returncode == 0
            frozen = time.time()
            time.sleep(FROZEN_SECONDS)
        finally:
            assert database.run("pkill", "-CONT", "-u", "postgres").returncode == 0
        thawed = time.time()
        answers = [Answer(*row) for row in work.result()]
    during = [row for row in answers if row.start < thawed and row.end > frozen + 1]
    unexpected = [row for row in during if row.status not in (200, 503, 504)]
    assert not unexpected, (unexpected, frozen, thawed)
    assert {503, 504} & {row.status for row in during}, "the database has not stood still"
    assert max(row.seconds for row in answers) < 15
    for path in set(paths):
        after = [row for row in answers if row.path == path and row.start > thawed + 3]
        assert {row.status for row in after} == {200}, path
        first = min(row.end for row in answers if row.path == path and row.end > thawed)
        assert first < thawed + 3, path


def test_machine_that_stands_still_with_a_session_stops_no_other(
    fleet: Fleet, edge: Machine, web: Machine, password: str
) -> None:
    """Reading a page of the login takes no lock: a web machine that is frozen may hold it."""
    database = fleet.machine("postgres-1")
    sql = "BEGIN; SELECT id FROM session FOR UPDATE; SELECT pg_sleep(8)"
    psql = ("runuser", "-u", "postgres", "--", "psql", "-qAt", "-d", "airflow", "-c")
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    visit = (
        LOAD
        + """
result = ask("/auth/login/", **proxied).headers["Set-Cookie"].partition(";")[0]
ask("/auth/login/", Cookie=result, **proxied)  # adds the language to the session
"""
    )
    again = (
        LOAD
        + """
start = time.time()
page = ask("/auth/login/", Cookie=cookie, **proxied)
result = [page.status, "csrf_token" in page.read().decode(), time.time() - start]
"""
    )
    values = {"address": web.address, "client": "192.0.2.9"}
    cookie = edge.python(visit, **values)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(database.run, *psql, sql)
        until(lambda: database.run(*psql, waits).stdout.strip() == "1", "the sessions are locked")
        status, has_form, seconds = edge.python(again, cookie=cookie, **values)
    assert (status, has_form) == (200, True)
    assert seconds < 4, "it has waited for the lock"


def test_socket_is_open_to_nginx_alone(web: Machine) -> None:
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/airflow/web.sock')"
    for user, allowed in (("www-data", True), ("admin", False), ("nobody", False)):
        done = web.run("/usr/bin/python3", "-c", connect, user=user)
        assert (done.returncode == 0) is allowed, (user, done.stderr)
        assert allowed or "Permission denied" in done.stderr
    secrets = web.run("cat", "/etc/airflow/secrets.env", user="www-data")
    assert "Permission denied" in secrets.stderr


@pytest.mark.parametrize("damage", [["chgrp", "airflow"], ["chmod", "0755"]], ids=str)
def test_changed_folder_of_the_socket_is_repaired(web: Machine, damage: list[str]) -> None:
    web.run(*damage, "/run/airflow")
    states = web.apply("airflow.config")
    assert [tag.split("_|-")[1] for tag, state in states.items() if state["changes"]] == [
        "airflow-runtime"
    ]
    listed = web.run("stat", "-c", "%a %U:%G", "/run/airflow").stdout.strip()
    assert listed == "750 airflow:www-data"


# A worker that counts at the pool how many connections a request holds at the same time.
MEASURED_WORKER = f"""
import contextvars, json, threading
from collections import Counter
from sqlalchemy import event
from airflow import settings
from web_worker import WebWorker

try:
    held = Counter(json.load(open("{HELD}")))  # of the worker before this one
except OSError:
    held = Counter()
lock = threading.Lock()
current = contextvars.ContextVar("current", default=None)

class Holder:
    def __init__(self, name):
        self.name, self.number = name, 0

def taken(connection, record, proxy):
    thread = threading.current_thread().name
    # The look-up of a token runs in the context of its request.
    request = None if thread.startswith("auth") else current.get()
    holder = request or Holder("thread " + thread)
    record.info["holder"] = holder
    with lock:
        holder.number += 1
        held[holder.name] = max(held[holder.name], holder.number)

def given_back(connection, record):
    with lock:
        record.info.pop("holder").number -= 1

class MeasuredWorker(WebWorker):
    async def _serve(self):
        app = self.wsgi
        async def measured(scope, receive, send):
            if scope["type"] == "http":
                current.set(Holder(scope["method"] + " " + scope["path"]))
            await app(scope, receive, send)
            with lock, open("{HELD}", "w") as file:
                json.dump(held, file)
        self.wsgi = measured
        event.listen(settings.engine, "checkout", taken)
        event.listen(settings.engine, "checkin", given_back)
        await super()._serve()
"""

# Every GET that the API describes, the pages of FAB, and changes of every kind.
EVERY_PAGE = r"""
import collections
DAG = "/api/v2/dags/example_bash_operator"
RUN = f"{DAG}/dagRuns/held"
TASK = f"{RUN}/taskInstances/runme_0"
IDS = {"dag_id": "example_bash_operator", "dag_run_id": "held", "run_id": "held",
       "task_id": "runme_0", "map_index": "-1", "connection_id": "held", "variable_key": "held",
       "pool_name": "default_pool", "section": "core", "option": "executor"}
statuses, failed = collections.Counter(), []

def send(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body)
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json",
               **proxied, **headers}
    connection = Connection(address)
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    text = answer.read()
    statuses[str(answer.status)] += 1
    if answer.status >= 500:
        failed.append(f"{method} {path}: {answer.status} {text[:300]}")
    return answer, text

send("POST", f"{DAG}/dagRuns", {"dag_run_id": "held", "logical_date": None})
send("POST", "/api/v2/connections", {"connection_id": "held", "conn_type": "http"})
send("POST", "/api/v2/variables", {"key": "held", "value": "1"})
send("PATCH", DAG, {"is_paused": True})
send("PATCH", RUN, {"note": "held"})
send("POST", f"{DAG}/clearTaskInstances", {"dry_run": False, "dag_run_id": "held"})
send("PATCH", TASK, {"new_state": "success"})
send("POST", f"{TASK}/xcomEntries", {"key": "held", "value": 1})
send("PATCH", "/api/v2/variables", {"actions": [
    {"action": "create", "action_on_existence": "overwrite",
     "entities": [{"key": f"held{number}", "value": "1"} for number in range(20)]}]})
days = {"dag_id": IDS["dag_id"], "from_date": "2026-01-01T00:00:00Z",
        "to_date": "2026-01-03T00:00:00Z"}
send("POST", "/api/v2/backfills/dry_run", days)
send("POST", "/api/v2/backfills", days)
send("POST", "/api/v2/assets/events", {"asset_id": 1})
send("POST", "/api/v2/dags/~/dagRuns/list", {})

described = json.loads(send("GET", "/openapi.json")[1])["paths"]
for path, methods in described.items():
    if "get" in methods and not path.endswith(("/wait", "/logout")):
        needed = [parameter["name"] for parameter in methods["get"].get("parameters", [])
                  if parameter["in"] == "query" and parameter.get("required")]
        query = "&".join(f"{name}={IDS.get(name, '1')}" for name in needed)
        send("GET", re.sub(r"{([^}:]+)[^}]*}", lambda name: IDS.get(name[1], "1"), path)
             + f"?{query}")
for page in ("grid/structure/example_bash_operator", "grid/runs/example_bash_operator",
             "grid/ti_summaries/example_bash_operator?run_ids=held", "dags?limit=50", "config",
             "structure/structure_data?dag_id=example_bash_operator", "dashboard/dag_stats",
             "next_run_assets/asset_consumes_1", "dependencies", "auth/menus"):
    send("GET", f"/ui/{page}")

page = ask("/auth/login/", **proxied)
cookie = page.headers["Set-Cookie"].partition(";")[0]
csrf = re.search(r'name="csrf_token"[^>]*value="([^"]+)', page.read().decode())[1]
form = {"csrf_token": csrf, "username": "admin", "password": password}
inside = ask("/auth/login/", urllib.parse.urlencode(form).encode(), Cookie=cookie,
             Referer=f"https://{address}:8080/auth/login/", **proxied)
cookies = "; ".join(line.partition(";")[0] for line in inside.headers.get_all("Set-Cookie"))
for page in ("users/list/", "roles/list/", "users/show/1", "roles/show/1", "actions/list/",
             "permissions/list/", "resources/list/"):
    send("GET", f"/auth/{page}", Cookie=cookies)

for path in (RUN, "/api/v2/connections/held", "/api/v2/variables/held"):
    send("DELETE", path)
result = statuses, failed
"""
