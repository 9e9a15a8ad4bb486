"""Spans and metrics of what tenantry does, for those who run OpenTelemetry."""

from __future__ import annotations

from tenantry.opentelemetry.instrumenting import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
