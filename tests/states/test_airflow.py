"""The Airflow web app on its machine: convergence, secrets, login limits and memory."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from harness import HIGHSTATE_SECONDS, MACHINE_MEBIBYTES, Fleet, Machine, changed, failed
from plainpillar import DEPLOYMENT
from stackctl.password_rotation import begin, continued
from webrequests import LOGIN

MEMORY_LIMIT = MACHINE_MEBIBYTES << 20


def test_converges(fleet: Fleet, web: Machine) -> None:
    fleet.assert_idempotent(web)


def test_migrating_again_changes_nothing(web: Machine) -> None:
    assert [tag for tag, state in web.apply("airflow.migrate").items() if state["changes"]] == []


def test_example_dags_are_listed(edge: Machine, web: Machine, password: str) -> None:
    listing = """
answer = ask("/api/v2/dags?limit=1", Authorization=f"Bearer {token(password)}")
result = json.load(answer)["total_entries"]
"""
    found = edge.python(LOGIN + listing, address=web.address, client="192.0.2.1", password=password)
    assert found > 100


def test_people_are_told_what_this_site_does_not_run(
    edge: Machine, web: Machine, password: str
) -> None:
    asking = """
answer = ask("/ui/config", Authorization=f"Bearer {token(password)}")
result = json.load(answer)
"""
    told = edge.python(LOGIN + asking, address=web.address, client="192.0.2.7", password=password)
    (alert,) = told["dashboard_alert"]
    assert alert["category"] == "info"
    assert "a run that you trigger stays queued" in alert["text"]
    # The deployment that the test's pillar names.
    assert told["instance_name"] == "Airflow (test)"


def test_login_accepts_the_right_password_only(edge: Machine, web: Machine, password: str) -> None:
    both = LOGIN + "result = [login(password), login('wrong')]"
    found = edge.python(both, address=web.address, client="192.0.2.2", password=password)
    assert found == ["in", "refused"]


def test_login_limit_holds_over_all_workers(edge: Machine, web: Machine, password: str) -> None:
    """At the address that guesses, and nowhere else."""
    tries = LOGIN + "result = [login('wrong') for _ in range(5)] + [login(password)]"
    found = edge.python(tries, address=web.address, client="192.0.2.3", password=password)
    assert found == ["refused"] * 5 + ["limited"]
    other = LOGIN + "result = login(password)"
    assert edge.python(other, address=web.address, client="192.0.2.5", password=password) == "in"


def test_right_passwords_are_not_limited(edge: Machine, web: Machine, password: str) -> None:
    tries = LOGIN + "result = [login(password) for _ in range(12)]"
    found = edge.python(tries, address=web.address, client="192.0.2.6", password=password)
    assert found == ["in"] * 12


SESSIONS = (
    LOGIN
    + r"""
import secrets, time

def cookies_of(answer):
    kept = [one.partition(";")[0] for one in answer.headers.get_all("Set-Cookie") or []]
    return {name: value for name, _, value in (one.partition("=") for one in kept) if value}

def cookie(**values):
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in values.items()), **proxied}

def enter(name, word):
    page = ask("/auth/login/", **proxied)
    csrf = re.search(r'name="csrf_token"[^>]*value="([^"]+)', page.read().decode())[1]
    form = urllib.parse.urlencode({"csrf_token": csrf, "username": name, "password": word})
    answer = ask("/auth/login/", form.encode(), Referer=f"https://{address}:8080/auth/login/",
                 **cookie(session=cookies_of(page)["session"]))
    got = cookies_of(answer)
    # What a browser asks when its token has ended: the session alone gives it another one.
    later = cookies_of(ask("/auth/login/", **cookie(session=got["session"])))
    return {"session": got["session"], "tokens": [got["_token"], later["_token"]]}

def accepted(word):
    answers = [ask(path, **cookie(_token=word)) for path in ("/ui/config", "/api/v2/dags?limit=1")]
    bearer = {"Authorization": f"Bearer {word}"}
    answers += [ask(path, **bearer) for path in ("/api/v2/dags?limit=1", "/auth/fab/v1/users")]
    return sorted({answer.status for answer in answers})

def state(browser):
    # FAB's pages have no other credentials than the session.
    fresh = "_token" in cookies_of(ask("/auth/login/", **cookie(session=browser["session"])))
    page = ask("/auth/users/list/", **cookie(session=browser["session"])).status
    return [fresh, page, *(accepted(word) for word in browser["tokens"])]
"""
)
GOES_ON = [True, 200, [200], [200]]
LOGOUTS = {
    # As the UI does, whose browser follows the redirect with all cookies.
    "ui": "ask('/api/v2/auth/logout', **every); ask('/auth/logout', **every)",
    "api": "ask('/api/v2/auth/logout', **cookie(_token=first['tokens'][1]))",
    "fab": "ask('/auth/logout', **every)",
    "session": "ask('/auth/logout', **cookie(session=first['session']))",
    "token": "ask('/auth/logout', Authorization='Bearer ' + first['tokens'][0])",
    "flask": "ask('/auth/logout/', **every)",
}


def test_logout_ends_the_session_and_its_tokens_and_no_other(
    edge: Machine, web: Machine, password: str
) -> None:
    """Each way to log out ends what one browser has, at once."""
    program = (
        SESSIONS
        + """
admin, other, word = token(password), "other", secrets.token_urlsafe(24)
new = {"username": other, "password": word, "email": "other@example.com", "first_name": other,
       "last_name": other, "roles": [{"name": "Admin"}]}
headers = {"Authorization": f"Bearer {admin}", "Content-Type": "application/json"}
assert ask("/auth/fab/v1/users", json.dumps(new).encode(), **headers).status < 300
second, third = enter("admin", password), enter(other, word)
result = {"others": []}
for number, (name, leave) in enumerate(logouts.items()):
    proxied["X-Forwarded-For"] = f"198.51.100.{number}"
    first = enter("admin", password)
    every = cookie(session=first["session"], _token=first["tokens"][1])
    before = state(first)
    exec(leave)
    result[name] = [before, state(first)]
    result["others"] += [state(second), state(third), accepted(admin)]
ask("/auth/logout", **headers)
result["bearer"] = accepted(admin)
"""
    )
    names = {"address": web.address, "client": "192.0.2.5", "password": password}
    found = edge.python(program, logouts=LOGOUTS, **names)
    assert all(one in (GOES_ON, [200]) for one in found.pop("others"))
    assert {*found.pop("bearer")} <= {401, 403}
    for name, (before, after) in found.items():
        assert before == GOES_ON, name
        is_renewed, page, *tokens = after
        assert (is_renewed, page) == (False, 302), name
        assert all({*statuses} <= {401, 403} for statuses in tokens), name


@pytest.mark.long
def test_session_and_its_tokens_end_with_their_lifetime(
    edge: Machine, web: Machine, password: str
) -> None:
    program = (
        SESSIONS
        + """
start = time.time()
browser = enter("admin", password)
browser["tokens"].append(token(password))
parts = "session", "page", "token of the login", "token of the session", "token of a program"
before = state(browser)
ended = {}
while len(ended) < len(parts) and time.time() < start + 100:
    for part, found in zip(parts, state(browser), strict=True):
        if found not in (True, 200, [200]):
            ended.setdefault(part, time.time() - start)
    time.sleep(3)
result = {"before": before, "parts": parts, "ended": ended}
"""
    )
    minute = {"airflow": {"session_lifetime_minutes": 1}}
    states = web.salt("state.apply", "airflow", seconds=HIGHSTATE_SECONDS, pillar=minute)
    try:
        assert failed(states) == []
        names = {"address": web.address, "client": "192.0.2.6", "password": password}
        found = edge.python(program, **names)
    finally:
        assert failed(web.apply("airflow")) == []
    assert found["before"] == [*GOES_ON, [200]]
    assert found["ended"].keys() == set(found["parts"])
    assert all(50 < seconds < 65 for seconds in found["ended"].values()), found["ended"]


def test_forwarded_address_of_other_machine_is_ignored(
    edge: Machine, web: Machine, password: str
) -> None:
    tries = (
        LOGIN
        + """
result = []
for number in range(6):
    proxied["X-Forwarded-For"] = f"198.51.100.{number}"
    result.append(login("wrong"))
"""
    )
    found = web.python(tries, address="127.0.0.1", client="", password=password)
    assert found[-1] == "limited"


def test_owner_of_the_database_is_roots_alone(web: Machine) -> None:
    owner = "/etc/airflow/owner.env"
    assert web.run("stat", "-c", "%a %U:%G", owner).stdout.strip() == "600 root:root"
    for user in ("airflow", "admin"):
        assert "Permission denied" in web.run("cat", owner, user=user).stderr
    files = web.run("systemctl", "show", "-P", "EnvironmentFiles", "airflow").stdout
    assert "/etc/airflow/secrets.env" in files
    assert owner not in files


def test_command_line_uses_the_owner_on_request(web: Machine) -> None:
    show = ("airflow", "config", "get-value", "database", "sql_alchemy_conn")
    assert "://airflow:" in web.run(*show).stdout
    as_owner = web.run(*show, environment={"AIRFLOW_DATABASE_ROLE": "owner"})
    assert "://airflow_owner:" in as_owner.stdout, as_owner.stderr
    refused = web.run(*show, environment={"AIRFLOW_DATABASE_ROLE": "postgres"})
    assert "AIRFLOW_DATABASE_ROLE is 'app' or 'owner'" in refused.stderr


@pytest.mark.long
def test_permissions_of_a_release_are_synced_without_a_new_revision(
    fleet: Fleet, web: Machine
) -> None:
    def sql(statement: str) -> str:
        database = fleet.machine("postgres-1")
        done = database.run("psql", "-XAtqc", statement, "airflow", user="postgres")
        assert done.returncode == 0, done.stderr
        return str(done.stdout).strip()

    # As after a release with new permissions, or after a sync that failed.
    count = "SELECT count(*) FROM ab_permission_view_role"
    before = sql(count)
    sql("COMMENT ON TABLE ab_permission_view IS 'earlier'; DELETE FROM ab_permission_view_role")
    assert [tag.split("_|-")[1] for tag in changed(web.apply("airflow.migrate", test=True))] == [
        "airflow-permissions"
    ]
    states = web.apply("airflow.migrate")
    assert failed(states) == []
    assert [tag.split("_|-")[1] for tag in changed(states)] == ["airflow-permissions"]
    assert sql(count) == before
    assert changed(web.apply("airflow.migrate")) == []


@pytest.mark.long
def test_new_fernet_key_opens_what_the_old_one_has_encrypted(
    fleet: Fleet, edge: Machine, web: Machine, password: str
) -> None:
    """Before, while there are two keys, and when the old one is gone."""
    secret = "airflow-keys"
    before = fleet.pillar.secrets[secret]
    made = before | {"fernet_key": Fernet.generate_key().decode()}
    first, second = f"first-{time.time_ns()}", f"second-{time.time_ns()}"
    _keep(edge, web, password, first)
    with fleet.pillar.rotated():
        both = begin(DEPLOYMENT, secret, made, before)
        fleet.pillar.give(secret, both)
        fleet.converge(web)
        _keep(edge, web, password, second)
        assert [_opened(web, name) for name in (first, second)] == [OF_A_CONNECTION] * 2
        found = web.salt("airflow.encrypted")
        assert min(found["first"], found["other"]) >= 1, "each key has encrypted something"
        # As the last machine of the role does: web-2, which is not here.
        done = web.salt("airflow.encrypted", anew=True)
        assert done == found
        after = web.salt("airflow.encrypted")
        assert after == {"first": found["first"] + found["other"], "other": 0, "none": 0}
        alone = continued(DEPLOYMENT, secret, both)
        fleet.pillar.give(secret, alone)
        fleet.converge(web)
        assert [_opened(web, name) for name in (first, second)] == [OF_A_CONNECTION] * 2
        _keep(edge, web, password, first, second, remove=True)
        # The key of the other tests comes back by a rotation.
        fleet.pillar.give(secret, begin(DEPLOYMENT, secret, before, alone))
        fleet.converge(web)
        web.salt("airflow.encrypted", anew=True)
    fleet.converge(web)
    assert web.salt("airflow.encrypted")["none"] == 0


AIRFLOWS_OWN = """
import inspect, json, re
from airflow.cli.commands import rotate_fernet_key_command as command
body = inspect.getsource(inspect.unwrap(command.rotate_fernet_key))
found = re.findall(r"session,\\s+(\\w+)", body)
print(json.dumps(sorted(getattr(command, name).__tablename__ for name in found)))
"""
OURS = """
import json, sys
sys.path.append("/opt/airflow")
import database
print(json.dumps(sorted({table for tables, *_ in database.ENCRYPTED for table in tables})))
"""


def test_tables_with_encrypted_values_are_those_of_airflows_own_command(web: Machine) -> None:
    load = "set -a; . /etc/airflow/environment; . /etc/airflow/secrets.env"
    run = f'{load}; exec /opt/airflow/current/venv/bin/python -c "$1"'
    answers = [
        web.run("sh", "-c", run, "sh", source, user="airflow") for source in (AIRFLOWS_OWN, OURS)
    ]
    assert [done.returncode for done in answers] == [0, 0], answers
    theirs, ours = (json.loads(done.stdout.splitlines()[-1]) for done in answers)
    assert theirs == ours
    assert "connection" in ours


OF_A_CONNECTION = "of a connection"


def _keep(edge: Machine, web: Machine, password: str, *names: str, remove: bool = False) -> None:
    """Have Airflow keep connections, or remove them."""
    program = (
        LOGIN
        + """
bearer = {"Authorization": f"Bearer {token(password)}", "Content-Type": "application/json"}
result = []
for name in names:
    body = {"connection_id": name, "conn_type": "http", "password": secret}
    if remove:
        url = f"http://{address}:8080/api/v2/connections/{name}"
        request = urllib.request.Request(url, method="DELETE", headers=bearer)
        result.append(opener.open(request).status)
    else:
        result.append(ask("/api/v2/connections", json.dumps(body).encode(), **bearer).status)
"""
    )
    given = {"names": names, "secret": OF_A_CONNECTION, "remove": remove, "client": "192.0.2.9"}
    found = edge.python(program, address=web.address, password=password, **given)
    assert {*found} == {204 if remove else 201}


def _opened(web: Machine, name: str) -> str:
    """Return a connection's password, as Airflow itself reads it."""
    done = web.run("airflow", "connections", "get", name, "--output", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout[done.stdout.index("[") :])
    return str(found["password"])


def test_other_users_cannot_read_secrets(fleet: Fleet, web: Machine) -> None:
    places = [
        ["ps", "axeww"],
        ["systemctl", "show", "airflow"],
        ["sh", "-c", "cat /etc/airflow/*"],
    ]
    seen = "".join(web.run(*command, user="admin").stdout for command in places)
    assert "/var/lib/airflow" in seen
    seen += web.run("journalctl", "--no-pager", "--all").stdout
    private = {name: value for name, value in fleet.pillar.values().items() if value in seen}
    assert not private.keys()


def test_memory_under_load_fits_the_machine(edge: Machine, web: Machine, password: str) -> None:
    load = (
        LOGIN
        + """
from concurrent.futures import ThreadPoolExecutor
bearer = {"Authorization": f"Bearer {token(password)}"}
def request(number):
    return ask("/api/v2/dags?limit=50" if number % 2 else "/auth/login/", **bearer).status
with ThreadPoolExecutor(8) as pool:
    result = sorted(set(pool.map(request, range(200))))
"""
    )
    before = service_pids(web)
    assert edge.python(load, address=web.address, client="192.0.2.4", password=password) == [200]
    assert sum(resident(web).values()) < 0.8 * MEMORY_LIMIT
    assert web.oom_kills() == 0
    assert len(before) > 1
    assert service_pids(web) == before


def test_unmigrated_database_stops_the_run_before_restart(web: Machine) -> None:
    manifest = Path("/opt/airflow/current/release.json")
    release = json.loads(web.run("cat", str(manifest)).stdout)
    web.put(str(manifest), json.dumps(release | {"heads": {"alembic_version": "newer"}}))
    web.run("rm", "/run/stack/loaded/airflow.start")  # as if it ran with other files
    before = main_pid(web)
    try:
        states = web.apply("airflow")
    finally:
        web.put(str(manifest), json.dumps(release))
    assert any(
        "apply the state airflow.migrate on one web machine first" in comment
        for comment in failed(states)
    )
    assert web.run("systemctl", "is-active", "airflow").returncode == 0
    assert main_pid(web) == before

    # In the next run no file changes, but the service still has to restart.
    assert [tag.split("_|-")[1] for tag in changed(web.apply("airflow", test=True))] == [
        "airflow-config-loaded",
        "airflow-service",
    ]
    assert failed(web.apply("airflow")) == []
    assert main_pid(web) != before
    assert changed(web.apply("airflow")) == []


@pytest.mark.long
def test_release_state_keeps_running_release_current(web: Machine) -> None:
    def current() -> str:
        return Path(web.run("readlink", "/opt/airflow/current").stdout.strip()).name

    locked = current()
    web.run("cp", "-al", f"/opt/airflow/releases/{locked}", "/opt/airflow/releases/before")
    web.run("ln", "-sfn", "releases/before", "/opt/airflow/current")
    web.run("systemctl", "restart", "airflow")
    before = main_pid(web)

    assert failed(web.apply("airflow.release")) == []
    assert (current(), main_pid(web)) == ("before", before)

    assert failed(web.apply("airflow")) == []
    assert current() == locked
    assert main_pid(web) != before


def main_pid(machine: Machine) -> str:
    """Return the main process of the web app, which a restart replaces."""
    return str(machine.run("systemctl", "show", "-P", "MainPID", "airflow").stdout).strip()


def service_pids(machine: Machine) -> set[str]:
    """Return the processes of the web app. Gunicorn replaces a worker that was killed."""
    group = machine.run("systemctl", "show", "-P", "ControlGroup", "airflow").stdout.strip()
    return set(machine.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs").stdout.split())


def resident(machine: Machine) -> dict[str, int]:
    """Return the proportional memory of every process in bytes, by process id."""
    listed = machine.run("ps", "axo", "pid=,pss=").stdout.splitlines()
    return {pid: int(pss) * 1024 for pid, pss in map(str.split, listed) if pss.isdigit()}
