"""The instruments, and the databases whose pools and queues they read.

An SDK has one instrument of a name, and what reads it cannot be taken back. So there is one set of
instruments for each meter provider; databases come and go.
"""

from __future__ import annotations

from collections import Counter as Sums
from collections.abc import Callable, Iterable
from typing import Final
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider

from tenantry import __version__
from tenantry.database import Database
from tenantry.opentelemetry.places import pool_name
from tenantry.tenancy.observing import Quantity, Reading

__all__ = ["Instruments", "instruments_of"]

# Those that the conventions ask for, and ours, for what takes a tenth of a millisecond.
_CLIENT_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
_SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_STATES: Final = {"connections_idle": "idle", "connections_used": "used"}

Read = Callable[[CallbackOptions], Iterable[metrics.Observation]]


class Instruments:
    """The instruments of one meter provider.

    Attributes:
        operations: Seconds of what is no single call of the database.
        calls: Seconds of what is one.
        batch_sizes: Validations in a statement.
    """

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        self._watched: dict[Database, None] = {}
        meter = metrics.get_meter("tenantry", __version__, meter_provider)
        self.operations: Final = meter.create_histogram(
            "tenantry.operation.duration",
            unit="s",
            description="Duration of tenant transactions, sign-ins and validations.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.calls: Final = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_CLIENT_SECONDS,
        )
        self.batch_sizes: Final = meter.create_histogram(
            "tenantry.validation.batch_size",
            unit="{validation}",
            description="Validations in each statement that was sent for those who were waiting.",
            explicit_bucket_boundaries_advisory=_BATCHES,
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [self._read("connections_idle", "connections_used")],
            unit="{connection}",
            description="Connections that are in the state.",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.max",
            [self._read("connections_max")],
            unit="{connection}",
            description="The maximum number of open connections allowed.",
        )
        meter.create_observable_up_down_counter(
            "tenantry.hashing.running",
            [self._read("hashes_running")],
            unit="{hash}",
            description="Passwords that are being hashed.",
        )
        meter.create_observable_up_down_counter(
            "tenantry.hashing.waiting",
            [self._read("hashes_waiting")],
            unit="{hash}",
            description="Passwords that wait to be hashed.",
        )
        meter.create_observable_counter(
            "tenantry.hashing.refused",
            [self._read("hashes_refused")],
            unit="{hash}",
            description="Passwords that were not hashed, because too many were waiting.",
        )

    def watch(self, db: Database) -> None:
        """Read the pools and queues of ``db`` from now on."""
        self._watched[db] = None

    def forget(self, db: Database) -> None:
        """Read them no more."""
        self._watched.pop(db, None)

    def _read(self, *quantities: Quantity) -> Read:
        def read(_: CallbackOptions) -> Iterable[metrics.Observation]:
            # In a thread of the SDK's: what is iterated over is a copy.
            sums: Sums[tuple[tuple[str, str], ...]] = Sums()
            for db in tuple(self._watched):
                for reading in db.readings():
                    if reading.quantity in quantities:
                        sums[_labels(db, reading)] += reading.value
            return [metrics.Observation(value, dict(labels)) for labels, value in sums.items()]

        return read


_GLOBAL: Final = type("Global", (), {})()
_instruments: Final[WeakKeyDictionary[object, Instruments]] = WeakKeyDictionary()


def instruments_of(meter_provider: MeterProvider | None) -> Instruments:
    """Return the instruments of a meter provider; None is the global one."""
    key = _GLOBAL if meter_provider is None else meter_provider
    found = _instruments.get(key)
    if found is None:
        found = _instruments[key] = Instruments(meter_provider)
    return found


def _labels(db: Database, reading: Reading) -> tuple[tuple[str, str], ...]:
    if not reading.pool:
        return ()
    settings = db.settings
    urls = {"replica": settings.replica_url, "operator": settings.admin_url}
    url = urls.get(reading.pool) or settings.database_url
    assert url is not None  # noqa: S101 - Database has refused that
    pool = ("db.client.connection.pool.name", pool_name(reading.pool, url))
    state = _STATES.get(reading.quantity)
    return (pool, ("db.client.connection.state", state)) if state else (pool,)
