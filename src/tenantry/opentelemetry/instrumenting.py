"""Spans and metrics on, and off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantry.database import Database
from tenantry.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["instrument", "uninstrument"]


def instrument(
    db: Database,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have everything that is made from ``db``, `Auth` included, tell OpenTelemetry what it does.

    Sessions that are open already go on unobserved. It ends with the database, or with
    `uninstrument`; a second call replaces the first.

    Args:
        db: The database.
        tracer_provider: Makes the spans. None: the global one.
        meter_provider: Takes the metrics. None: the global one.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    try:
        from tenantry.opentelemetry.observing import Telemetry
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OpenTelemetry is not installed ({error.name} is missing). Run "
            "pip install 'tenantry[opentelemetry]'."
        ) from error

    async def close() -> None:
        uninstrument(db)

    uninstrument(db)
    db.observer = Telemetry(db, tracer_provider=tracer_provider, meter_provider=meter_provider)
    db.on_close(close)


def uninstrument(db: Database) -> None:
    """Tell nobody any more. Spans that have begun come to their end."""
    observer, db.observer = db.observer, None
    close = getattr(observer, "close", None)
    if close is not None:
        close()
