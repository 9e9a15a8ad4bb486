"""The two tenants of a walk: their rows, and clients that stay signed in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tenantry.auth import UserInfo
from tenantry.errors import TenantryError
from tenantry.testing.answers import Answer
from tenantry.testing.applications import BASE_URL, RunningApp, new_walker
from tenantry.testing.markers import new_marker, texts_of
from tenantry.testing.openapi import Operation
from tenantry.testing.planting import Planting, Snapshot
from tenantry.testing.requesting import Rows, named_in, rows_of
from tenantry.testing.workbench import PASSWORD, Workbench

__all__ = ["Actor"]

_SEGMENT: Final = re.compile(r"/([\w-]+)(?=/\{|/?$)")
_MOST_TOLD: Final = 4


@dataclass
class Actor:
    """A tenant, its owner, and all that is its.

    Args:
        bench: Makes it.
        running: The application.
        planting: Fills it.
        host: The host of its own, with ``{slug}``.
        with_key: Whether it has an API key.
    """

    bench: Workbench
    running: RunningApp
    planting: Planting
    host: str | None = None
    with_key: bool = False
    rows: Rows = field(default_factory=dict)
    snapshot: Snapshot = field(default_factory=dict)
    _made: Rows = field(default_factory=dict)
    _told: Rows = field(default_factory=dict)
    _sent: set[str] = field(default_factory=set)
    _client: httpx.AsyncClient | None = None
    _api_key: str | None = None
    _user: UserInfo | None = None
    _token: str = ""
    _base_url: str = BASE_URL

    @property
    def client(self) -> httpx.AsyncClient:
        """A client that is signed in as the tenant's owner."""
        if self._client is None:
            raise RuntimeError("settle() comes first")
        return self._client

    @property
    def user(self) -> UserInfo:
        """The tenant's owner."""
        if self._user is None:
            raise RuntimeError("settle() comes first")
        return self._user

    @property
    def own_credentials(self) -> dict[str, str]:
        """What an operation that asks for an email and a password would take."""
        return {
            "email": self.user.email,
            "username": self.user.email,
            "password": PASSWORD,
            "current_password": PASSWORD,
            "old_password": PASSWORD,
        }

    async def settle(self) -> None:
        """Make the tenant, its owner and its rows, and sign the owner in."""
        marker = new_marker()
        tenant = await self.bench.make_tenant(marker, slug=marker)
        if self.host is not None:
            self._base_url = f"https://{self.host.format(slug=marker)}"
        if self.with_key:
            self._api_key = (await self.bench.auth.issue_api_key(tenant.id)).key
        self._user = await self._register(tenant.id)
        await self._sign_in()
        await self.grow()

    async def grow(self) -> None:
        """Add a row to every table, and look at what is there."""
        await self.planting.plant(self.user.tenant_id)
        await self.look()

    async def look(self) -> Snapshot:
        """Read the tenant's rows, and return them."""
        self.snapshot = await self.planting.snapshot(self.user.tenant_id)
        self.rows = rows_of(self.snapshot)
        for origin, values in (*self._told.items(), *self._made.items()):
            known = self.rows.setdefault(origin, [])
            stored = {str(each) for each in known}
            known += [each for each in values if str(each) not in stored]
        return self.snapshot

    async def close(self) -> None:
        """Close its client."""
        if self._client is not None:
            await self._client.aclose()

    def learn(self, operation: Operation, answer: Answer) -> None:
        """Remember what an operation has made for the tenant, be it in no table of ours."""
        self._sent.update(re.findall(r"qz[a-z]{22}", answer.sent))
        segments = _SEGMENT.findall(operation.path)
        if not segments or not answer.ok:
            return
        about = segments[-1].replace("-", "_")
        made = answer.parsed.get("id") if isinstance(answer.parsed, dict) else None
        if operation.method == "POST" and isinstance(made, str | int):
            self._made.setdefault((about, "id"), []).append(made)
        # Others may be told the same, so these are tried, but are no texts to recognize it by.
        for name, value in named_in(answer.parsed):
            known = self._told.setdefault((about, name), [])
            if value not in known and len(known) < _MOST_TOLD:
                known.append(value)
                self.rows.setdefault((about, name), []).append(value)

    def secrets(self) -> dict[str, str]:
        """Return the texts by which the tenant's data is recognized, and what each is."""
        found = dict.fromkeys(self._sent, "a text that the tenant has sent")
        for (table, column), values in self._made.items():
            found |= dict.fromkeys(texts_of(values), f"{table}.{column}")
        columns = [
            (f"{table}.{name}", value)
            for (table, _), row in self.snapshot.items()
            for name, value in row.items()
        ]
        # An id is called by its own table, and not by those that refer to it.
        columns.sort(key=lambda each: each[0].endswith(".id"))
        return found | {text: label for label, value in columns for text in texts_of(value)}

    async def stay_signed_in(self) -> None:
        """Sign in anew where the application has ended the session, or even the tenant."""
        try:
            principal = await self.bench.auth.validate(self._token)
            if principal.role == "owner":
                return
        except TenantryError:
            pass
        try:
            self._user = await self._register(self.user.tenant_id)
            await self._sign_in()
        except TenantryError:
            await self.settle()

    async def _register(self, tenant_id: Any) -> UserInfo:
        name = new_marker()
        email = f"{name}@example.com"
        return await self.bench.make_user(tenant_id, role="owner", email=email, name=new_marker())

    async def _sign_in(self) -> None:
        signed_in = await self.bench.auth.sign_in(self.user.tenant_id, self.user.email, PASSWORD)
        self._token = signed_in.token
        await self.close()
        headers = self.bench.credentials(self._token)
        client = new_walker(self.running, headers, base_url=self._base_url)
        client.api_key = self._api_key
        self._client = client
