"""FAB's auth manager, which asks the database off the event loop, and ends a login with all of it.

Managed by Salt (salt/airflow).

Airflow looks up each token in the table of revoked ones, and FAB its user, in the worker's event
loop. While the database does not answer, the loop stands still with all requests, and no time limit
of the worker runs. https://github.com/apache/airflow/issues/66493

The login page keeps a session in the database, and issues tokens to its cookie. Airflow's logout
revokes the one token that it gets, and FAB's has the browser forget its cookies; the session stays.
Here a token names its session, and is good while somebody is logged in there.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

from airflow import settings
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.providers.fab.auth_manager.api_fastapi.routes.login import logout as fab_logout
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models import User
from cachetools import TTLCache
from fastapi import FastAPI, Request
from flask import has_request_context
from flask import session as login
from jwt import InvalidTokenError
from starlette.responses import Response
from starlette.routing import Route
from web_answers import Reader
from web_queue import database

# One round trip for both: a session of SQLAlchemy's ORM would make three. Who revokes a token that
# has a session ends the session, so it is enough to ask for that.
OF_PROGRAM = """
SELECT EXISTS (SELECT FROM revoked_token WHERE jti = %(jti)s),
    ARRAY(SELECT dag_id::text FROM dag_favorite WHERE user_id = %(user)s ORDER BY dag_id)
"""
OF_SESSION = """
SELECT NOT EXISTS (SELECT FROM session WHERE session_id = %(session)s
        AND expiry > now() AT TIME ZONE 'utc' AND position('_user_id'::bytea IN data) > 0),
    ARRAY(SELECT dag_id::text FROM dag_favorite WHERE user_id = %(user)s ORDER BY dag_id)
"""
# One round trip, and all or nothing. Who repeats a logout finds it done.
END = """
WITH ended AS (DELETE FROM session WHERE session_id = ANY(%(sessions)s))
INSERT INTO revoked_token (jti, exp)
SELECT jti, to_timestamp(exp) FROM unnest(%(jtis)s::text[], %(exps)s::float8[]) AS token (jti, exp)
ON CONFLICT DO NOTHING
"""
# What a token says of the session of the login page that it comes from. The id opens nothing: the
# cookie with it is signed.
SESSION = "session"
# The token of this request, and its user: nothing is looked up twice for one request.
_known: ContextVar[tuple[str, User] | None] = ContextVar("known", default=None)


# Airflow looks for "FabAuthManager" in the name: its tables belong to FAB's auth manager.
class OffLoopFabAuthManager(FabAuthManager):
    """FAB's auth manager with one thread for all look-ups of tokens and their users.

    One thread, because FAB's cache of users is not made for several. It holds one connection.
    """

    _lookups = ThreadPoolExecutor(1, thread_name_prefix="auth")
    # Tokens whose signature is good, and their claims.
    _signed: TTLCache[str, dict[str, Any]] = TTLCache(1024, 600)

    def serialize_user(self, user: User) -> dict[str, Any]:
        """Return what a token says of its user, and of his session if the login page issues it."""
        claims: dict[str, Any] = super().serialize_user(user)
        if has_request_context() and "_user_id" in login:
            claims[SESSION] = login.sid
        return claims

    def get_fastapi_app(self) -> FastAPI:
        """Return FAB's app, whose logout ends the login."""
        app: FastAPI = super().get_fastapi_app()
        app.router.routes.insert(0, Route("/logout", self._log_out))
        return app

    def _log_out(self, request: Request) -> Response:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        tokens = {request.cookies.get(COOKIE_NAME_JWT_TOKEN)}
        tokens |= {bearer.strip()} if scheme.lower() == "bearer" else set()
        headers = {"Cookie": request.headers.get("cookie", "")}
        # Flask reads the cookie and looks the session up; an unknown one gets a new id.
        with self.flask_app.test_request_context(headers=headers):
            session = login.sid
        self._end(*filter(None, tokens), session=session)
        return fab_logout(request)

    def revoke_token(self, token: str) -> None:
        """Revoke a token, and end the login that it comes from.

        Args:
            token: the JWT. Nothing is done about one that is not valid.
        """
        self._end(token)

    def _end(self, *tokens: str, session: str | None = None) -> None:
        revoked: list[dict[str, Any]] = []
        for token in tokens:
            with suppress(InvalidTokenError):
                revoked.append(self._get_token_validator().validated_claims(token))
        values = {
            "sessions": [*filter(None, (session, *(claims.get(SESSION) for claims in revoked)))],
            "jtis": [claims["jti"] for claims in revoked],
            "exps": [claims["exp"] for claims in revoked],
        }
        _execute(END, values)

    async def get_user_from_token(self, token: str) -> User:
        """Return the user of a valid token.

        Args:
            token: the JWT.

        Raises:
            InvalidTokenError: the token is not valid, was revoked, or has no active user.
        """
        known = _known.get()
        if known is not None and known[0] == token:
            return known[1]
        user, _ = await self._look_up(token)
        return user

    async def read_as(self, token: str) -> Reader | None:
        """Return what the answers to the user of a token depend on.

        Args:
            token: the JWT.

        Raises:
            InvalidTokenError: as for `get_user_from_token`, which then has nothing left to ask.
        """
        user, favourites = await self._look_up(token)
        _known.set((token, user))
        return Reader(frozenset(user.perms), tuple(favourites))

    async def _look_up(self, token: str) -> tuple[User, list[str]]:
        claims = self._signed.get(token)
        if claims is None:
            try:
                claims = await self._get_token_validator().avalidated_claims(token)
            except InvalidTokenError as error:
                self.log.error("JWT token is not valid: %s", error)
                raise
            self._signed[token] = claims
        # The validator allows for clocks that differ, at the end of the time too.
        if claims["exp"] <= time.time():
            raise InvalidTokenError("Token has expired")
        loop = asyncio.get_running_loop()
        # The thread notes for this request that the database does not answer.
        look_up = copy_context().run
        return await loop.run_in_executor(self._lookups, look_up, self._user_of, claims)

    def _user_of(self, claims: dict[str, Any]) -> tuple[User, list[str]]:
        has_ended, favourites = _ask(claims)
        if has_ended:
            raise InvalidTokenError("Token has been revoked, or its login has ended")
        try:
            user = self.deserialize_user(claims)
        except (ValueError, KeyError) as error:
            self.log.error("JWT token is not valid, it has no user: %s", error)
            raise InvalidTokenError(str(error)) from error
        return user, favourites


def _ask(claims: dict[str, Any]) -> tuple[bool, list[str]]:
    """Return whether a token was revoked or its login has ended, and its user's favourites."""
    values = {"jti": claims.get("jti"), "user": claims.get("sub"), "session": claims.get(SESSION)}
    query = OF_SESSION if SESSION in claims else OF_PROGRAM
    has_ended, favourites = _execute(query, values)
    return has_ended, favourites


def _execute(query: str, values: dict[str, Any]) -> tuple[Any, ...]:
    """Return the first row that a query finds. What it writes is committed."""
    pooled = settings.get_engine().raw_connection()
    connection = pooled.driver_connection
    row: tuple[Any, ...] = ()
    try:
        # A transaction would take two more round trips.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query, values)
            if cursor.description:
                row = cursor.fetchone()
        connection.autocommit = False
    except Exception:
        pooled.invalidate()
        # SQLAlchemy, which would note it (web_worker.py), does not see errors of the driver. The
        # request has changed nothing yet, or what may be done twice.
        if asked := database.get():
            asked.fail(connected=False)
        raise
    finally:
        pooled.close()
    return row
