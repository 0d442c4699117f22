"""FAB's auth manager, which asks the database off the event loop. Managed by Salt (salt/airflow).

Airflow looks up each token in the table of revoked ones, and FAB its user, in the worker's event
loop. While the database does not answer, the loop stands still with all requests, and no time limit
of the worker runs. https://github.com/apache/airflow/issues/66493
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow import settings
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models import User
from cachetools import TTLCache
from jwt import InvalidTokenError

QUERY = "SELECT EXISTS (SELECT FROM revoked_token WHERE jti = %s)"


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
        return await loop.run_in_executor(self._lookups, self._user_of, claims)

    def _user_of(self, claims: dict[str, Any]) -> User:
        if (jti := claims.get("jti")) and _is_revoked(jti):
            raise InvalidTokenError("Token has been revoked")
        try:
            return self.deserialize_user(claims)
        except (ValueError, KeyError) as error:
            self.log.error("JWT token is not valid, it has no user: %s", error)
            raise InvalidTokenError(str(error)) from error


def _is_revoked(jti: str) -> bool:
    """Return whether the token of an id was revoked, in one round trip."""
    pooled = settings.get_engine().raw_connection()
    connection = pooled.driver_connection
    try:
        # A transaction would take two more round trips.
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(QUERY, (jti,))
            found = bool(cursor.fetchone()[0])
        connection.autocommit = False
    except Exception:
        pooled.invalidate()
        raise
    finally:
        pooled.close()
    return found
