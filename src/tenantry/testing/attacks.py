"""What the second tenant tries with an operation: each way to say "the first tenant's"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from tenantry.testing.markers import BEGINNING, random_like
from tenantry.testing.openapi import Operation, Slot
from tenantry.testing.requesting import (
    Filled,
    Origin,
    Rows,
    accepts,
    candidates,
    ids_by_name,
    is_cursor,
    is_meant,
    json_text,
    messages_for,
)

__all__ = ["Attack", "attacks_on"]

_HEADERS: Final = (
    "X-Tenant-ID",
    "X-Tenant",
    "X-Tenant-Slug",
    "Tenant-ID",
    "X-Organization-ID",
    "X-Org-ID",
    "X-Account-ID",
    "X-Workspace-ID",
    "X-Customer-ID",
    "X-Company-ID",
)
_PAGE: Final = re.compile(r"(^|_)(page|offset|skip|start)(_|$)")
_SIZE: Final = re.compile(r"(^|_)(limit|size|count|per_page|top|first)$")
_FIELDS: Final = (
    *("tenant_id", "tenant", "tenantId", "org_id", "org", "organization_id", "organization"),
    *("account_id", "account", "workspace_id", "workspace", "customer_id", "company_id", "company"),
)
_TENANTS: Final = (("tenants", "id"), ("tenants", "slug"))
_MEDIA: Final = ("application/json", "text/csv", "text/html")
"""What answers are asked for to be, where a browser or a program might."""
_EACH: Final = 2
"""Values that are tried in a slot whose meaning is known; where it is not, more."""
_UNKNOWN: Final = 6
_TABLES: Final = 20
"""Tables of which one value is tried where any may be meant."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A request as the second tenant, and what it is compared with.

    Args:
        what: What is the first tenant's in it.
        filled: The request.
        controls: The same with values that are nobody's; empty where there is none.
    """

    what: str
    filled: Filled
    controls: tuple[Filled, ...] = ()


def attacks_on(
    operation: Operation, base: Filled, theirs: Rows, mine: Rows, host: str | None
) -> Iterator[Attack]:
    """Yield what to try.

    Args:
        operation: On what.
        base: A request that works with values of the second tenant's own, or is likely to.
        theirs: The first tenant's values.
        mine: The second's.
        host: The host of a tenant's own, with ``{slug}``.
    """
    if operation.is_socket:
        yield _said(operation, base, theirs)
        if not operation.messages:
            # What the connection itself gives away needs not all of what may be understood.
            guessed = base.messages
            base = replace(base, messages=(*guessed[:1], *guessed[-1:]))
    known = [slot for slot in operation.slots if slot in base.origins]
    if len(known) > 1:
        yield from _all_at_once(known, base, theirs)
    for slot in operation.slots:
        yield from _each_in(operation, slot, base, theirs)
    yield from _pages(operation, base, mine)
    yield from _searches(operation, base)
    yield from _in_json(operation, base, theirs)
    yield from _choices(operation, base)
    yield from _taken(operation, base, theirs)
    yield from _in_other_forms(operation, base, theirs)
    yield from _undeclared(operation, base, theirs, host or "{slug}.testserver")
    yield from _undeclared_ids(operation, base, theirs)


def _all_at_once(known: list[Slot], base: Filled, theirs: Rows) -> Iterator[Attack]:
    filled, other, another = base, base, base
    for slot in known:
        origin = base.origins[slot]
        if origin not in theirs:
            return
        value = theirs[origin][0]
        filled = filled.but(slot, value, origin)
        other = other.but(slot, random_like(value), origin)
        another = another.but(slot, random_like(value), origin)
    names = ", ".join(f"{slot} = {_name(base.origins[slot])}" for slot in known)
    yield Attack(f"{names} of the other tenant", filled, (other, another))


def _each_in(operation: Operation, slot: Slot, base: Filled, theirs: Rows) -> Iterator[Attack]:
    origin = base.origins.get(slot)
    found: list[tuple[Any, Origin]] = []
    if origin is not None and origin in theirs:
        found = [(value, origin) for value in _ends(theirs[origin])]
    if origin is None or not (found and is_meant(operation, slot, origin)):
        likely = candidates(operation, slot, theirs)[:_UNKNOWN]
        of_each = candidates(operation, slot, theirs, newest=1, most=_TABLES)
        found += [each for each in (*likely, *of_each) if each not in found]
        if slot.where != "path" and slot.schema.get("type", "string") == "string":
            # Whatever it is called, it may be what the tenant is taken from.
            known = {where for _, where in found}
            found += [
                (theirs[o][0], o)
                for o in _TENANTS
                if o not in known and accepts(slot.schema, theirs[o][0])
            ]
    own = base.values.get(slot)
    for value, where in found:
        filled = base.but(slot, value, where)
        controls = [base.but(slot, random_like(value), where) for _ in range(2)]
        yield Attack(f"{slot} = {_name(where)} of the other tenant", filled, tuple(controls))
    if slot.schema.get("type") == "array" and own is not None and found:
        # What looks at the first of several may take the rest for granted.
        names = " and ".join(dict.fromkeys(_name(where) for _, where in found[:_UNKNOWN]))
        values = [value for value, _ in found]
        invented = ([own, *map(random_like, values)] for _ in range(2))
        yield Attack(
            f"{slot} = one's own and {names} of the other tenant",
            base.but(slot, [own, *values], found[0][1]),
            tuple(base.but(slot, each, found[0][1]) for each in invented),
        )


def _ends(values: list[Any]) -> list[Any]:
    return list(dict.fromkeys([values[0], values[-1]]))[:_EACH]


def _said(operation: Operation, base: Filled, theirs: Rows) -> Attack:
    """Return a conversation about what is the first tenant's."""
    controls = (_nobodys(theirs) for _ in range(2))
    return Attack(
        "messages with ids of the other tenant",
        replace(base, messages=messages_for(theirs, operation.messages)),
        tuple(replace(base, messages=messages_for(e, operation.messages)) for e in controls),
    )


def _nobodys(rows: Rows) -> Rows:
    return {origin: [random_like(each) for each in values] for origin, values in rows.items()}


def _in_json(operation: Operation, base: Filled, theirs: Rows) -> Iterator[Attack]:
    """Yield requests with ids within JSON in a parameter, as filters are often sent."""
    for slot in operation.slots:
        if slot.where == "query" and _is_text(slot):
            made, *others = (
                base.but(slot, json_text(operation, slot, rows), ("", ""))
                for rows in (theirs, _nobodys(theirs), _nobodys(theirs))
            )
            yield Attack(f"{slot} = JSON with ids of the other tenant", made, tuple(others))


def _in_other_forms(operation: Operation, base: Filled, theirs: Rows) -> Iterator[Attack]:
    """Yield requests for other media types: each may be made by a query of its own."""
    if not operation.is_safe:
        return
    named = base
    for slot, origin in base.origins.items():
        if origin in theirs:
            named = named.but(slot, theirs[origin][0], origin)
    for media in _MEDIA:
        for filled in (base,) if named is base else (base, named):
            headers = {**filled.headers, "Accept": media}
            yield Attack(f"header Accept = {media}", replace(filled, headers=headers))


def _pages(operation: Operation, base: Filled, mine: Rows) -> Iterator[Attack]:
    """Yield requests for other parts of a list than the first: each page has to be the tenant's."""
    for slot in operation.slots:
        if slot.where == "query" and is_cursor(slot):
            for value, where in candidates(operation, slot, mine):
                yield Attack(f"{slot} = a cursor of one's own", base.but(slot, value, where))
        if slot.where != "query" or slot.schema.get("type") not in {"integer", "number"}:
            continue
        if _PAGE.search(slot.field):
            tried = [1, 2, 3]
        elif _SIZE.search(slot.field):
            tried = [slot.schema.get("maximum", 1000)]
        else:
            continue
        for number in tried:
            yield Attack(f"{slot} = {number}", base.but(slot, number, ("", "")))


def _searches(operation: Operation, base: Filled) -> Iterator[Attack]:
    """Yield requests for what every text of the first tenant's has in it."""
    for slot in operation.slots:
        if slot.where == "query" and _is_text(slot):
            yield Attack(f"{slot} = a part of every text", base.but(slot, BEGINNING, ("", "")))


def _choices(operation: Operation, base: Filled) -> Iterator[Attack]:
    """Yield requests for more than one gets without asking: no choice may be for all tenants."""
    for slot in operation.slots:
        if slot.where != "query":
            continue
        options = ["true"] if slot.schema.get("type") == "boolean" else slot.schema.get("enum", [])
        for option in options[:_UNKNOWN]:
            if option != base.values.get(slot):
                yield Attack(f"{slot} = {option}", base.but(slot, option, ("", "")))


def _is_text(slot: Slot) -> bool:
    schema = slot.schema
    free = not (schema.get("enum") or schema.get("format") or schema.get("pattern"))
    return free and schema.get("type", "string") == "string"


def _taken(operation: Operation, base: Filled, theirs: Rows) -> Iterator[Attack]:
    """Yield requests with a text that the first tenant has: if it must be unique, it is taken."""
    schemas = operation.schemas
    references = {slot.name for slot in operation.slots}
    for name, declared in schemas.resolve(operation.body).get("properties", {}).items():
        schema = schemas.resolve(declared)
        if name in references or schema.get("enum") or schema.get("type") != "string":
            continue
        origins = [o for o in theirs if o[1] == name and isinstance(theirs[o][0], str)]
        for origin in origins[:_UNKNOWN]:
            value = theirs[origin][0]
            if len(value) <= schema.get("maxLength", len(value)):
                yield Attack(
                    f"body {name} = {_name(origin)} of the other tenant",
                    _with(base, name, value),
                    tuple(_with(base, name, random_like(value)) for _ in range(2)),
                )


def _with(base: Filled, name: str, value: str) -> Filled:
    return replace(base, body={**base.body, name: value})


def _undeclared(operation: Operation, base: Filled, theirs: Rows, host: str) -> Iterator[Attack]:
    """Yield requests that claim to be the first tenant's where nothing is declared."""
    for column in ("id", "slug"):
        value = str(theirs["tenants", column][0])
        claim = f"tenants.{column} of the other tenant"
        yield Attack(
            f"undeclared headers {', '.join(_HEADERS)} = {claim}",
            replace(base, headers=dict.fromkeys(_HEADERS, value)),
        )
        names = [n for n in _FIELDS if all(s.name != n for s in operation.slots)]
        extra = dict.fromkeys(names, value)
        yield Attack(
            f"undeclared query parameters {', '.join(names)} = {claim}",
            replace(base, query=extra),
        )
        yield Attack(
            f"undeclared cookies {', '.join(names)} = {claim}", replace(base, cookies=extra)
        )
        if operation.body is not None:
            yield Attack(
                f"undeclared fields {', '.join(names)} of the body = {claim}",
                replace(base, body={**extra, **base.body}),
            )
    theirs_alone = host.format(slug=theirs["tenants", "slug"][0])
    headers = dict.fromkeys(("Host", "X-Forwarded-Host"), theirs_alone)
    yield Attack("the other tenant's host name", replace(base, headers=headers))


def _undeclared_ids(operation: Operation, base: Filled, theirs: Rows) -> Iterator[Attack]:
    """Yield requests with an id of each table where nothing is declared: parameters and headers."""
    declared = {slot.name.lower() for slot in operation.slots}
    ids = {one: each for one, each in ids_by_name(theirs).items() if one != "tenant"}
    query = {f"{one}_id": each for one, each in ids.items()}
    headers = {f"X-{one.replace('_', '-').title()}-ID": each for one, each in ids.items()}
    query, headers = (
        {name: each for name, each in given.items() if name.lower() not in declared}
        for given in (query, headers)
    )
    if query:
        yield Attack(
            f"undeclared query parameters such as {next(iter(query))} = ids of the other tenant",
            replace(base, query={**base.query, **query}),
        )
    if headers:
        yield Attack(
            f"undeclared headers such as {next(iter(headers))} = ids of the other tenant",
            replace(base, headers={**base.headers, **headers}),
        )


def _name(origin: Origin) -> str:
    return ".".join(origin)
