"""Which versions of PostgreSQL and pgvector are known to be unsafe, and why.

Each entry names its source. A defect is a *problem* where it leads past row security or to another
role, or where values that an application passes on are enough to use it. It is a *warning* where it
takes SQL of one's own, special rights or a tool such as pg_dump: the library sends no SQL that
others have written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Final, NamedTuple

from tenantry.ops.diagnosis.report import Diagnosis, State
from tenantry.tenancy.inspection import PGVECTOR_MINIMUM, POSTGRESQL_MINIMUM

__all__ = ["diagnose_pgvector", "diagnose_postgresql"]


@dataclass(frozen=True, slots=True)
class _Defect:
    """A known defect of PostgreSQL.

    Args:
        name: Its CVE, or another short name.
        fixed_in: The first minor release without it, by major version. Others do not have it.
        state: How bad it is; see the module.
        what: What it allows.
        source: Where it is described.
        first: The first minor release with it, where that is not the first of all.
    """

    name: str
    fixed_in: Mapping[int, int]
    state: State
    what: str
    source: str
    first: Mapping[int, int] = field(default_factory=dict)


_SECURITY: Final = "https://www.postgresql.org/support/security/"


def _cve(number: str, fixed_in: Mapping[int, int], state: State, what: str) -> _Defect:
    return _Defect(f"CVE-{number}", fixed_in, state, what, f"{_SECURITY}CVE-{number}/")


_DEFECTS: Final = (
    _cve("2024-10976", {16: 5, 17: 1}, "problem", "a cached plan applies another role's policies"),
    _cve("2024-10978", {16: 5, 17: 1}, "problem", "a role change leads to the wrong role"),
    _Defect(
        "a role given at login is not taken",
        {16: 6, 17: 2},
        "problem",
        "operator sessions stay the administrator",
        "https://www.postgresql.org/docs/release/17.2/",
        first={16: 5, 17: 1},
    ),
    _cve("2025-8713", {16: 10, 17: 6}, "problem", "statistics show rows that policies hide"),
    _cve(
        "2026-6473", {16: 14, 17: 10, 18: 4}, "problem", "values of an application overrun memory"
    ),
    _cve("2024-4317", {16: 3}, "warning", "extended statistics are shown to everybody"),
    _cve("2024-10979", {16: 5, 17: 1}, "warning", "PL/Perl sets the server's environment"),
    _cve("2025-1094", {16: 7, 17: 3}, "warning", "psql's quoting can be broken out of"),
    _cve("2025-8714", {16: 10, 17: 6}, "warning", "a dump runs code where it is restored"),
    _cve("2025-8715", {16: 10, 17: 6}, "warning", "names in a dump run code where it is restored"),
    _cve("2025-12817", {16: 11, 17: 7, 18: 1}, "warning", "CREATE STATISTICS in foreign schemas"),
    _cve("2026-2006", {16: 12, 17: 8, 18: 2}, "warning", "SQL runs code as the server"),
    _cve("2026-16239", {16: 15, 17: 11, 18: 6}, "warning", "SQL runs code as the server"),
    _cve("2026-120141", {16: 16, 17: 12, 18: 7}, "warning", "SQL runs code as the server"),
)

# https://www.postgresql.org/support/versioning/
_LAST_RELEASE: Final = {16: date(2028, 11, 9), 17: date(2029, 11, 8), 18: date(2030, 11, 14)}
_SOON_DAYS: Final = 183
"""A move to another major version takes some planning."""


class _Vector(NamedTuple):
    fixed_in: tuple[int, int, int]
    what: str


# The second has no CVE. https://github.com/pgvector/pgvector/blob/master/CHANGELOG.md
_VECTOR_DEFECTS: Final = (
    _Vector(
        (0, 8, 2),
        "CVE-2026-3172, building an HNSW index in parallel shows other tables' data "
        "(https://github.com/pgvector/pgvector/issues/959)",
    ),
    _Vector(
        (0, 8, 4),
        "VACUUM can damage an HNSW index (https://github.com/pgvector/pgvector/blob/master/"
        "CHANGELOG.md)",
    ),
)


def diagnose_postgresql(number: int, version: str, *, today: date) -> list[Diagnosis]:
    """Judge a version of PostgreSQL.

    Args:
        number: As ``server_version_num``, 160004 for 16.4.
        version: As people write it.
        today: For the end of support.
    """
    major, minor = divmod(number, 10_000)
    if major < POSTGRESQL_MINIMUM:
        return [
            Diagnosis(
                "postgresql-version",
                "problem",
                f"PostgreSQL {version}; {POSTGRESQL_MINIMUM} or newer is required",
                "Upgrade the server or use another.",
            )
        ]
    return [
        Diagnosis("postgresql-version", "ok", f"PostgreSQL {version}"),
        _support(major, today),
        _defects(major, minor),
    ]


def _support(major: int, today: date) -> Diagnosis:
    name, end = "postgresql-support", _LAST_RELEASE.get(major)
    if end is None:
        return Diagnosis(name, "ok", f"version {major} is newer than this list of versions")
    if today > end:
        return Diagnosis(
            name,
            "problem",
            f"version {major} has had no security fixes since {end}",
            "Upgrade to a newer major version.",
        )
    state: State = "warning" if (end - today).days < _SOON_DAYS else "ok"
    advice = "Plan the move to a newer major version." if state == "warning" else ""
    return Diagnosis(name, state, f"version {major} has security fixes until {end}", advice)


def _defects(major: int, minor: int) -> Diagnosis:
    present = [
        each
        for each in _DEFECTS
        if major in each.fixed_in and each.first.get(major, 0) <= minor < each.fixed_in[major]
    ]
    name = "postgresql-security"
    if not present:
        return Diagnosis(name, "ok", "no known defect that matters here")
    state: State = "problem" if any(each.state == "problem" for each in present) else "warning"
    newest = max(each.fixed_in[major] for each in present)
    return Diagnosis(
        name,
        state,
        "; ".join(f"{each.name}, {each.what} ({each.source})" for each in present),
        f"Update to {major}.{newest} or newer; a minor release needs a restart and no migration.",
    )


def diagnose_pgvector(installed: str | None, available: str | None) -> list[Diagnosis]:
    """Judge pgvector.

    Args:
        installed: Its version in this database, which is that of its SQL.
        available: The version of the package on the server, which is that of the code that runs.
    """
    name = "pgvector-version"
    required = ".".join(map(str, PGVECTOR_MINIMUM))
    if installed is None:
        where = f"; {available} can be created" if available else ", nor on this server"
        return [
            Diagnosis(
                name,
                "problem",
                f"pgvector is not in this database{where}",
                "`tenantry db migrate` creates it."
                if available
                else "Install its package (on Debian postgresql-NN-pgvector) or enable it with "
                "your provider.",
            )
        ]
    if _numbers(installed)[:2] < PGVECTOR_MINIMUM:
        advice = "Install a newer package, then run ALTER EXTENSION vector UPDATE;"
        found = f"pgvector {installed}; {required} or newer is required"
        return [Diagnosis(name, "problem", found, advice)]
    return [Diagnosis(name, "ok", f"pgvector {installed}"), _vector_defects(available or installed)]


def _vector_defects(version: str) -> Diagnosis:
    present = [each for each in _VECTOR_DEFECTS if _numbers(version) < each.fixed_in]
    name = "pgvector-security"
    if not present:
        return Diagnosis(name, "ok", "no known defect that matters here")
    newest = ".".join(map(str, max(each.fixed_in for each in present)))
    return Diagnosis(
        name,
        "warning",
        f"{version} on the server: " + "; ".join(each.what for each in present),
        f"Install {newest} or newer, then run ALTER EXTENSION vector UPDATE; and REINDEX the HNSW "
        "indexes.",
    )


def _numbers(version: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    return (*numbers, 0, 0, 0)[:3]
