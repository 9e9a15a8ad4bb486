"""What a policy's expressions let through: the tenant's own rows, or more."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tenantry.ops.audit.scope import OUR_EXPRESSION
from tenantry.ops.audit.static.expressions import Node, conjuncts, parse, uncast, walk
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.snapshot import Function, PolicyState, Relation
from tenantry.tenancy.catalog import quote

__all__ = ["Verdict", "is_bound_tenant", "judge", "tenant_functions"]


class Verdict(NamedTuple):
    """What is wrong with a policy: the check's name, and why it matters."""

    check: str
    why: str


_OPEN: Final = Verdict(
    "policy-open", "It does not compare the row's tenant, so rows of all tenants pass."
)
_OPEN_CHECK: Final = Verdict(
    "policy-without-check",
    "Rows may be written for, or moved to, other tenants: WITH CHECK does not compare the tenant.",
)
_NO_CHECK: Final = Verdict(
    "policy-without-check",
    "It has no WITH CHECK of its own, so what may be written hangs on what may be read: whoever "
    "widens USING opens both.",
)
_INDIRECT: Final = Verdict(
    "policy-not-direct",
    "It does not compare the tenant directly. An OR, coalesce or IS NULL lets rows through when "
    "no tenant is bound; a sub-select or a cast of the column hides the value from the planner, "
    "which then cannot use the indexes that lead with the tenant.",
)


def judge(ground: Ground, table: Relation, policy: PolicyState) -> Verdict | None:
    """Return what is wrong with ``policy`` on a table of tenants, None if nothing."""
    column = ground.tenant_column(table)
    if column is None:
        return None
    reads = policy.command != "INSERT"
    if reads and (found := _judge(ground, table, column, policy.using, missing=_OPEN)):
        return found
    if policy.command in {"SELECT", "DELETE"}:
        return None
    if policy.check is None:
        return _NO_CHECK
    found = _judge(ground, table, column, policy.check, missing=_OPEN_CHECK)
    return _OPEN_CHECK if found is _OPEN else found


def _judge(
    ground: Ground, table: Relation, column: str, expression: str | None, *, missing: Verdict
) -> Verdict | None:
    tree = parse(expression)
    if tree is None:
        return missing
    if any(_is_direct(ground, table, column, each) for each in conjuncts(tree)):
        return None
    text = " ".join(f"{node.kind} {node.text}" for node in walk(tree))
    mentions = re.search(rf"(?<![\w.]){re.escape(quote(column))}(?!\w)", text)
    return _INDIRECT if mentions else missing


def _is_direct(ground: Ground, table: Relation, column: str, node: Node) -> bool:
    if node.kind != "=":
        return False
    for own, other in (node.parts, node.parts[::-1]):
        if _is_column(table, column, own) and is_bound_tenant(ground, other):
            return True
    return False


def _is_column(table: Relation, column: str, node: Node) -> bool:
    # varchar has no operators of its own: PostgreSQL compares it as text, and says so.
    if node.kind == "cast" and table.columns[column].type.startswith("character varying"):
        (node,) = node.parts
    return node.kind == "name" and node.text in {
        quote(column),
        f'"{column}"',
        f"{quote(table.relname)}.{quote(column)}",
    }


def is_bound_tenant(ground: Ground, node: Node) -> bool:
    """Return whether ``node`` reads the tenant that the transaction is bound to."""
    node = uncast(node)
    if node.kind != "call":
        return False
    if node.text == "nullif" and len(node.parts) == 2 and node.parts[1].text == "''":  # noqa: PLR2004
        node = uncast(node.parts[0])
    if node.text == "current_setting" and node.parts:
        name = node.parts[0].text.strip("'")
        return name == ground.scope.tenant_setting
    if node.parts:
        return False
    called = f"{node.text}()"
    if ground.scope.is_ours:
        return called == OUR_EXPRESSION
    return any(each.signature == called for each in tenant_functions(ground))


def tenant_functions(ground: Ground) -> list[Function]:
    """Return the functions without arguments that read the tenant's setting."""
    setting = ground.scope.tenant_setting
    return [
        each
        for each in ground.snapshot.functions
        if setting and each.signature.endswith("()") and f"'{setting}'" in each.body
    ]
