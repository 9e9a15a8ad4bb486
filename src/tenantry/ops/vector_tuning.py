"""What a vector search goes by in this database: read, checked and kept.

The SQL function ``tenantry.plan_vector_search`` reads the setting ``tenantry.vector_search``, a
JSON object; `tenantry.ops.vector_measuring` finds out what belongs into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import quote as url_quote

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import NullPool

from tenantry.errors import ConfigurationError, PrivilegeError
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import create_engine
from tenantry.tenancy.functions import sql_file

__all__ = [
    "VECTOR_SEARCH",
    "IndexTuning",
    "VectorTuning",
    "built_in",
    "current_tuning",
    "keep_tuning",
    "tuning_statement",
]

VECTOR_SEARCH: Final = "tenantry.vector_search"
"""The setting. It binds no tenant: whatever it says, a search sees one tenant's rows only."""

_MAX_EF_SEARCH: Final = 1000  # pgvector's own limit
_MAX_ROOTS: Final = 1_000_000.0
_MAX_LEAST: Final = 1_000_000_000

_DEFAULT: Final = re.compile(r"'(\{\s*\"whole\".*?\})'\s*\)", re.DOTALL)

_CURRENT: Final = text(f"SELECT current_setting('{VECTOR_SEARCH}', true)")
_DATABASE: Final = text("SELECT current_database()")


@dataclass(frozen=True, slots=True)
class IndexTuning:
    """What decides between comparing each candidate and asking one kind of index.

    Args:
        roots: Up to this multiple of the root of k times the table's rows, comparing is faster.
        least: So many candidates are compared in any case.
        ef_search: For each recall the least ``ef_search`` that has reached it. A recall that none
            has reached is absent, and then the index is not asked.
    """

    roots: float
    least: int
    ef_search: Mapping[float, int]

    def value(self) -> dict[str, Any]:
        """Return it as a part of the setting's value."""
        reached = {f"{recall:g}": ef for recall, ef in sorted(self.ef_search.items())}
        return {"roots": round(self.roots, 2), "least": self.least, "ef_search": reached}


@dataclass(frozen=True, slots=True)
class VectorTuning:
    """What a vector search goes by.

    Args:
        indexes: For each kind of index, as ``tenantry.plan_vector_search`` calls them: ``whole``,
            over everybody's vectors, and ``part``, over those of some tenants. An index of another
            kind is not asked.
    """

    indexes: Mapping[str, IndexTuning]

    def json(self) -> str:
        """Return it as the setting's value."""
        return json.dumps({kind: each.value() for kind, each in sorted(self.indexes.items())})

    @classmethod
    def parse(cls, value: str) -> VectorTuning:
        """Read a value of the setting.

        Raises:
            ConfigurationError: It is not what `json` writes.
        """
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            raise _wrong("it is no JSON") from None
        if not isinstance(found, dict):
            raise _wrong(f"it is a JSON {type(found).__name__}, and no object")
        return cls({kind: _index(kind[:40], each) for kind, each in found.items()})


@cache
def built_in() -> VectorTuning:
    """Return what ``tenantry.plan_vector_search`` goes by where the setting is absent.

    Read from the function's text: the figures stand there and nowhere else.
    """
    found = _DEFAULT.search(sql_file("plan_vector_search.sql"))
    if found is None:  # pragma: no cover - a test reads it
        raise ConfigurationError("plan_vector_search.sql has no figures of its own any more.")
    return VectorTuning.parse(found[1])


def _index(kind: str, found: object) -> IndexTuning:
    if not isinstance(found, dict):
        raise _wrong(f"{kind!r} is no object in it")
    roots: Any = found.get("roots")
    least: Any = found.get("least")
    reached: Any = found.get("ef_search")
    if not (_is_number(roots) and 0 <= roots <= _MAX_ROOTS):
        raise _wrong(f"the roots of {kind!r} are not a number from 0 to {_MAX_ROOTS:,.0f}")
    if not (_is_whole(least) and 0 <= least <= _MAX_LEAST):
        raise _wrong(f"the least of {kind!r} is not a whole number from 0 to {_MAX_LEAST:,}")
    if not isinstance(reached, dict):
        raise _wrong(f"the ef_search of {kind!r} is no object")
    return IndexTuning(roots, least, dict(_reached(*item) for item in reached.items()))


def _reached(recall: str, ef_search: Any) -> tuple[float, int]:
    try:
        share = float(recall)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise _wrong(f"an ef_search is for the recall {recall[:40]!r}, which is not from 0 to 1")
    if not (_is_whole(ef_search) and 1 <= ef_search <= _MAX_EF_SEARCH):
        raise _wrong(f"the ef_search for {recall} is not a whole number from 1 to {_MAX_EF_SEARCH}")
    return share, ef_search


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The setting {VECTOR_SEARCH} cannot be used: {why}. Run `tenantry knowledge tune`, which "
        f"writes it anew, or ALTER DATABASE … RESET {VECTOR_SEARCH}; then connect again."
    )


async def current_tuning(connection: AsyncConnection | AsyncSession) -> VectorTuning | None:
    """Return what holds for this connection; None where nothing was ever measured.

    Raises:
        ConfigurationError: The setting has a value that no search can use.
    """
    value: str | None = (await connection.execute(_CURRENT)).scalar_one()
    return VectorTuning.parse(value) if value else None


def tuning_statement(database: str, tuning: VectorTuning) -> str:
    """Return the SQL that keeps ``tuning`` for a database."""
    value = tuning.json().replace("'", "''")
    return f"ALTER DATABASE {quote(database)} SET {VECTOR_SEARCH} = '{value}'"


async def keep_tuning(admin_url: URL, tuning: VectorTuning) -> None:
    """Keep ``tuning`` for the database. It holds for connections that are opened from now on.

    Raises:
        PrivilegeError: The administrator may not; the message says what to put into the
            application's URL, and what a superuser could run.
    """
    engine = create_engine(admin_url, pool_class=NullPool)
    try:
        async with engine.begin() as connection:
            database: str = (await connection.execute(_DATABASE)).scalar_one()
            statement = tuning_statement(database, tuning)
            try:
                await connection.exec_driver_sql(statement)
            except PrivilegeError as error:
                raise PrivilegeError(
                    f"{error} PostgreSQL lets superusers keep such a setting, and whom they grant "
                    "it. Put it into the application's URL, as the option "
                    f"?{VECTOR_SEARCH}={url_quote(tuning.json(), safe='')} or with & for the ?. Or "
                    f"let a superuser run GRANT SET ON PARAMETER {VECTOR_SEARCH} TO the "
                    f"administrator's role, or this: {statement};"
                ) from error
    finally:
        await engine.dispose()
