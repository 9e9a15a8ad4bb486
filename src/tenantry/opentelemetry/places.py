"""Where a database is, in the words of OpenTelemetry's conventions."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import URL

__all__ = ["Attributes", "place_of", "pool_name"]

Attributes = Mapping[str, str | int | bool]


def place_of(url: URL) -> Attributes:
    """Return the attributes that say where a database is; no role, and nothing secret."""
    place: dict[str, str | int | bool] = {"db.system.name": "postgresql"}
    if url.database:
        place["db.namespace"] = url.database
    if host := url.host or _text(url, "host"):
        place["server.address"] = host
    port = _text(url, "port")
    if url.port or port.isdecimal():
        place["server.port"] = url.port or int(port)
    return place


def pool_name(pool: str, url: URL) -> str:
    """Return a name of ``pool`` that no pool of another database has in this process."""
    place = place_of(url)
    port = f":{place['server.port']}" if "server.port" in place else ""
    return f"{pool}@{place.get('server.address', '')}{port}/{place.get('db.namespace', '')}"


def _text(url: URL, name: str) -> str:
    value = url.query.get(name, "")
    return value if isinstance(value, str) else ",".join(value)
