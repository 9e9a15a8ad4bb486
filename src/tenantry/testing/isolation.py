"""`assert_isolated`: walks an application with two tenants, and tells where they meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import MetaData

from tenantry.errors import ConfigurationError
from tenantry.schema import Base
from tenantry.testing.answers import Limits
from tenantry.testing.applications import App, new_client
from tenantry.testing.openapi import Operation, Schemas, read_operations
from tenantry.testing.planting import Planting
from tenantry.testing.report import IsolationError, IsolationReport, Unexercised
from tenantry.testing.walking import Walk
from tenantry.testing.workbench import Workbench

__all__ = ["assert_isolated"]


async def assert_isolated(
    app: App,
    *,
    bench: Workbench,
    metadata: MetaData = Base.metadata,
    skip: Iterable[str] = (),
    examples: Mapping[str, Mapping[str, Any]] | None = None,
    values: Mapping[str, Any] | None = None,
    max_requests: int = 5000,
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
        skip: Operations that are left out, as in ``GET /public/{id}``, ``/static/*``.
        examples: For an operation, values of parameters and of fields of its body by name.
        values: For a column, as in ``orders.status``, what planted rows must hold.
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
        document = await _document(app, client)
    operations = [*read_operations(document), *_hidden(app, document)]
    mounts = _mounts(app)
    skip = tuple(skip)
    _require_known([*map(str, operations), *mounts], skip, examples or {})
    kept = [each for each in operations if not _is_skipped(str(each), skip)]
    walk = Walk(
        running,
        kept,
        bench=bench,
        schemas=Schemas(document),
        planting=Planting(bench.db, metadata, values),
        examples=examples or {},
        limits=Limits(max_requests, max_seconds),
    )
    await walk.run()
    report = IsolationReport(
        operations=len(kept),
        requests=walk.requests,
        leaks=tuple(walk.leaks),
        unexercised=(
            *walk.unexercised(),
            *(
                Unexercised(each, "it is no operation of the OpenAPI document; test it by itself")
                for each in mounts
                if not _is_skipped(each, skip)
            ),
        ),
    )
    if not report.ok:
        raise IsolationError(report)
    return report


async def _document(app: App, client: Any) -> Mapping[str, Any]:
    make = getattr(app, "openapi", None)
    if callable(make):
        made: Mapping[str, Any] = make()
        return made
    answer = await client.get("/openapi.json")
    if answer.status_code != 200:  # noqa: PLR2004
        raise ConfigurationError(
            f"The application has no openapi(), and GET /openapi.json answers {answer.status_code}."
            " An OpenAPI document is required, to know its operations."
        )
    found: Mapping[str, Any] = answer.json()
    return found


def _hidden(app: App, document: Mapping[str, Any]) -> list[Operation]:
    """Return the routes that are left out of the document; those of the document itself aside."""
    names = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")
    own = {getattr(app, name, None) for name in names} | {"/openapi.json"}
    found = []
    for route in getattr(app, "routes", ()):
        path, methods = getattr(route, "path", ""), getattr(route, "methods", None) or ()
        if getattr(route, "include_in_schema", True) or path in own:
            continue
        if path not in document.get("paths", {}):
            bare: dict[str, Any] = {each.lower(): {} for each in set(methods) - {"HEAD", "OPTIONS"}}
            found += read_operations({"paths": {path: bare}})
    return found


def _mounts(app: App) -> list[str]:
    return [
        f"{type(route).__name__} {getattr(route, 'path', '')}"
        for route in getattr(app, "routes", ())
        if not getattr(route, "methods", None) and hasattr(route, "path")
    ]


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
