"""FAB's auth manager, which asks the database off the event loop. Managed by Salt (salt/airflow).

Airflow looks up each token in the table of revoked ones, and FAB its user, in the worker's event
loop. While the database does not answer, the loop stands still with all requests, and no time limit
of the worker runs. https://github.com/apache/airflow/issues/66493
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.models.revoked_token import RevokedToken
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models import User
from jwt import InvalidTokenError


# Airflow looks for "FabAuthManager" in the name: its tables belong to FAB's auth manager.
class OffLoopFabAuthManager(FabAuthManager):
    """FAB's auth manager with one thread for all look-ups of tokens and their users.

    One thread, because FAB's cache of users is not made for several. It holds one connection.
    """

    _lookups = ThreadPoolExecutor(1, thread_name_prefix="auth")

    async def get_user_from_token(self, token: str) -> User:
        """Return the user of a valid token.

        Args:
            token: the JWT.

        Raises:
            InvalidTokenError: the token is not valid, was revoked, or has no active user.
        """
        try:
            claims = await self._get_token_validator().avalidated_claims(token)
        except InvalidTokenError as error:
            self.log.error("JWT token is not valid: %s", error)
            raise
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lookups, self._user_of, claims)

    def _user_of(self, claims: dict[str, Any]) -> User:
        if (jti := claims.get("jti")) and RevokedToken.is_revoked(jti):
            raise InvalidTokenError("Token has been revoked")
        try:
            return self.deserialize_user(claims)
        except (ValueError, KeyError) as error:
            self.log.error("JWT token is not valid, it has no user: %s", error)
            raise InvalidTokenError(str(error)) from error
