"""Checks of row security itself: is it on, is it forced, and what do the policies let through?"""

from __future__ import annotations

from collections.abc import Iterator

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static import mending
from tenantry.ops.audit.static.expressions import parse, walk
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.policies import Verdict, judge
from tenantry.ops.audit.static.snapshot import PolicyState, Relation
from tenantry.schema.row_security import AUTH_ROLE, OWNER_ROLE, Policy
from tenantry.tenancy.catalog import quote

__all__ = ["policies", "row_security", "undeclared_tables"]


def row_security(ground: Ground) -> Iterator[Finding]:
    """Row security is on and forced on every table that holds tenants' rows."""
    for table in ground.tenant_tables:
        declared = ground.walls(table)
        wanted = declared.row_security if declared else None
        if ground.is_sheltered(table) or (wanted and not wanted.enabled):
            continue
        if not table.enabled:
            yield Finding(
                f"table {table.name}",
                "row-security-off",
                f"Row security is off on {table.name}.",
                "No policy of the table is looked at: every query reads and writes the rows of "
                "all tenants.",
                mending.wall(ground, table),
                table.name,
            )
        if not table.forced and (wanted is None or wanted.forced):
            yield Finding(
                f"table {table.name}",
                "row-security-not-forced",
                f"Row security is not forced on {table.name}.",
                f"Its policies do not bind {table.owner}, who owns it: views, functions and "
                "migrations of that role see every tenant.",
                mending.alter(table, "FORCE ROW LEVEL SECURITY"),
                table.name,
            )


def policies(ground: Ground) -> Iterator[Finding]:
    """Every policy compares the row's tenant with the bound one, or is declared."""
    for table in ground.tenant_tables:
        if ground.is_sheltered(table) or ground.lacks_tenant(table):
            continue
        declared = ground.walls(table)
        if declared is not None and declared.row_security is not None:
            yield from _against(ground, table, declared.row_security.policies)
        else:
            yield from _on_its_own(ground, table)


def _against(ground: Ground, table: Relation, declared: tuple[Policy, ...]) -> Iterator[Finding]:
    wanted = {policy.name: policy for policy in declared}
    found = {policy.name: policy for policy in table.policies}
    for name in sorted(wanted.keys() - found.keys()):
        yield Finding(
            f"table {table.name}",
            "policy-missing",
            f"{table.name} has no policy {name}, which is declared.",
            "What it lets through nobody sees; what it restricts is open.",
            mending.create_policy(table, wanted[name]),
            table.name,
        )
    for name, policy in found.items():
        if name in wanted:
            if not _same(ground, table, wanted[name], policy):
                yield _changed(ground, table, wanted[name], policy)
            continue
        verdict = _verdict(ground, table, policy)
        check, why = (verdict.check, verdict.why) if verdict else ("", "")
        yield Finding(
            f"table {table.name}",
            check or "policy-undeclared",
            f"{table.name} has a policy {name}, which is not declared: {_describe(policy)}.",
            why or "Policies add up: a row that one of them lets through is let through.",
            mending.drop_policy(table, name),
            table.name,
        )


def _changed(ground: Ground, table: Relation, wanted: Policy, found: PolicyState) -> Finding:
    verdict = _verdict(ground, table, found)
    others = sorted(set(found.roles) - set(wanted.roles))
    if others:
        verdict = Verdict("policy-for-others", f"It is for {', '.join(others)} as well.")
    return Finding(
        f"table {table.name}",
        verdict.check if verdict else "policy-differs",
        f"Policy {found.name} on {table.name} is not as it is declared: {_describe(found)}.",
        verdict.why if verdict else "It lets other rows through than it is declared to.",
        mending.create_policy(table, wanted),
        table.name,
    )


def _verdict(ground: Ground, table: Relation, policy: PolicyState) -> Verdict | None:
    # A restrictive policy only takes away.
    if not policy.permissive or not _concerns(ground, policy):
        return None
    return judge(ground, table, policy)


def _same(ground: Ground, table: Relation, wanted: Policy, found: PolicyState) -> bool:
    if (sorted(wanted.roles), wanted.command, wanted.permissive) != (
        sorted(found.roles),
        found.command,
        found.permissive,
    ):
        return False
    pairs = ((wanted.using, found.using), (wanted.check, found.check))
    if all(parse(a) == parse(b) for a, b in pairs):
        return True
    # What cannot be read, such as a sub-select, PostgreSQL prints in words of its own. Then it
    # counts that the tenant is compared wherever it is declared to be; `db check` compares all.
    unread = all(
        (a is None) == (b is None) and (parse(a) == parse(b) or _is_unread(a)) for a, b in pairs
    )
    meant = PolicyState(
        found.relation,
        found.name,
        found.permissive,
        found.command,
        found.roles,
        wanted.using,
        wanted.check,
    )
    verdict = judge(ground, table, found)
    return unread and verdict in {None, judge(ground, table, meant)}


def _is_unread(expression: str | None) -> bool:
    tree = parse(expression)
    return tree is not None and any(node.kind == "words" for node in walk(tree))


def _on_its_own(ground: Ground, table: Relation) -> Iterator[Finding]:
    relevant = [policy for policy in table.policies if _concerns(ground, policy)]
    # A restrictive policy guards those only to whom it applies: the application, or everybody.
    guarding = {"public", *ground.rights_of(ground.scope.app_role)}
    guarded = any(
        not policy.permissive
        and policy.command == "ALL"
        and not guarding.isdisjoint(policy.roles)
        and judge(ground, table, policy) is None
        for policy in relevant
    )
    permissive = [policy for policy in relevant if policy.permissive]
    if table.enabled and not permissive and ground.granted(table):
        yield Finding(
            f"table {table.name}",
            "policy-missing",
            f"{table.name} has no policy for {ground.scope.app_role}.",
            "The role may use the table and sees no row of it, so that sooner or later somebody "
            "opens it for everything.",
            mending.wall(ground, table),
            table.name,
        )
    if ground.scope.is_ours:
        yield from _of_ours(ground, table)
    for policy in permissive:
        verdict = None if guarded else judge(ground, table, policy)
        if verdict is not None:
            usual = {each.name for each in mending.policies(ground, table)}
            dropped = "" if policy.name in usual else mending.drop_policy(table, policy.name)
            yield Finding(
                f"table {table.name}",
                verdict.check,
                f"Policy {policy.name} on {table.name}: {_describe(policy)}.",
                verdict.why,
                mending.lines([dropped, mending.wall(ground, table)]),
                table.name,
            )


def _of_ours(ground: Ground, table: Relation) -> Iterator[Finding]:
    for policy in table.policies:
        roles = {OWNER_ROLE, AUTH_ROLE} & set(policy.roles)
        if policy.permissive and roles and judge(ground, table, policy) is not None:
            yield Finding(
                f"table {table.name}",
                "policy-open",
                f"Policy {policy.name} on {table.name} is for {mending.names(sorted(roles))}: "
                f"{_describe(policy)}.",
                "Views and functions of that role then show the rows of all tenants.",
                mending.drop_policy(table, policy.name),
                table.name,
            )


def _concerns(ground: Ground, policy: PolicyState) -> bool:
    return not ground.everyone.isdisjoint(policy.roles)


def _describe(policy: PolicyState) -> str:
    clauses = [
        f"{keyword} ({expression})"
        for keyword, expression in (("USING", policy.using), ("WITH CHECK", policy.check))
        if expression is not None
    ]
    kind = "" if policy.permissive else "restrictive, "
    return f"{kind}FOR {policy.command} TO {mending.names(policy.roles)} {' '.join(clauses)}"


def undeclared_tables(ground: Ground) -> Iterator[Finding]:
    """Every table is declared, shared on purpose, or walled in completely."""
    for table in ground.snapshot.relations.values():
        if not (table.is_table or table.kind == "f") or ground.is_expected(table):
            continue
        if table.key in ground.declared:
            continue
        if ground.is_shared(table):
            yield from _written_by_all(ground, table)
        elif table.kind == "f":
            continue
        elif ground.tenant_column(table) is None:
            yield from _without_tenant(ground, table)
        elif ground.scope.is_ours and not ground.is_sheltered(table) and not _is_walled(table):
            yield Finding(
                f"table {table.name}",
                "table-undeclared",
                f"No model declares {table.name}, and it has no walls of its own.",
                "Nobody keeps its row security up to date, and it holds rows of tenants.",
                mending.wall(ground, table),
                table.name,
            )


def _is_walled(table: Relation) -> bool:
    return table.enabled and table.forced and bool(table.policies)


def _without_tenant(ground: Ground, table: Relation) -> Iterator[Finding]:
    held = sorted(ground.granted(table) - {"owner"})
    closed = table.enabled and table.forced and not ground.granted(table)
    if closed or (not ground.scope.is_ours and not held):
        return
    reach = f"{ground.scope.app_role} may {', '.join(held).lower()}" if held else "it is nobody's"
    yield Finding(
        f"table {table.name}",
        "table-undeclared",
        f"No model declares {table.name}, it has no column {quote(ground.scope.tenant_column)}, "
        f"and {reach}.",
        "Without a tenant in its rows nothing can keep them apart: what one tenant's requests "
        "write there, all may see.",
        mending.lines(
            [
                f"-- Decide first: --shared {table.name} accepts that all tenants may read it.",
                _revoke_all(ground, table),
                mending.alter(table, "ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY")
                if ground.scope.is_ours
                else "",
            ]
        ),
        table.name,
    )


def _revoke_all(ground: Ground, table: Relation) -> str:
    roles = sorted({each.role for each in table.privileges} & ground.everyone)
    return mending.revoke("ALL", f"TABLE {table.name}", roles, grantable=True) if roles else ""


def _written_by_all(ground: Ground, table: Relation) -> Iterator[Finding]:
    written = sorted(ground.granted(table) - {"SELECT", "owner"})
    if written:
        roles = sorted({each.role for each in table.privileges} & ground.everyone)
        yield Finding(
            f"table {table.name}",
            "shared-table-writable",
            f"All tenants share {table.name}, and {ground.scope.app_role} holds "
            f"{', '.join(written)} on it.",
            "What one tenant's requests write there, all tenants read.",
            mending.revoke(", ".join(written), f"TABLE {table.name}", roles, grantable=True),
            table.name,
        )
