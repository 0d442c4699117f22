"""FAB's auth manager, which asks the database off the event loop. Managed by Salt (salt/airflow).

Airflow looks up each token in the table of revoked ones, and FAB its user, in the worker's event
loop. While the database does not answer, the loop stands still with all requests, and no time limit
of the worker runs. https://github.com/apache/airflow/issues/66493
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from airflow import settings
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models import User
from cachetools import TTLCache
from jwt import InvalidTokenError
from web_answers import Reader
from web_queue import database

# One round trip for both: a session of SQLAlchemy's ORM would make three.
QUERY = """
SELECT EXISTS (SELECT FROM revoked_token WHERE jti = %(jti)s),
    ARRAY(SELECT dag_id::text FROM dag_favorite WHERE user_id = %(user)s ORDER BY dag_id)
"""
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
        # The validator allows for clocks that differ; who is near the end of his time asks it.
        if claims is None or claims["exp"] <= time.time():
            try:
                claims = await self._get_token_validator().avalidated_claims(token)
            except InvalidTokenError as error:
                self.log.error("JWT token is not valid: %s", error)
                raise
            self._signed[token] = claims
        loop = asyncio.get_running_loop()
        # The thread notes for this request that the database does not answer.
        look_up = copy_context().run
        return await loop.run_in_executor(self._lookups, look_up, self._user_of, claims)

    def _user_of(self, claims: dict[str, Any]) -> tuple[User, list[str]]:
        is_revoked, favourites = _ask(claims)
        if is_revoked:
            raise InvalidTokenError("Token has been revoked")
        try:
            user = self.deserialize_user(claims)
        except (ValueError, KeyError) as error:
            self.log.error("JWT token is not valid, it has no user: %s", error)
            raise InvalidTokenError(str(error)) from error
        return user, favourites


def _ask(claims: dict[str, Any]) -> tuple[bool, list[str]]:
    """Return whether a token was revoked, and its user's favourites."""
    pooled = settings.get_engine().raw_connection()
    connection = pooled.driver_connection
    try:
        # A transaction would take two more round trips.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(QUERY, {"jti": claims.get("jti"), "user": claims.get("sub")})
            found: tuple[bool, list[str]] = cursor.fetchone()
        connection.autocommit = False
    except Exception:
        pooled.invalidate()
        # SQLAlchemy, which would note it (web_worker.py), does not see errors of the driver. The
        # request has changed nothing yet.
        if asked := database.get():
            asked.fail(connected=False)
        raise
    finally:
        pooled.close()
    return found
