"""Answers that readers share on a web machine: never with other permissions, never after a change.

That they are shared shows in how old they may be: tests/unit/test_web_answers.py has the rest.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness import Machine, changed
from webrequests import LOGIN

DAG = "example_bash_operator"
READER = (
    LOGIN
    + r"""
import secrets, time

admin = token(password)

def send(method, path, body=None, **headers):
    connection = Connection(address)
    data = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json", **proxied, **headers}
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    cookies = answer.headers.get_all("Set-Cookie") or []
    kept = "; ".join(one.partition(";")[0] for one in cookies)
    return answer.status, answer.read().decode(), kept

def bearer(word):
    return {"Authorization": f"Bearer {word}"}

def cookie(word, more=""):
    return {"Cookie": f"_token={word}" + (f"; {more}" if more else "")}

def user(name, role):
    word = secrets.token_urlsafe(24)
    new = {"username": name, "password": word, "email": f"{name}@example.com",
           "first_name": name, "last_name": name, "roles": [{"name": role}]}
    send("DELETE", f"/auth/fab/v1/users/{name}", **bearer(admin))
    status, text, _ = send("POST", "/auth/fab/v1/users", new, **bearer(admin))
    assert status in (200, 201), text
    status, text, _ = send("POST", "/auth/token", {"username": name, "password": word})
    return json.loads(text)["access_token"]

def is_paused(word, more=""):
    status, text, _ = send("GET", f"/ui/dags?dag_id_prefix_pattern={dag}&exclude_stale=false",
                           **cookie(word, more))
    assert status == 200, text
    return {one["dag_id"]: one["is_paused"] for one in json.loads(text)["dags"]}[dag]

def pause(paused, **who):
    status, text, cookies = send("PATCH", f"/api/v2/dags/{dag}", {"is_paused": paused}, **who)
    assert status == 200, text
    return cookies
"""
)


@pytest.fixture
def run(edge: Machine, web: Machine, password: str) -> Any:
    """`run(program)`: run it on the only machine that the web machine listens to."""

    def run(program: str) -> Any:
        names = {"address": web.address, "client": "192.0.2.9", "password": password, "dag": DAG}
        return edge.python(READER + program, **names)

    return run


def test_users_with_other_permissions_get_other_answers(run: Any) -> None:
    program = """
who = {"viewer": user("viewer", "Viewer"), "public": user("public", "Public"), "admin": admin}
result = {name: set() for name in who}
for _ in range(6):
    for name, word in who.items():
        status, text, _ = send("GET", "/ui/auth/menus", **cookie(word))
        items = json.loads(text) if status == 200 else {}
        result[name].add(f"{status} {'Connections' in items.get('authorized_menu_items', [])}")
        status, text, _ = send("GET", "/ui/dashboard/dag_stats", **cookie(word))
        result[name].add(f"{status}")
result = {name: sorted(found) for name, found in result.items()}
"""
    assert run(program) == {
        "admin": ["200", "200 True"],
        "viewer": ["200", "200 False"],
        "public": ["200 False", "403"],
    }


def test_change_is_seen_at_once_by_who_made_it_and_soon_by_others(run: Any) -> None:
    program = """
own, old, late = [], 0, 0
for number in range(12):
    paused = number % 2 == 0
    is_paused(admin)
    marked = pause(paused, **cookie(admin))
    own.append(is_paused(admin, marked) == paused)
    old += is_paused(admin) != paused
    time.sleep(1.2)
    late += is_paused(admin) != paused
result = {"own": own, "old": old, "late": late}
"""
    found = run(program)
    assert all(found["own"])
    assert found["old"] > 0, "no answer was shared"
    assert found["late"] == 0


def test_token_that_was_revoked_gets_no_answer(run: Any) -> None:
    program = """
result = []
for number in range(4):
    word = token(password)
    before = [send("GET", "/ui/config", **cookie(word))[0] for _ in range(4)]
    send("GET", "/api/v2/auth/logout", **cookie(word))
    after = [send("GET", path, **cookie(word))[0] for path in ("/ui/config", "/ui/dags") * 4]
    result.append([sorted(set(before)), sorted(set(after))])
"""
    for before, after in run(program):
        assert before == [200]
        assert set(after) <= {401, 403}


def test_changed_file_is_repaired_and_the_service_loads_it(web: Machine) -> None:
    web.run("sh", "-c", "echo >> /etc/airflow/web_answers.py")
    ids = [tag.split("_|-")[1] for tag in changed(web.apply("airflow"))]
    assert {"airflow-answers", "airflow-service"} <= set(ids)
    assert changed(web.apply("airflow")) == []
