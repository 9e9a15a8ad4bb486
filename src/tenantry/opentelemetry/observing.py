"""The observer that makes spans and records durations.

Errors are told by their type and SQLSTATE alone: messages of PostgreSQL quote values.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Unpack

from opentelemetry import context, trace
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from sqlalchemy.exc import NoResultFound

from tenantry import __version__
from tenantry.database import Database
from tenantry.errors import AuthenticationError, TenantRequiredError, ThrottledError
from tenantry.opentelemetry.measuring import instruments_of
from tenantry.opentelemetry.places import Attributes, place_of
from tenantry.tenancy.observing import Facts, Observation, Operation
from tenantry.tenancy.sessions import as_tenant_id

__all__ = ["Telemetry"]

_SEARCHES: Final = frozenset({"vector_search", "keyword_search", "hybrid_search"})
_MOST_LINKS: Final = 128
"""As many as the SDK keeps, unless it is told otherwise."""
_CLIENT_ERRORS, _SERVER_ERRORS = 400, 500
_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")


class Telemetry:
    """The `tenantry.tenancy.observing.Observer` of one database; see `instrument`."""

    def __init__(
        self,
        db: Database,
        *,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        url = db.settings.database_url
        assert url is not None  # noqa: S101 - Database has refused that
        self.place: Final = place_of(url)
        self.replica: Final = place_of(db.settings.replica_url or url)
        self.tracer: Final = trace.get_tracer("tenantry", __version__, tracer_provider)
        self.instruments: Final = instruments_of(meter_provider)
        self._db: Final = db
        self.instruments.watch(db)

    def close(self) -> None:
        """Read pools and queues no more."""
        self.instruments.forget(self._db)

    def begin(self, operation: Operation, **facts: Unpack[Facts]) -> Observation:
        """See `tenantry.tenancy.observing.Observer.begin`."""
        place = self.replica if facts.get("read_only") else self.place
        if operation in _SEARCHES:
            labels = {**place, "db.operation.name": operation}
            span = self.span(operation, SpanKind.CLIENT, {**labels, **_attributes(facts)})
            return _Observation(self, span, self.instruments.calls, labels)
        known = _attributes(facts)
        if operation == "transaction":
            known = {**place, **known}
        span = self.span(f"tenantry.{operation}", SpanKind.INTERNAL, known)
        labels = {"tenantry.operation": operation}
        return _Observation(self, span, self.instruments.operations, labels)

    def span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        parent: context.Context | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        """Start a span that records no error by itself, with its message."""
        return self.tracer.start_span(
            name,
            parent,
            kind,
            attributes,
            links,
            record_exception=False,
            set_status_on_exception=False,
        )


class _Observation(Observation):
    """An operation that is under way.

    Args:
        telemetry: Whose.
        span: What is told of it; None: nothing.
        histogram: Where its duration goes.
        labels: With these attributes.
    """

    __slots__ = (
        "_histogram",
        "_labels",
        "_refused",
        "_started",
        "_task",
        "_telemetry",
        "_token",
        "span",
    )

    def __init__(
        self, telemetry: Telemetry, span: Span | None, histogram: Histogram, labels: Attributes
    ) -> None:
        self.span = span
        self._telemetry = telemetry
        self._histogram = histogram
        self._labels = labels
        self._refused = False
        self._task = asyncio.current_task()
        self._token = None if span is None else context.attach(trace.set_span_in_context(span))
        self._started = time.perf_counter()

    def note(self, **facts: Unpack[Facts]) -> None:
        self._refused |= facts.get("refused", False)
        if self.span is not None and self.span.is_recording():
            self.span.set_attributes(_attributes(facts))

    def statement(self, summary: str, *, callers: Sequence[Observation] = ()) -> Observation:
        served = callers or (self,)
        count = len(served)
        labels: Attributes = {
            **self._telemetry.place,
            "db.operation.name": "SELECT",
            "db.query.summary": summary,
        }
        if callers:
            self._telemetry.instruments.batch_sizes.record(count)
        recording = [span for each in served if (span := _recording(each)) is not None]
        span = None
        if recording:
            # The conventions: a batch has two at least.
            size = {"db.operation.batch.size": count} if count > 1 else {}
            span = self._telemetry.span(
                summary,
                SpanKind.CLIENT,
                {**labels, **size},
                # It serves many, so it is part of none of them.
                parent=context.Context() if callers else None,
                links=[Link(each.get_span_context()) for each in recording[:_MOST_LINKS]]
                if callers
                else (),
            )
        return _Observation(self._telemetry, span, self._telemetry.instruments.calls, labels)

    def end(self, error: BaseException | None = None) -> None:
        seconds = time.perf_counter() - self._started
        outcome = "refused" if self._refused else _outcome(error)
        failed = _failure(error) if error is not None and outcome == "error" else {}
        labels = {**self._labels, **failed}
        is_call = self._histogram is self._telemetry.instruments.calls
        if not is_call:
            labels["tenantry.outcome"] = outcome
        self._histogram.record(seconds, labels)
        if self.span is None or self._token is None:
            return
        if self.span.is_recording():
            self.span.set_attributes(failed)
            if not is_call:
                self.span.set_attribute("tenantry.outcome", outcome)
            if failed:
                self.span.set_status(StatusCode.ERROR)
        self.span.end()
        # In another task, as a fixture may end in, there is nothing to take back.
        if asyncio.current_task() is self._task:
            context.detach(self._token)


def _recording(observation: Observation) -> Span | None:
    span = getattr(observation, "span", None)
    return span if isinstance(span, Span) and span.is_recording() else None


def _attributes(facts: Facts) -> Attributes:
    attributes: dict[str, str | int | bool] = {}
    if "tenant_id" in facts:
        with suppress(TenantRequiredError):  # what is no tenant's id could be anything
            attributes["tenantry.tenant_id"] = str(as_tenant_id(facts["tenant_id"]))
    if "read_only" in facts:
        attributes["tenantry.read_only"] = facts["read_only"]
    if "rows" in facts:
        attributes["db.response.returned_rows"] = facts["rows"]
    return attributes


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, AuthenticationError | NoResultFound) or _is_answer(error):
        return "refused"
    if isinstance(error, ThrottledError):
        return "throttled"
    # A generator that is closed gives up as a task does.
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "error"


def _is_answer(error: BaseException) -> bool:
    """Whether it is Starlette's or FastAPI's way to tell a client that it has made a mistake."""
    # By its own class: those of clients of other services have a status too, and are failures.
    starlette = sys.modules.get("starlette.exceptions")
    if starlette is None or not isinstance(error, starlette.HTTPException):
        return False
    return bool(_CLIENT_ERRORS <= error.status_code < _SERVER_ERRORS)


def _failure(error: BaseException) -> Attributes:
    kind = type(error)
    name = kind.__qualname__
    failure = {"error.type": name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"}
    for each in (error, getattr(error, "orig", None), error.__cause__):
        state = getattr(each, "sqlstate", None)
        if isinstance(state, str) and _SQLSTATE.fullmatch(state):
            failure["db.response.status_code"] = state
            break
    return failure
