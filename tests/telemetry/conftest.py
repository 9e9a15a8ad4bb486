"""OpenTelemetry's own SDK, which keeps in memory what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tenantry import Database
from tenantry.auth import Auth, HashingPool, SignedIn
from tenantry.auth.profiles import TESTING
from tenantry.opentelemetry import instrument
from tests.conftest import TenantPair

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

EMAIL, PASSWORD = "ada@acme.example", "correct horse battery staple"

Points = dict[tuple[tuple[str, Any], ...], Any]


class Recording:
    """The providers that an application has, and what has reached them."""

    def __init__(self, sampler: Any = None) -> None:
        # Not where tests run on the lowest versions: an SDK fits one version of the API.
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(sampler=sampler)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider(metric_readers=[self._reader])
        self.tracer = self.tracer_provider.get_tracer("application")

    def watch(self, db: Database) -> None:
        """Instrument a database with these providers."""
        instrument(db, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider)

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """Those that have ended, in that order."""
        return [each for each in self._exporter.get_finished_spans() if name in {None, each.name}]

    def span(self, name: str) -> ReadableSpan:
        """The only one of this name."""
        (found,) = self.spans(name)
        return found

    def clear(self) -> None:
        """Forget the spans."""
        self._exporter.clear()

    def points(self, metric: str) -> Points:
        """By their attributes: a histogram's count and sum, or a value."""
        found: Points = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    if each.name == metric:
                        for point in each.data.data_points:
                            key = tuple(sorted((point.attributes or {}).items()))
                            value = getattr(point, "value", None)
                            sums = getattr(point, "count", None), getattr(point, "sum", None)
                            found[key] = sums if value is None else value
        return found

    def everything(self) -> str:
        """All that would leave the process, as text."""
        data = self._reader.get_metrics_data()
        return "".join(
            [each.to_json() for each in self.spans()] + ([data.to_json()] if data else [])
        )

    def close(self) -> None:
        """As an application does at its end."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def record() -> Iterator[Callable[..., Recording]]:
    """Makes providers, with a sampler or without."""
    made: list[Recording] = []

    def make(sampler: Any = None) -> Recording:
        made.append(Recording(sampler))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def recording(record: Callable[..., Recording], db: Database) -> Recording:
    """The providers that `db` tells what it does."""
    made = record()
    made.watch(db)
    return made


@pytest.fixture
async def auth(db: Database) -> AsyncIterator[Auth]:
    """Signing in, with hashes that cost nothing."""
    hashing = HashingPool(permits=1, max_waiting=1)
    yield Auth(db, profile=TESTING, hashing=hashing)
    hashing.close()


@pytest.fixture
async def signed_in(auth: Auth, tenants: TenantPair) -> SignedIn:
    """Ada of Acme, signed in before anybody watched."""
    await auth.register(tenants.a.id, EMAIL, PASSWORD)
    return await auth.sign_in(tenants.a.id, EMAIL, PASSWORD)
