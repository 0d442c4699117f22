"""Who owns a PostgreSQL database and everything in it, and what the application's role may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

# Key of pillar `postgres` with a role -> the secret with its password.
SECRETS = {
    "role": "postgres-airflow",
    "owner": "postgres-owner",
    "replication": "postgres-replication",
    "metrics": "metrics-scrape",
}
# The same -> the key of the role that takes turns with it, when its password is rotated.
OTHERS = {"role": "other_role", "replication": "other_replication"}

PSQL = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1")
ADMINISTRATION = "postgres"  # the database that is there without the application's
# In a busy database the change of owner waits for transactions, and others wait for it.
LOCK_TIMEOUT = "30s"

# Each row is a statement that brings a part of the database to what it should be. PUBLIC's
# privileges are asked from the system's functions, which know the defaults. The role's are read
# from the lists of what was granted: the functions also count what comes from ownership and from
# membership, and both go.
# https://www.postgresql.org/docs/17/ddl-priv.html
# https://www.postgresql.org/docs/17/catalogs.html
_DIFFERENCES = """
WITH owner AS (SELECT * FROM pg_roles WHERE rolname = :'owner'),
role AS (SELECT * FROM pg_roles WHERE rolname = :'role'),
db AS (SELECT * FROM pg_database WHERE datname = current_database()),
public AS (SELECT * FROM pg_namespace WHERE nspname = 'public'),
relation AS (
    SELECT c.relkind = 'S' AS is_sequence, c.relowner = role.oid AS is_own, (
        SELECT coalesce(array_agg(acl.privilege_type), '{}') FROM aclexplode(c.relacl) acl
        WHERE acl.grantee = role.oid
    ) AS granted
    FROM pg_class c, public, role
    WHERE c.relnamespace = public.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
),
default_acl AS (
    SELECT d.defaclobjtype AS kind, acl.privilege_type AS privilege
    FROM pg_default_acl d, aclexplode(d.defaclacl) acl, owner, role, public
    WHERE d.defaclrole = owner.oid AND d.defaclnamespace = public.oid AND acl.grantee = role.oid
),
setting AS (
    SELECT setrole, split_part(pair, '=', 1) AS name, substr(pair, strpos(pair, '=') + 1) AS value
    FROM pg_db_role_setting, unnest(setconfig) AS pair WHERE setdatabase = 0
),
wanted AS (SELECT key AS name, value FROM jsonb_each_text(:'settings'))
SELECT statement FROM (
    SELECT 1, format('ALTER DATABASE %I OWNER TO %I', datname, :'owner')
    FROM db, owner WHERE datdba <> owner.oid
UNION ALL
    SELECT 2, format('REASSIGN OWNED BY %I TO %I', :'role', :'owner')
    FROM role, db WHERE EXISTS (
        SELECT FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass AND refobjid = role.oid AND deptype = 'o'
        AND dbid IN (0, db.oid) AND NOT (classid = 'pg_database'::regclass AND objid = db.oid)
    )
UNION ALL
    SELECT 3, format('REVOKE ALL ON DATABASE %I FROM PUBLIC', d.datname)
    FROM pg_database d WHERE d.datname IN (current_database(), 'postgres', 'template1')
    AND (has_database_privilege('public', d.oid, 'CONNECT')
        OR has_database_privilege('public', d.oid, 'TEMPORARY'))
UNION ALL
    SELECT 4, format('GRANT CONNECT ON DATABASE %I TO %I', datname, :'role')
    FROM db, role WHERE NOT EXISTS (
        SELECT FROM aclexplode(datacl) acl
        WHERE acl.grantee = role.oid AND acl.privilege_type = 'CONNECT' AND datdba <> role.oid
    )
UNION ALL
    SELECT 5, format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM %I', datname, :'role')
    FROM db, role WHERE datdba <> role.oid AND EXISTS (
        SELECT FROM aclexplode(datacl) acl
        WHERE acl.grantee = role.oid AND acl.privilege_type IN ('CREATE', 'TEMPORARY')
    )
UNION ALL
    SELECT 6, format('REVOKE CREATE ON SCHEMA public FROM PUBLIC, %I', :'role')
    FROM public, role WHERE EXISTS (
        SELECT FROM aclexplode(nspacl) acl
        WHERE acl.grantee IN (0, role.oid) AND acl.privilege_type = 'CREATE'
    )
UNION ALL
    SELECT 7, format('GRANT USAGE ON SCHEMA public TO %I', :'role')
    FROM public, role WHERE NOT EXISTS (
        SELECT FROM aclexplode(nspacl) acl
        WHERE acl.grantee = role.oid AND acl.privilege_type = 'USAGE'
    )
UNION ALL
    SELECT 8, format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %I',
        :'role')
    WHERE EXISTS (
        SELECT FROM relation WHERE NOT is_sequence
        AND (is_own OR NOT granted @> '{SELECT, INSERT, UPDATE, DELETE}')
    )
UNION ALL
    SELECT 9, format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO %I', :'role')
    WHERE EXISTS (
        SELECT FROM relation WHERE is_sequence
        AND (is_own OR NOT granted @> '{USAGE, SELECT}')
    )
UNION ALL
    SELECT 10, format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public'
        ' GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I', :'owner', :'role')
    WHERE (SELECT count(*) FROM default_acl WHERE kind = 'r'
        AND privilege IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')) < 4
UNION ALL
    SELECT 11, format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public'
        ' GRANT USAGE, SELECT ON SEQUENCES TO %I', :'owner', :'role')
    WHERE (SELECT count(*) FROM default_acl WHERE kind = 'S'
        AND privilege IN ('USAGE', 'SELECT')) < 2
UNION ALL
    SELECT 12, format('REVOKE %I FROM %I', pg_get_userbyid(roleid), :'role')
    FROM pg_auth_members, role WHERE member = role.oid
UNION ALL
    SELECT 13, format('ALTER ROLE %I CONNECTION LIMIT %s', :'role', :'connections')
    FROM role WHERE rolconnlimit <> :'connections'::int
UNION ALL
    SELECT 14, format('ALTER ROLE %I SET %I = %L', :'role', name, value)
    FROM (SELECT name, value FROM wanted
        EXCEPT SELECT name, value FROM setting, role WHERE setrole = role.oid) missing
UNION ALL
    SELECT 15, format('ALTER ROLE %I RESET %I', :'role', name)
    FROM setting, role WHERE setrole = role.oid AND name NOT IN (SELECT name FROM wanted)
UNION ALL
    SELECT 16, format('ALTER ROLE %I RESET ALL', :'owner')
    WHERE EXISTS (SELECT FROM setting, owner WHERE setrole = owner.oid)
) AS differences (step, statement) ORDER BY step, statement;
"""


def logins() -> dict[str, list[dict[str, str]]]:
    """Return who logs in: a key of `SECRETS` -> the ``name`` and the ``password`` of each role.

    The first one of each is whose turn it is. While its password is rotated, the other one of the
    pair logs in, too: the one before, or the one that will be next.

    Raises:
        CommandExecutionError: a secret names a role that is not of the pair.
    """
    return {kind: list(_logins(kind, __pillar__["secrets"][SECRETS[kind]])) for kind in SECRETS}


def _logins(kind: str, fields: dict[str, str]) -> Iterator[dict[str, str]]:
    pair = _pair(kind)
    for prefix in ("", "previous_", "next_"):
        if f"{prefix}password" not in fields:
            continue
        name = fields.get(f"{prefix}user", pair[0])
        if name not in pair:
            raise CommandExecutionError(
                f"the secret {SECRETS[kind]} is of the role {name}, and not of {' or '.join(pair)}"
            )
        yield {"name": name, "password": fields[f"{prefix}password"]}


def _pair(kind: str) -> list[str]:
    roles = __pillar__["postgres"]
    return [str(roles[key]) for key in (kind, OTHERS.get(kind)) if key]


def resting() -> list[str]:
    """Return the roles whose turn it is not, and who do not log in."""
    awake = logins()
    return [
        name
        for kind in OTHERS
        for name in _pair(kind)
        if name not in [login["name"] for login in awake[kind]]
    ]


def differences(database: str, owner: str, role: str, limits: dict[str, Any]) -> list[str]:
    """Return the statements that bring a database to what it should be; this changes nothing.

    Args:
        database: the database.
        owner: the role that owns it, its schema ``public`` and all objects in it. It has no limits.
        role: the role that reads and writes the rows, and owns nothing.
        limits: ``connections``, the number that `role` may open, and ``settings``, what its
            sessions begin with, such as ``statement_timeout``.

    Raises:
        CommandExecutionError: PostgreSQL does not answer, or it lacks the database or a role.
    """
    variables = {
        "owner": owner,
        "role": role,
        "connections": str(limits["connections"]),
        "settings": json.dumps(limits["settings"]),
    }
    known = _psql(database, "SELECT rolname FROM pg_roles;", {})
    if missing := [name for name in (owner, role) if name not in known]:
        raise CommandExecutionError(f"PostgreSQL has no role {missing[0]}")
    return _psql(database, _DIFFERENCES, variables)


def rest(role: str) -> list[str]:
    """Return the statements by which a role logs in no more; this changes nothing.

    Raises:
        CommandExecutionError: PostgreSQL does not answer.
    """
    return _psql(ADMINISTRATION, _RESTING, {"role": role})


# A connection that is open stays, so those go, too.
_RESTING = """
WITH role AS (SELECT * FROM pg_authid WHERE rolname = :'role')
SELECT statement FROM (
    SELECT 1, format('ALTER ROLE %I NOLOGIN NOREPLICATION PASSWORD NULL', rolname) FROM role
    WHERE rolcanlogin OR rolreplication OR rolpassword IS NOT NULL
UNION ALL
    SELECT 2, format('SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity'
        ' WHERE usename = %L', rolname)
    FROM role WHERE EXISTS (SELECT FROM pg_stat_activity WHERE usename = rolname)
) AS differences (step, statement) ORDER BY step;
"""

# What pg_rewind needs on the server that it copies from.
# https://www.postgresql.org/docs/17/app-pgrewind.html
_REWINDING = """
WITH role AS (SELECT * FROM pg_roles WHERE rolname = :'role')
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', pg_proc.oid::regprocedure, rolname)
FROM role, pg_proc WHERE pg_proc.oid = ANY (ARRAY[
    'pg_ls_dir(text, boolean, boolean)', 'pg_stat_file(text, boolean)',
    'pg_read_binary_file(text)', 'pg_read_binary_file(text, bigint, bigint, boolean)'
]::regprocedure[]) AND NOT has_function_privilege(rolname, pg_proc.oid, 'EXECUTE')
UNION ALL
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), rolname)
FROM role WHERE NOT has_database_privilege(rolname, current_database(), 'CONNECT')
ORDER BY 1;
"""


def rewinding(role: str) -> list[str]:
    """Return the statements that let a role copy a server by pg_rewind; this changes nothing.

    Raises:
        CommandExecutionError: PostgreSQL does not answer.
    """
    return _psql(ADMINISTRATION, _REWINDING, {"role": role})


# Statistics of all databases, and no rows. The membership counts although the role inherits none.
# https://www.postgresql.org/docs/17/predefined-roles.html
_MONITORING = """
WITH role AS (SELECT * FROM pg_roles WHERE rolname = :'role')
SELECT format('GRANT pg_monitor TO %I WITH INHERIT TRUE, SET FALSE', rolname) FROM role
WHERE NOT pg_has_role(rolname, 'pg_monitor', 'USAGE')
UNION ALL
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), rolname)
FROM role WHERE NOT has_database_privilege(rolname, current_database(), 'CONNECT')
UNION ALL
SELECT format('ALTER ROLE %I CONNECTION LIMIT %s', rolname, :'connections')
FROM role WHERE rolconnlimit <> :'connections'::int
ORDER BY 1;
"""


def monitoring(role: str, connections: int) -> list[str]:
    """Return the statements that let a role read the server's statistics; this changes nothing.

    Args:
        role: the role.
        connections: how many it may open.

    Raises:
        CommandExecutionError: PostgreSQL does not answer.
    """
    variables = {"role": role, "connections": str(connections)}
    return _psql(ADMINISTRATION, _MONITORING, variables)


def execute(database: str, statements: list[str]) -> None:
    """Execute statements in one transaction: the application notices either all of them or none.

    Raises:
        CommandExecutionError: a statement failed.
    """
    lines = ["BEGIN", f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'", *statements, "COMMIT"]
    _psql(database, "".join(f"{line};\n" for line in lines), {})


def _psql(database: str, sql: str, variables: dict[str, str]) -> list[str]:
    """Run SQL as the superuser and return the lines that psql prints."""
    options = [text for name, value in variables.items() for text in ("--set", f"{name}={value}")]
    done = __salt__["cmd.run_all"](
        [*PSQL, *options, "--dbname", database],
        stdin=sql,
        runas="postgres",
        cwd="/",
        python_shell=False,
        ignore_retcode=True,
    )
    if done["retcode"] != 0:
        raise CommandExecutionError(f"psql failed with {done['retcode']}: {done['stderr']}")
    return [line for line in done["stdout"].splitlines() if line]
