"""Answers questions about Airflow's database as JSON, without loading Airflow (seconds, 300 MB).

Reads one question from stdin, so that no password is an argument. It runs with the release's
Python: as the user airflow for questions, and as root with the database's owner for marks.
"""

import json
import os
import sys
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection
from werkzeug.security import check_password_hash

REVISIONS = {
    "alembic_version": "SELECT version_num FROM alembic_version",
    "alembic_version_fab": "SELECT version_num FROM alembic_version_fab",
}
COMMENT = "SELECT obj_description(to_regclass(%s), 'pg_class')"

# What a release does once -> the table that holds the result. The comment of that table is the
# mark of the release that did it: a restored dump brings both back, a dropped table loses both.
MARKED = {"dags": "serialized_dag", "permissions": "ab_permission_view"}


def exists(db: connection, table: str) -> bool:
    """Say whether a table is there."""
    with db.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", (table,))
        return cursor.fetchone() != (None,)


def first_value(db: connection, query: str, *arguments: str) -> Any:
    """Return the first column of the first row, or None."""
    with db.cursor() as cursor:
        cursor.execute(query, arguments)
        row = cursor.fetchone()
        return row[0] if row else None


def report(db: connection, username: str | None, password: str | None) -> dict[str, Any]:
    """Return the revisions, the marks, the number of serialized DAGs, and the state of a user."""
    revisions = {
        table: found
        for table, query in REVISIONS.items()
        if exists(db, table) and (found := first_value(db, query))
    }
    answer: dict[str, Any] = {
        "revisions": revisions,
        "dags": 0,
        "marks": {work: first_value(db, COMMENT, table) for work, table in MARKED.items()},
        "user": None,
    }
    if exists(db, "serialized_dag"):
        answer["dags"] = first_value(db, "SELECT count(DISTINCT dag_id) FROM serialized_dag")
    if username:
        known = exists(db, "ab_user")
        query = "SELECT password FROM ab_user WHERE username = %s"
        hashed = first_value(db, query, username) if known else None
        if hashed is None:
            answer["user"] = "absent"
        else:
            answer["user"] = (
                "present" if check_password_hash(hashed, password or "") else "other password"
            )
    return answer


def mark(db: connection, work: str, text: str) -> None:
    """Store the mark of work that was done."""
    table, comment = sql.Identifier(MARKED[work]), sql.Literal(text)
    with db.cursor() as cursor:
        cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, comment))


def main() -> int:
    """Answer one question; print the error and return 1 when the database does not answer."""
    question = json.load(sys.stdin)
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    try:
        with psycopg2.connect(url, connect_timeout=10) as db:
            if question["do"] == "mark":
                mark(db, question["work"], question["mark"])
                answer: dict[str, Any] = {}
            else:
                answer = report(db, question["username"], question["password"])
    except psycopg2.Error as error:
        print(f"the database does not answer: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
