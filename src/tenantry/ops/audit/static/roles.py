"""Checks of roles: nobody whom policies do not bind is the application, or can become it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static.ground import ABOVE, POWERFUL, Ground
from tenantry.ops.audit.static.snapshot import Membership, Setting
from tenantry.ops.vector_tuning import VECTOR_SEARCH
from tenantry.schema.row_security import APP_ROLE, AUTH_ROLE, OWNER_ROLE
from tenantry.tenancy.catalog import quote

__all__ = ["attributes", "memberships", "settings"]

_ATTRIBUTES: Final = {
    "SUPERUSER": "a superuser is asked for no policy and no grant",
    "BYPASSRLS": "no policy is asked for it",
    "CREATEROLE": "it can make itself a member of others",
    "CREATEDB": "it can copy this database where it is the template",
    "REPLICATION": "it can copy the whole server",
}


def attributes(ground: Ground) -> Iterator[Finding]:
    """No role of the application, and none of ours, has an attribute that opens walls."""
    ours = set(ABOVE) if ground.scope.is_ours else set()
    for name in sorted({*ground.reach, *ours, *ground.connecting}):
        role = ground.snapshot.roles.get(name)
        if role is None:
            continue
        excess = list(role.powers)
        if name not in ground.reach and name not in ours:
            excess = [each for each in excess if each != "CREATEDB"]
        if name == OWNER_ROLE or name not in ours:
            whys = [why for word, why in _ATTRIBUTES.items() if word in excess]
        else:
            whys = ["it is to see rows by policies alone"]
        if excess:
            yield Finding(
                f"role {name}",
                "role-bypasses",
                f"Role {name} has {', '.join(excess)}{_relation(ground, name)}.",
                f"{'; '.join(whys)}.".capitalize(),
                f"ALTER ROLE {quote(name)} {' '.join('NO' + each for each in excess)};",
            )
        if role.logs_in and name in ours:
            yield Finding(
                f"role {name}",
                "role-logs-in",
                f"Role {name} may log in.",
                "It sees more than one tenant, or owns the walls. It is to be become, on purpose, "
                "and not to be a password that an application holds.",
                f"ALTER ROLE {quote(name)} NOLOGIN;",
            )


def _relation(ground: Ground, name: str) -> str:
    app = ground.scope.app_role
    if name == app:
        return ""
    if name in ground.reach:
        return f", and {app} can become it"
    return f", and it has the rights of {app}" if name in ground.connecting else ""


def memberships(ground: Ground) -> Iterator[Finding]:
    """The application is a member of nothing that sees more, directly or through others."""
    ours = {*ABOVE, ground.scope.app_role} if ground.scope.is_ours else set()
    for each in ground.snapshot.memberships:
        if ground.scope.is_ours and each.role == APP_ROLE and each.member not in ABOVE:
            # A role of one's own may be the application's, and not make others so.
            if each.admin and each.member in ground.connecting and not _makes_roles(ground, each):
                yield _admin(each)
            continue
        if each.member in ground.reach or each.member in ours:
            why = _reason(ground, each.role)
            if why is None and not ground.scope.is_ours:
                continue
            why = why or "It is not declared, and what the role may do nobody has looked at."
        elif each.member in ground.connecting and each.role != ground.scope.app_role:
            why = _reason(ground, each.role)
            if why is None:
                continue
        elif _only_looks_up(ground, each):
            why = (
                f"{each.role} reads the sessions and keys of all tenants for the functions that "
                "look them up. Nobody needs to become it but who migrates."
            )
        elif _stands_above(ground, each):
            why = (
                f"{each.member} logs in and sees more than one tenant in every statement. Whoever "
                "operates becomes another role on purpose, with SET ROLE."
            )
        else:
            continue
        yield _membership(each, why)


def _makes_roles(ground: Ground, each: Membership) -> bool:
    member = ground.snapshot.roles[each.member]
    return member.superuser or member.creates_roles


def _only_looks_up(ground: Ground, each: Membership) -> bool:
    """Return whether a role that does not migrate can become the owner of the look-ups."""
    return (
        ground.scope.is_ours
        and each.role == AUTH_ROLE
        and not _makes_roles(ground, each)
        and each.member != ground.snapshot.database.session_role
        and OWNER_ROLE not in ground.above(each.member)
    )


def _stands_above(ground: Ground, each: Membership) -> bool:
    """Return whether a role that is no administrator's has the rights of one of ours at once."""
    if not ground.scope.is_ours or not each.inherits or _makes_roles(ground, each):
        return False
    if each.member == ground.snapshot.database.session_role:
        return False
    return ground.snapshot.roles[each.member].logs_in and not ground.rights_of(
        each.role
    ).isdisjoint(ABOVE)


def _admin(each: Membership) -> Finding:
    role, member = quote(each.role), quote(each.member)
    return Finding(
        f"role {each.member}",
        "role-membership",
        f"Role {each.member} is a member of {each.role} WITH ADMIN OPTION.",
        "It can make any role the application.",
        f"REVOKE ADMIN OPTION FOR {role} FROM {member} GRANTED BY {quote(each.grantor)} CASCADE;",
    )


def _reason(ground: Ground, role: str) -> str | None:
    reached = sorted(ground.above(role))
    for name in reached:
        if name in POWERFUL:
            return f"A member of {name} {POWERFUL[name]}; no policy is asked for that."
    for name in reached:
        if ground.scope.is_ours and name in ABOVE:
            return f"{name} sees more than one tenant, or owns the walls."
        found = ground.snapshot.roles.get(name)
        if found and found.powers:
            return f"{name} has {', '.join(found.powers)}: no policy binds it."
        if any(each.owner == name for each in ground.tenant_tables):
            return f"{name} owns tables with tenants' rows, and may switch their walls off."
    return None


def _membership(each: Membership, why: str) -> Finding:
    admin = " WITH ADMIN OPTION" if each.admin else ""
    grantor = f" GRANTED BY {quote(each.grantor)}"
    return Finding(
        f"role {each.member}",
        "role-membership",
        f"Role {each.member} is a member of {each.role}{admin}.",
        why,
        f"REVOKE {quote(each.role)} FROM {quote(each.member)}{grantor} CASCADE;",
    )


_ALWAYS: Final = {
    "role": "Every connection becomes that role, whoever logs in.",
    "row_security": "Policies are not applied as they are meant to be.",
    "session_replication_role": "As a replica it checks no foreign key and runs no trigger.",
    "lo_compat_privileges": "Every role reads and writes every large object.",
}
_SCAN: Final = (
    "A vector index returns the nearest rows of all tenants, and the policy filters them: one "
    "tenant's documents push another's out of its results."
)
_PATH: Final = "Names are looked up elsewhere first: tables and functions can be shadowed."
_TENANT: Final = (
    "Every connection starts with a tenant, so a request that forgot to bind its own reads and "
    "writes that one's rows."
)


def settings(ground: Ground) -> Iterator[Finding]:
    """No setting of a role or the database binds a tenant or changes what policies mean."""
    database = quote(ground.snapshot.database.name)
    known = {"", *ground.everyone, *ground.connecting, *(ABOVE if ground.scope.is_ours else ())}
    for each in ground.snapshot.settings:
        why = _setting_why(ground, each) if each.role in known else None
        if why is None:
            continue
        inside = f" IN DATABASE {database}" if each.in_database else ""
        if each.role:
            subject, whose = f"role {each.role}", f"ROLE {quote(each.role)}{inside}"
        elif each.in_database:
            subject, whose = f"database {database}", f"DATABASE {database}"
        else:
            subject, whose = "server", "ROLE ALL"
        yield Finding(
            subject,
            "setting-tenant" if why is _TENANT else "setting",
            f"For {subject}, {each.name} is set to {each.value}.",
            why,
            f"ALTER {whose} RESET {'.'.join(map(quote, each.name.split('.')))};",
        )
    yield from _bound(ground)
    if ground.scope.is_ours and not _scans_on(ground):
        yield Finding(
            f"database {database}",
            "vector-scan",
            "hnsw.iterative_scan is not set for the database.",
            _SCAN,
            f"ALTER DATABASE {database} SET hnsw.iterative_scan = strict_order;",
        )


def _setting_why(ground: Ground, each: Setting) -> str | None:
    tenant, ours = (ground.scope.tenant_setting or "").lower(), ground.scope.is_ours
    name = each.name.lower()  # PostgreSQL does not tell apart how a setting is spelled
    if ours and name == VECTOR_SEARCH:
        return None  # it says how a search goes about it, and not whose rows it sees
    if name == tenant or (ours and name.startswith("tenantry.")):
        return _TENANT
    if each.name == "hnsw.iterative_scan":
        return _SCAN if ours and each.role in ground.everyone and each.value == "off" else None
    if each.name == "search_path":
        return _PATH if _is_bent(ground, each.value) else None
    if each.value in _HARMLESS.get(each.name, {ground.scope.app_role}):
        return None
    return _ALWAYS.get(each.name)


_HARMLESS: Final = {
    "lo_compat_privileges": {"off", "false", "0", "no"},
    "row_security": {"on", "true", "1", "yes"},
    "session_replication_role": {"origin", "local"},
}


def _is_bent(ground: Ground, value: str) -> bool:
    if ground.scope.is_ours:
        return value.replace(" ", "").replace('"', "") not in {"$user,public", "public"}
    writable = {
        each.name
        for each in ground.snapshot.strangers
        if each.kind == "schema" and each.privilege == "CREATE" and each.role in ground.everyone
    }
    named = {part.strip().strip('"') for part in value.split(",")}
    return bool(named & writable)


def _scans_on(ground: Ground) -> bool:
    return any(
        not each.role
        and each.in_database
        and each.name == "hnsw.iterative_scan"
        and each.value in {"strict_order", "relaxed_order"}
        for each in ground.snapshot.settings
    )


def _bound(ground: Ground) -> Iterator[Finding]:
    tenant, database = ground.scope.tenant_setting, ground.snapshot.database
    covered = any(each.name.lower() == (tenant or "").lower() for each in ground.snapshot.settings)
    if tenant is None or database.bound_tenant is None or covered:
        return
    yield Finding(
        "server",
        "setting-tenant",
        f"A new connection has {tenant} set already.",
        _TENANT,
        f"-- Unless it is an option of the connection itself.\n"
        f"ALTER SYSTEM RESET {tenant};\nSELECT pg_reload_conf();",
    )
