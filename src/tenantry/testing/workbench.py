"""What a test is made of: tenants, users, and clients that are signed in as them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

import httpx

from tenantry.auth import Auth, UserInfo
from tenantry.database import Database
from tenantry.errors import ConfigurationError
from tenantry.ops.tenants import create_tenant
from tenantry.schema import Tenant
from tenantry.schema.users import UserRole
from tenantry.testing.applications import App, RunningApp, new_client

__all__ = ["PASSWORD", "Credentials", "Workbench", "bearer"]

PASSWORD: Final = "seven ducks crossed a bridge"  # noqa: S105 - of users that live for a test
"""The password of users that `Workbench.make_user` makes, unless another is given."""

Credentials = Callable[[str], Mapping[str, str]]
"""Returns the headers that a signed-in client sends, from its session token."""


def bearer(token: str) -> dict[str, str]:
    """Return the header of a session token, for `Credentials`."""
    return {"Authorization": f"Bearer {token}"}


class Workbench:
    """Makes tenants, users and clients in one test's database.

    Args:
        db: With an admin URL.
        auth: On ``db``.
        credentials: How clients show their session tokens.
    """

    def __init__(self, db: Database, auth: Auth, *, credentials: Credentials = bearer) -> None:
        self.db = db
        self.auth = auth
        self.credentials = credentials
        self._numbers = itertools.count(1)
        self._running: dict[int, RunningApp] = {}
        self._stack = AsyncExitStack()

    async def make_tenant(self, name: str | None = None, *, slug: str | None = None) -> Tenant:
        """Make a tenant.

        Args:
            name: None: one that no other tenant of the test has.
            slug: None: made from the name.
        """
        return await create_tenant(self.db, name or f"Tenant {next(self._numbers)}", slug=slug)

    async def make_user(
        self,
        tenant: Tenant | UUID | str | None = None,
        *,
        role: UserRole = "member",
        email: str | None = None,
        name: str | None = None,
        password: str | None = PASSWORD,
    ) -> UserInfo:
        """Make a user.

        Args:
            tenant: Whose; None: of a new tenant.
            role: ``owner``, ``admin`` or ``member``.
            email: None: one that no other user of the test has.
            name: None: made from the email.
            password: None: the user cannot sign in with one.
        """
        owner = await self.make_tenant() if tenant is None else tenant
        return await self.auth.register(
            owner.id if isinstance(owner, Tenant) else owner,
            email or f"user{next(self._numbers)}@example.com",
            password,
            name=name,
            role=role,
        )

    async def client_of(
        self, user: UserInfo, *, app: App | None, password: str = PASSWORD
    ) -> httpx.AsyncClient:
        """Sign a user in, and return a client that shows the session's token.

        The application's lifespan runs from the first client on. Both end with the test.

        Args:
            user: Whom to sign in.
            app: The ASGI application.
            password: The user's.
        """
        signed_in = await self.auth.sign_in(user.tenant_id, user.email, password)
        return await self._client(app, dict(self.credentials(signed_in.token)))

    async def anonymous_client(self, *, app: App | None) -> httpx.AsyncClient:
        """Return a client that is not signed in."""
        return await self._client(app, {})

    async def running(self, app: App) -> RunningApp:
        """Return the application, with its lifespan under way."""
        if id(app) not in self._running:
            running = RunningApp(app)
            await running.start()
            self._running[id(app)] = running
            self._stack.push_async_callback(running.stop)
        return self._running[id(app)]

    async def close(self) -> None:
        """Close the clients and shut the applications down."""
        await self._stack.aclose()

    async def _client(self, app: App | None, headers: dict[str, str]) -> httpx.AsyncClient:
        if app is None:
            raise ConfigurationError(
                "There is no application to be a client of. Define a fixture tenantry_app that "
                "returns your ASGI application, or give app=."
            )
        client = new_client(await self.running(app), headers)
        return await self._stack.enter_async_context(client)
