"""Answers questions about Airflow's database as JSON, without loading Airflow (seconds, 300 MB).

Reads one question from stdin, so that no password is an argument. It runs with the release's
Python: as the user airflow for questions, and as root with the database's owner for marks.
"""

import json
import os
import sys
from typing import Any

import psycopg2
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from psycopg2 import sql
from psycopg2.extensions import connection
from werkzeug.security import check_password_hash

REVISIONS = {
    "alembic_version": "SELECT version_num FROM alembic_version",
    "alembic_version_fab": "SELECT version_num FROM alembic_version_fab",
}
COMMENT = "SELECT obj_description(to_regclass(%s), 'pg_class')"

# What is encrypted with the Fernet keys: tables, the column, and in which rows. The same as of
# `airflow rotate-fernet-key`; a trigger of an early version may be in plaintext.
CONNECTIONS = ("connection", "connection_test_request")
ENCRYPTED = (
    (CONNECTIONS, "password", "is_encrypted"),
    (CONNECTIONS, "extra", "is_extra_encrypted"),
    (("variable",), "val", "is_encrypted"),
    (("trigger",), "kwargs", "kwargs NOT LIKE '{%'"),
)

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


def encrypted(db: connection, fernet_keys: list[str], *, anew: bool) -> dict[str, int]:
    """Count the values that the first key opens, another one, or none; see airflow.encrypted.

    Airflow's own command loads all of it, and writes back also what somebody has changed meanwhile.
    """
    first, every = Fernet(fernet_keys[0]), MultiFernet([Fernet(key) for key in fernet_keys])
    counts = {"first": 0, "other": 0, "none": 0}
    columns = [(table, *which) for tables, *which in ENCRYPTED for table in tables]
    for table, column, condition in columns:
        if not exists(db, table):
            continue
        names = {
            "table": sql.Identifier(table),
            "column": sql.Identifier(column),
            "condition": sql.SQL(condition),
        }
        with db.cursor() as cursor:
            query = "SELECT id, {column} FROM {table} WHERE {condition} AND {column} <> ''"
            cursor.execute(sql.SQL(query).format(**names))
            for row, text in cursor.fetchall():
                opened = opens(first, every, text)
                counts[opened] += 1
                if opened == "other" and anew:
                    new = every.rotate(text.encode()).decode()
                    update = "UPDATE {table} SET {column} = %s WHERE id = %s AND {column} = %s"
                    cursor.execute(sql.SQL(update).format(**names), (new, row, text))
    return counts


def opens(first: Fernet, every: MultiFernet, text: str) -> str:
    """Say which key opens a value: `first`, `other` or `none`."""
    for name, key in (("first", first), ("other", every)):
        try:
            key.decrypt(text.encode())
        except InvalidToken:
            continue
        return name
    return "none"


def main() -> int:
    """Answer one question; print the error and return 1 when the database does not answer."""
    question = json.load(sys.stdin)
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    try:
        with psycopg2.connect(url, connect_timeout=10) as db:
            if question["do"] == "mark":
                mark(db, question["work"], question["mark"])
                answer: dict[str, Any] = {}
            elif question["do"] == "encrypted":
                keys = os.environ["AIRFLOW__CORE__FERNET_KEY"].split(",")
                answer = encrypted(db, keys, anew=question["anew"])
            else:
                answer = report(db, question["username"], question["password"])
    except psycopg2.Error as error:
        print(f"the database does not answer: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
