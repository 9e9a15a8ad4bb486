"""Checks of functions that tell a tenant: for longer than a transaction, or where none is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static.expressions import words
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.mending import literal
from tenantry.ops.audit.static.snapshot import Function
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.functions import FUNCTIONS

__all__ = ["binding", "falls_back"]

_BENT: Final = {
    "row_security": "Policies are not applied in it as they are meant to be.",
    "role": "It acts as that role, whoever calls it.",
    "session_replication_role": "As a replica it checks no foreign key and runs no trigger.",
}


def binding(ground: Ground) -> Iterator[Finding]:
    """No function binds a tenant of its own, or one for longer than the transaction."""
    tenant = ground.scope.tenant_setting
    declared = {each.signature for each in FUNCTIONS} if ground.scope.is_ours else set()
    for function in ground.snapshot.functions:
        if function.extension or function.signature in declared or tenant is None:
            continue
        yield from _settings(function, tenant)
        callers = {each.rstrip("*") for each in function.executors} & ground.everyone
        if callers and (pattern := _for_the_session(function, tenant)):
            yield _session(function, tenant, pattern)


def _settings(function: Function, tenant: str) -> Iterator[Finding]:
    for each in function.config:
        name, _, value = each.partition("=")
        why = _BENT.get(name.lower())
        if name.lower() == tenant.lower():
            why = "Whoever calls it reads and writes that tenant's rows, and not their own."
        if why is not None and value.lower() not in {"on", "origin"}:
            yield Finding(
                f"{function.kind.lower()} {function.signature}",
                "function-setting",
                f"{function.signature} runs with {name} set to {value}.",
                why,
                f"ALTER {function.kind} {function.signature}"
                f" RESET {'.'.join(map(quote, name.split('.')))};",
            )


def _for_the_session(function: Function, tenant: str) -> tuple[str, str] | None:
    """Return what binds the tenant for the session, as a pattern, and what binds it less long."""
    name = re.escape(tenant).replace("/", "\\/")
    patterns = (
        (
            rf"(set_config\(\s*'{name}'(?:::text)?\s*,[^;]*?,\s*)(?:false|'f'|'false')(\s*\))",
            r"\1true\2",
        ),
        (rf"(\mset\s+)(?:session\s+)?({name}\M)", r"\1LOCAL \2"),
    )
    for pattern, instead in patterns:
        if re.search(re.sub(r"\\[mM]", r"\\b", pattern), function.body, re.IGNORECASE):
            return pattern, instead
    return None


def _session(function: Function, tenant: str, found: tuple[str, str]) -> Finding:
    pattern, instead = found
    return Finding(
        f"{function.kind.lower()} {function.signature}",
        "binds-session",
        f"{function.signature} sets {tenant} for the session.",
        "A pooled connection keeps it: whoever gets the connection next reads and writes that "
        "tenant's rows.",
        "-- It must be called in the transaction that it is for.\n"
        f"DO $$ BEGIN\n    EXECUTE regexp_replace(pg_get_functiondef({function.oid}),\n"
        f"        {literal(pattern)}, {literal(instead)}, 'gi');\nEND $$;",
    )


def falls_back(function: Function) -> bool:
    """Return whether a function that tells the tenant names one where none is bound."""
    tokens = words(function.body)
    for place, word in enumerate(tokens[:-1]):
        if word.upper() in {"RETURN", "THEN", "ELSE", "SELECT"} and _is_value(tokens[place + 1]):
            return True
        if word == "coalesce" and not _is_nothing(_last_argument(tokens[place + 1 :])):
            return True
    return False


def _is_value(word: str) -> bool:
    return word[0].isdigit() or (word[0] == "'" and word != "''")


def _last_argument(tokens: Sequence[str]) -> list[str]:
    depth, argument = 0, list[str]()
    for word in tokens:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0:
            break
        if word == "," and depth == 1:
            argument = []
        else:
            argument.append(word)
    return argument


def _is_nothing(argument: list[str]) -> bool:
    return argument[:1] in (["NULL"], ["''"], ["current_setting"], ["nullif"])
