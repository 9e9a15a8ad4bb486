"""The settings that a session of the application runs under, and what stands out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.tenancy.catalog import quote

__all__ = ["diagnose_extensions", "diagnose_server_settings", "diagnose_session_settings"]

_SESSION: Final = (
    "row_security",
    "default_transaction_read_only",
    "default_transaction_isolation",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "hnsw.iterative_scan",
    "log_statement",
    "log_min_duration_statement",
    "log_min_duration_sample",
    "log_transaction_sample_rate",
    "log_parameter_max_length",
    "log_parameter_max_length_on_error",
    "auto_explain.log_min_duration",
    "auto_explain.log_parameter_max_length",
)
_SERVER: Final = ("fsync", "full_page_writes", "password_encryption")

_SETTINGS = text("""
    SELECT name, current_setting(name, true) AS value FROM unnest(CAST(:names AS text[])) AS name
""")

# Not shown to every role: a row that is missing is not a setting that is empty.
_LIBRARIES = text("""
    SELECT name, setting FROM pg_settings
     WHERE name IN ('session_preload_libraries', 'shared_preload_libraries',
                    'local_preload_libraries')
     ORDER BY name
""")

_EXTENSIONS = text("""
    SELECT e.extname AS name, e.extversion AS installed, a.default_version AS available
      FROM pg_extension e LEFT JOIN pg_available_extensions a ON a.name = e.extname
     ORDER BY e.extname
""")

_REQUIRED_EXTENSIONS: Final = ("vector", "pg_trgm", "btree_gin")


async def diagnose_session_settings(connection: AsyncConnection) -> list[Diagnosis]:
    """Judge what holds for a session of the application, whoever set it where."""
    row = (
        await connection.execute(
            text("SELECT current_user AS role, pg_is_in_recovery() AS replica")
        )
    ).one()
    values = await _read(connection, _SESSION)
    return [
        *_walls(values, replica=row.replica),
        *_limits(values, role=quote(row.role)),
        _logging(values),
    ]


async def _read(connection: AsyncConnection, names: tuple[str, ...]) -> dict[str, str | None]:
    rows = await connection.execute(_SETTINGS, {"names": list(names)})
    return {row.name: row.value for row in rows}


def _walls(values: Mapping[str, str | None], *, replica: bool) -> Iterator[Diagnosis]:
    if values["row_security"] == "on":
        yield Diagnosis("row-security", "ok", "row_security is on")
    else:
        yield Diagnosis(
            "row-security",
            "problem",
            "row_security is off for the application, so every query on a tenant table fails",
            "Find where it is set with \\drds in psql, and reset it there.",
        )
    if values["default_transaction_read_only"] == "on" and not replica:
        yield Diagnosis(
            "transactions",
            "problem",
            "default_transaction_read_only is on, so the application cannot write",
            "Find where it is set with \\drds in psql, and reset it there.",
        )
    elif values["default_transaction_isolation"] != "read committed":
        yield Diagnosis(
            "transactions",
            "warning",
            f"default_transaction_isolation is {values['default_transaction_isolation']}",
            "The application has to repeat transactions that end with SQLSTATE 40001.",
        )
    else:
        yield Diagnosis("transactions", "ok", "read committed" + (", replica" if replica else ""))
    scan = values["hnsw.iterative_scan"]
    if scan in {"strict_order", "relaxed_order"}:
        yield Diagnosis("vector-scan", "ok", f"hnsw.iterative_scan is {scan}")
    else:
        yield Diagnosis(
            "vector-scan",
            "problem",
            f"hnsw.iterative_scan is {scan or 'not set'}: one tenant's vectors push another's "
            "out of its results",
            "Run `tenantry db migrate`, or ALTER DATABASE … SET hnsw.iterative_scan = "
            "'strict_order';",
        )


def _limits(values: Mapping[str, str | None], *, role: str) -> Iterator[Diagnosis]:
    for name, setting, limit, why in (
        ("statement-timeout", "statement_timeout", "30s", "one slow query can hold a connection"),
        (
            "idle-transaction-timeout",
            "idle_in_transaction_session_timeout",
            "60s",
            "a transaction that nobody ends keeps its locks and its snapshot",
        ),
    ):
        value = values[setting]
        if value and value != "0":
            yield Diagnosis(name, "ok", f"{setting} is {value}")
        else:
            yield Diagnosis(
                name,
                "warning",
                f"{setting} is 0 for {role}: {why} for ever",
                f"ALTER ROLE {role} SET {setting} = '{limit}';",
            )


def _logging(values: Mapping[str, str | None]) -> Diagnosis:
    logged = [
        f"{name} = {values[name]}"
        for name, off in (
            ("log_statement", {"none", "ddl"}),
            ("log_min_duration_statement", {"-1"}),
            ("log_min_duration_sample", {"-1"}),
            ("log_transaction_sample_rate", {"0"}),
        )
        if values[name] not in off
    ]
    leaks = []
    if logged and values["log_parameter_max_length"] != "0":
        leaks.append(
            f"{', '.join(logged)} with log_parameter_max_length = "
            f"{values['log_parameter_max_length']}"
        )
    if values["log_parameter_max_length_on_error"] != "0":
        leaks.append(
            f"log_parameter_max_length_on_error = {values['log_parameter_max_length_on_error']}"
        )
    if (values["auto_explain.log_min_duration"] or "-1") != "-1" and values[
        "auto_explain.log_parameter_max_length"
    ] != "0":
        leaks.append("auto_explain logs statements with their parameters")
    if leaks:
        return Diagnosis(
            "statement-log",
            "warning",
            "the server's log holds bound values, secrets and tenants' data among them: "
            + "; ".join(leaks),
            "Set log_parameter_max_length, log_parameter_max_length_on_error and "
            "auto_explain.log_parameter_max_length to 0, or treat the log as you treat the "
            "database.",
        )
    found = "bound values are not logged" + (f" ({', '.join(logged)})" if logged else "")
    return Diagnosis("statement-log", "ok", found)


async def diagnose_server_settings(connection: AsyncConnection) -> list[Diagnosis]:
    """Judge what holds for the whole server."""
    values = await _read(connection, _SERVER)
    libraries = {row.name: row.setting for row in await connection.execute(_LIBRARIES)}
    return [_durability(values), _passwords(values), _preloaded(libraries)]


def _durability(values: Mapping[str, str | None]) -> Diagnosis:
    off = [name for name in ("fsync", "full_page_writes") if values[name] == "off"]
    if not off:
        return Diagnosis("durability", "ok", "fsync and full_page_writes are on")
    # Not a problem: servers for tests run so on purpose, and this cannot tell which it is.
    return Diagnosis(
        "durability",
        "warning",
        f"{' and '.join(off)} off: a crash of the machine can destroy the database",
        "Turn them on wherever rows are to be kept.",
    )


def _passwords(values: Mapping[str, str | None]) -> Diagnosis:
    method = values["password_encryption"]
    if method == "scram-sha-256":
        return Diagnosis("password-encryption", "ok", "scram-sha-256")
    return Diagnosis(
        "password-encryption",
        "warning",
        f"password_encryption is {method}; new passwords are stored as hashes that can be used "
        "like passwords",
        "Set it to scram-sha-256, then set every password anew.",
    )


def _preloaded(libraries: Mapping[str, str]) -> Diagnosis:
    loaded = [f"{name}: {value}" for name, value in libraries.items() if value]
    hidden = "" if "session_preload_libraries" in libraries else "; this role is not shown all"
    return Diagnosis("preloaded-libraries", "ok", ("; ".join(loaded) or "none") + hidden)


async def diagnose_extensions(connection: AsyncConnection) -> list[Diagnosis]:
    """Judge the extensions of the database: present, and as new as their packages."""
    rows = (await connection.execute(_EXTENSIONS)).all()
    missing = [each for each in _REQUIRED_EXTENSIONS if each not in {row.name for row in rows}]
    if missing:
        return [
            Diagnosis(
                "extensions",
                "problem",
                f"missing: {', '.join(missing)}",
                "`tenantry db migrate` creates them.",
            )
        ]
    old = [row for row in rows if row.available and row.installed != row.available]
    if old:
        return [
            Diagnosis(
                "extensions",
                "warning",
                ", ".join(
                    f"{row.name} is {row.installed} here and {row.available} on the server"
                    for row in old
                ),
                " ".join(f"ALTER EXTENSION {quote(row.name)} UPDATE;" for row in old),
            )
        ]
    found = ", ".join(f"{row.name} {row.installed}" for row in rows)
    return [Diagnosis("extensions", "ok", found)]
