"""`assert_isolated`: walks an application with two tenants, and tells where they meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import MetaData

from tenantry.errors import ConfigurationError
from tenantry.schema import Base
from tenantry.testing.answers import Limits
from tenantry.testing.applications import App, new_client
from tenantry.testing.openapi import Operation
from tenantry.testing.planting import Planting
from tenantry.testing.report import IsolationError, IsolationReport, Unexercised
from tenantry.testing.surface import survey
from tenantry.testing.walking import Walk
from tenantry.testing.workbench import Workbench

__all__ = ["assert_isolated"]

_NOT_WALKED: Final = "it shows no operations, so it was not walked; test it by itself, and skip it"


async def assert_isolated(
    app: App,
    *,
    bench: Workbench,
    metadata: MetaData = Base.metadata,
    skip: Iterable[str] = (),
    examples: Mapping[str, Mapping[str, Any]] | None = None,
    values: Mapping[str, Any] | None = None,
    host: str | None = None,
    max_requests: int = 20_000,
    max_seconds: float = 120.0,
) -> IsolationReport:
    """Assert that no operation of an application shows or gives one tenant's data to another.

    Two tenants are filled with rows whose texts occur nowhere else, through the models and through
    the application's own operations. Then every operation is called as the second tenant's owner
    and by nobody, with the first one's ids in every parameter, and without; and the answers, and
    the first tenant's rows, are looked through.

    Args:
        app: An ASGI application with an OpenAPI document: ``app.openapi()``, or at /openapi.json.
        bench: Makes the tenants and the clients; the fixture brings its own.
        metadata: The models.
        skip: What is left out, as in ``GET /public/{id}``, ``/admin/*``, ``Mount /static``.
        examples: For an operation, values of parameters and of fields of its body by name. For a
            WebSocket, ``messages``: a list of texts, where ``{widgets.id}`` is a tenant's value.
        values: For a column, as in ``orders.status``, what planted rows must hold.
        host: Where tenants have host names: how they are made, as in ``{slug}.example.com``.
        max_requests: How many requests to send at most.
        max_seconds: How long it may take.

    Returns:
        What was done.

    Raises:
        IsolationError: Something leaks, or could not be tried; its ``report`` has it as data.
        ConfigurationError: ``skip`` or ``examples`` names no operation.
    """
    __tracebackhide__ = True
    running = await bench.running(app)
    async with new_client(running) as client:
        surface = await survey(app, client)
    skip, examples = tuple(skip), examples or {}
    _require_known(surface.names, skip, examples)
    credentials = bench.credentials("token")
    kept = [
        replace(
            _without_credentials(each, credentials),
            messages=tuple(examples.get(str(each), {}).get("messages", ())),
        )
        for each in surface.operations
        if not _is_skipped(str(each), skip)
    ]
    walk = Walk(
        running,
        kept,
        bench=bench,
        planting=Planting(bench.db, metadata, values),
        examples=examples,
        limits=Limits(max_requests, max_seconds),
        host=host,
    )
    await walk.run()
    unwalked = (each for each in surface.unwalked if not _is_skipped(each, skip))
    report = IsolationReport(
        operations=len(kept),
        requests=walk.requests,
        leaks=tuple(walk.leaks),
        unexercised=(*walk.unexercised(), *(Unexercised(each, _NOT_WALKED) for each in unwalked)),
    )
    if not report.ok:
        raise IsolationError(report)
    return report


def _without_credentials(operation: Operation, credentials: Mapping[str, str]) -> Operation:
    """Return the operation without the parameters that say who asks: clients have their own."""
    headers = {name.lower() for name in credentials} | {"authorization", "cookie"}
    cookies = {
        part.partition("=")[0].strip()
        for name, value in credentials.items()
        for part in value.split(";")
        if name.lower() == "cookie"
    }
    slots = (
        slot
        for slot in operation.slots
        if not (slot.where == "header" and slot.name.lower() in headers)
        and not (slot.where == "cookie" and slot.name in cookies)
    )
    return replace(operation, slots=tuple(slots))


def _fits(name: str, pattern: str) -> bool:
    path = name.partition(" ")[2]
    # Names have braces and no brackets; only the asterisk means more than itself.
    return any(each == pattern or fnmatchcase(each, pattern) for each in (name, path))


def _is_skipped(name: str, skip: tuple[str, ...]) -> bool:
    return any(_fits(name, pattern) for pattern in skip)


def _require_known(names: list[str], skip: tuple[str, ...], examples: Mapping[str, Any]) -> None:
    unknown = {each for each in skip if not any(_fits(name, each) for name in names)}
    unknown |= examples.keys() - set(names)
    if unknown:
        raise ConfigurationError(
            f"skip= or examples= names {', '.join(sorted(unknown))}, which the application does "
            "not have. Write operations as in 'POST /notes/{note_id}'."
        )
