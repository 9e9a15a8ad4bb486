"""An ASGI application that runs for a test: its lifespan, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import httpx

from tenantry.errors import TenantryError
from tenantry.testing.direct import DirectTransport

__all__ = [
    "BASE_URL",
    "App",
    "ApplicationStartError",
    "RunningApp",
    "Walker",
    "new_client",
    "new_walker",
]

BASE_URL: Final = "https://testserver"
"""Where clients believe the application to be; by HTTPS, or secure cookies would not come back."""

_LIMIT_SECONDS: Final = 60.0

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]
"""An ASGI application."""


class ApplicationStartError(TenantryError):
    """The application's lifespan failed, or took too long."""


class RunningApp:
    """Runs the lifespan of an application, and is the application while it runs.

    The lifespan has a task of its own, since what it opens has to be closed by the same task. An
    application that knows no lifespan runs without.

    Args:
        app: Any ASGI application.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._state: dict[str, Any] = {}
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Pass a request on, with what the lifespan has put into the state."""
        await self.app({**scope, "state": dict(self._state)}, receive, send)

    async def start(self) -> None:
        """Start the application.

        Raises:
            ApplicationStartError: It says that it cannot start, or says nothing for a minute.
        """
        self._task = asyncio.create_task(self._live())
        await self._messages.put({"type": "lifespan.startup"})
        await self._answer("startup")

    async def stop(self) -> None:
        """Shut it down.

        Raises:
            ApplicationStartError: It says that it cannot, or says nothing for a minute.
        """
        task, self._task = self._task, None
        if task is None:
            return
        await self._messages.put({"type": "lifespan.shutdown"})
        try:
            await self._answer("shutdown")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _live(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        cause: BaseException | None = None
        try:
            await self.app(scope, self._messages.get, self._told.put)
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits
            cause = error
        await self._told.put({"type": "ended", "cause": cause})

    async def _answer(self, what: str) -> None:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                told = await self._told.get()
                if told["type"] == "ended":
                    return  # it has no lifespan, by the specification: serve it without
                if told["type"] != f"lifespan.{what}.failed":
                    return
                ended = await self._told.get()
        except TimeoutError:
            raise ApplicationStartError(
                f"The application has not ended its {what} within {_LIMIT_SECONDS:.0f} s."
            ) from None
        raise ApplicationStartError(
            f"The application's {what} failed; the reason is above, or in its log."
        ) from ended.get("cause")


def new_client(
    running: RunningApp, headers: Mapping[str, str] | None = None, *, base_url: str = BASE_URL
) -> httpx.AsyncClient:
    """Return a client that talks to the application directly; an exception becomes a 500.

    With a cookie it says, as a browser would, that its requests come from the application's pages.

    Args:
        running: The application.
        headers: Sent with each request.
        base_url: Where it believes the application to be.
    """
    transport = httpx.ASGITransport(app=running, raise_app_exceptions=False)
    if not any(name.lower() == "cookie" for name in headers or ()):
        return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)
    return _browser(transport, headers, base_url)


class Walker(httpx.AsyncClient):
    """A client for a walk.

    Attributes:
        api_key: Its tenant's, for what is for programs alone.
    """

    api_key: str | None = None


def new_walker(
    running: RunningApp, headers: Mapping[str, str] | None = None, *, base_url: str = BASE_URL
) -> Walker:
    """Return a client for a walk: as a browser's pages, and it waits for no stream to end.

    Args:
        running: The application.
        headers: Sent with each request.
        base_url: Where it believes the application to be.
    """
    return _browser(DirectTransport(running), headers, base_url)


def _browser(
    transport: httpx.AsyncBaseTransport, headers: Mapping[str, str] | None, base_url: str
) -> Walker:
    return Walker(
        transport=transport,
        base_url=base_url,
        headers={"Sec-Fetch-Site": "same-origin", **(headers or {})},
        event_hooks={"request": [_say_origin]},
    )


async def _say_origin(request: httpx.Request) -> None:
    if request.method not in {"GET", "HEAD"}:
        host = request.headers.get("Host", request.url.netloc.decode())
        request.headers.setdefault("Origin", f"{request.url.scheme}://{host}")
