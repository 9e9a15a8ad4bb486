"""Checks of functions: those that act for another role, those of ours, and those that shadow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static import mending
from tenantry.ops.audit.static.binding import falls_back
from tenantry.ops.audit.static.expressions import parse, words
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.policies import tenant_functions
from tenantry.ops.audit.static.snapshot import Function
from tenantry.schema.row_security import OWNER_ROLE
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.functions import FUNCTIONS, SqlFunction

__all__ = ["definers", "leakproof", "our_functions", "shadowing", "tenant_function", "untrusted"]

_FIRST_OID: Final = 16384
"""Below it are PostgreSQL's own."""
_SAFE_PATH: Final = "SET search_path = pg_catalog, pg_temp"


def _subject(function: Function) -> str:
    return f"{function.kind.lower()} {function.signature}"


def _who(function: Function, ground: Ground) -> list[str]:
    """Return those of the application's roles that may execute ``function``."""
    return sorted({each.rstrip("*") for each in function.executors} & ground.everyone)


def _is_ours(ground: Ground, function: Function) -> bool:
    return ground.scope.is_ours and function.schema == "tenantry"


def definers(ground: Ground) -> Iterator[Finding]:
    """A function that acts for its owner has a pinned path, and is not everyone's."""
    for function in ground.snapshot.functions:
        if not function.definer or function.extension:
            continue
        if function.schema == "pg_catalog" and function.oid < _FIRST_OID:
            yield _built_in(function)
            continue
        declared = _is_ours(ground, function) and any(
            each.signature == function.signature for each in FUNCTIONS
        )
        if declared:
            continue
        problem = _path_problem(ground, function)
        if problem:
            yield Finding(
                _subject(function),
                "definer-path",
                f"{function.signature} is SECURITY DEFINER, and {problem}.",
                f"Whoever calls it can have it use a table or an operator of their own, with the "
                f"rights of {function.owner}.",
                f"ALTER {function.kind} {function.signature} {_SAFE_PATH};\n"
                "-- Names in its body that are not qualified must be now.",
            )
        callers = _who(function, ground)
        if "public" in callers or (callers and _acts_for_all(ground, function)):
            yield Finding(
                _subject(function),
                "definer-open",
                f"{', '.join(callers).replace('public', 'PUBLIC')} may execute "
                f"{function.signature}, which acts as {function.owner}.",
                "It does what its owner may, and no policy asks which tenant called it.",
                _close(function, callers),
            )


def _built_in(function: Function) -> Finding:
    return Finding(
        _subject(function),
        "definer-open",
        f"{function.signature} of PostgreSQL's own has been made SECURITY DEFINER.",
        f"Whoever calls it acts as {function.owner}, whom no policy binds.",
        f"ALTER {function.kind} {function.signature} SECURITY INVOKER;",
    )


def _close(function: Function, callers: list[str]) -> str:
    return mending.revoke("EXECUTE", f"{function.kind} {function.signature}", callers)


def _acts_for_all(ground: Ground, function: Function) -> bool:
    # Our owner sees no row, and may switch the walls off.
    if ground.sees_everything(function.owner) or (
        ground.scope.is_ours and OWNER_ROLE in ground.above(function.owner)
    ):
        return True
    return any(not table.forced and table.owner == function.owner for table in ground.tenant_tables)


def _path_problem(ground: Ground, function: Function) -> str | None:
    setting = next((each for each in function.config if each.startswith("search_path=")), None)
    if setting is None:
        return "its search_path is the caller's"
    path = [part.strip().strip('"') for part in setting.partition("=")[2].split(",")]
    path = [part for part in path if part]
    if "$user" in path:
        return "its search_path depends on who calls it"
    if "pg_temp" in path[:-1]:
        return "its search_path looks at temporary tables first"
    writable = {
        each.name
        for each in ground.snapshot.strangers
        if each.kind == "schema" and each.privilege == "CREATE" and each.role in ground.everyone
    }
    if open_ := sorted(writable & set(path)):
        return f"its search_path has {open_[0]}, in which the caller may create"
    if "pg_temp" not in path and set(path) - {"pg_catalog"} and _may_create_temporary(ground):
        return "its search_path does not put pg_temp last, so temporary tables come first"
    return None


def _may_create_temporary(ground: Ground) -> bool:
    return any(
        each.kind == "database" and each.privilege == "TEMPORARY" and each.role in ground.everyone
        for each in ground.snapshot.strangers
    )


def leakproof(ground: Ground) -> Iterator[Finding]:
    """No function is called leakproof that PostgreSQL did not come with as such."""
    for function in ground.snapshot.functions:
        if function.leakproof:
            yield Finding(
                _subject(function),
                "function-leakproof",
                f"{function.signature} is marked LEAKPROOF.",
                "PostgreSQL then calls it before the policy, with rows of every tenant: what it "
                "says in an error, or how long it takes, is about all of them.",
                f"ALTER {function.kind} {function.signature} NOT LEAKPROOF;",
            )


def untrusted(ground: Ground) -> Iterator[Finding]:
    """The application calls nothing that runs outside of the database or reaches other servers."""
    for function in ground.snapshot.functions:
        callers = _who(function, ground)
        if not callers or function.schema == "pg_catalog" or function.kind == "AGGREGATE":
            continue
        if function.extension in {"dblink", "adminpack", "pageinspect", "pg_read_file"}:
            what = f"is of the extension {function.extension}"
        elif function.extension is None and not function.trusted:
            what = f"is written in {function.language}, which is not trusted"
        else:
            continue
        yield Finding(
            _subject(function),
            "function-outside",
            f"{', '.join(callers).replace('public', 'PUBLIC')} may execute {function.signature}, "
            f"which {what}.",
            "It reaches files, programs or other servers as the server itself; no policy is "
            "asked there.",
            _close(function, callers),
        )


def shadowing(ground: Ground) -> Iterator[Finding]:
    """No function, operator or cast takes the place of one of PostgreSQL's own."""
    for function in ground.snapshot.functions:
        if function.shadows and function.extension is None and function.schema != "pg_catalog":
            name = quote(f"{function.name}_aside"[:63])
            yield Finding(
                _subject(function),
                "function-shadows",
                f"{function.signature} has the name of a function of PostgreSQL's.",
                "Where its argument types fit better it is called instead, in every query that "
                "finds it on its path, and sees what was meant for the other.",
                f"ALTER {function.kind} {function.signature} RENAME TO {name};",
            )
    for operator in ground.snapshot.operators:
        yield Finding(
            f"{operator.kind} {operator.name}",
            f"{operator.kind}-shadows",
            f"The {operator.kind} {operator.name} is for types of PostgreSQL's own.",
            "It changes what a comparison means: an = that is always true lets every row through.",
            f"DROP {operator.kind.upper()} {operator.name};",
        )


def tenant_function(ground: Ground) -> Iterator[Finding]:
    """The function that tells the tenant is one the planner can look into, and only reads."""
    for function in tenant_functions(ground):
        if ground.scope.is_ours:
            continue
        if not any(function.signature in (each or "") for each in _expressions(ground)):
            continue
        if function.volatility != "s":
            yield Finding(
                _subject(function),
                "tenant-function",
                f"{function.signature}, which policies call, is "
                f"{'VOLATILE' if function.volatility == 'v' else 'IMMUTABLE'}.",
                _VOLATILITY[function.volatility],
                f"ALTER {function.kind} {function.signature} STABLE;",
            )
        if falls_back(function):
            yield Finding(
                _subject(function),
                "tenant-function",
                f"{function.signature}, which policies call, names a tenant where none is bound.",
                "A request that forgot to bind its own reads and writes that one's rows.",
                f"CREATE OR REPLACE FUNCTION {function.signature} RETURNS {function.returns}\n"
                f"    LANGUAGE sql STABLE PARALLEL SAFE\n"
                f"    RETURN nullif(pg_catalog.current_setting("
                f"{mending.literal(ground.scope.tenant_setting or '')}, true), '')"
                f"::{function.returns};",
            )


_VOLATILITY: Final = {
    "v": "It is called for every row and no index can be used with it, so somebody will take it "
    "out of a policy.",
    "i": "PostgreSQL then calls it once and keeps its answer in a plan: the next tenant on the "
    "connection gets the rows of the last.",
}


def _expressions(ground: Ground) -> Iterator[str | None]:
    for table in ground.snapshot.tables:
        for policy in table.policies:
            yield policy.using
            yield policy.check


def our_functions(ground: Ground) -> Iterator[Finding]:
    """The functions in schema ``tenantry`` are ours, and as we made them."""
    if not ground.scope.is_ours:
        return
    found = {each.call: each for each in ground.snapshot.functions if _is_ours(ground, each)}
    for declared in FUNCTIONS:
        actual = found.pop(declared.call, None)
        difference = _difference(declared, actual) if actual else "is missing"
        if difference:
            yield Finding(
                f"function {declared.signature}",
                "function-differs" if actual else "function-missing",
                f"{declared.signature} {difference}.",
                "Every policy rests on these functions: one that answers otherwise moves every "
                "wall at once.",
                _restore(declared, actual),
            )
    for _, function in sorted(found.items()):
        if function.extension:
            continue
        yield Finding(
            _subject(function),
            "function-undeclared",
            f"{function.signature} is in schema tenantry, and not tenantry's.",
            "The schema holds what the walls are made of, and everybody may look into it.",
            f"DROP {function.kind} {function.signature};",
        )


def _restore(declared: SqlFunction, actual: Function | None) -> str:
    owner = f"ALTER FUNCTION {declared.signature} OWNER TO {declared.owner};"
    extra = []
    if actual is not None:
        allowed = _executors(declared)
        extra = sorted({each.rstrip("*") for each in actual.executors} - allowed)
        passed_on = sorted(each.rstrip("*") for each in actual.executors if each.endswith("*"))
        extra += [each for each in passed_on if each not in extra]
    revoke = f"REVOKE ALL ON FUNCTION {declared.signature} FROM {mending.names(extra)} CASCADE;"
    body = re.sub(r"^--.*\n", "", declared.sql, flags=re.MULTILINE).strip()
    if actual is None:
        return mending.lines([body, owner])
    if not _same_shape(declared, actual):
        # CREATE OR REPLACE refuses another result or other names of arguments.
        return mending.lines([f"DROP {actual.kind} {actual.call};", body, owner])
    # First, because what a former owner could do without a grant is gone with the owner.
    return mending.lines([owner, revoke if extra else "", body])


_RESULT: Final = re.compile(r"\bRETURNS\s+(.+?)\s+LANGUAGE\b", re.IGNORECASE | re.DOTALL)


def _same_shape(declared: SqlFunction, actual: Function) -> bool:
    result = _RESULT.search(declared.sql)
    # With columns among the arguments, OUT, there is no RETURNS.
    wanted = (
        result.group(1).replace("timestamptz", "timestamp with time zone") if result else "record"
    )
    return (
        actual.kind == "FUNCTION"
        and actual.signature == declared.signature
        and _squeezed(actual.result) == _squeezed(wanted)
    )


def _squeezed(text: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", " ".join(text.split()))


_OPTION: Final = re.compile(
    r"\bGRANT\s+EXECUTE\s+ON\s+FUNCTION\s+[^;]*?\bTO\s+([^;]+);", re.IGNORECASE
)
_DOLLARS: Final = re.compile(r"\$(\w*)\$(.*?)\$\1\$", re.DOTALL)
_RETURN: Final = re.compile(r"\bRETURN\b(.*?);", re.IGNORECASE | re.DOTALL)
_SETTING: Final = re.compile(
    r"^\s+SET\s+([\w.]+)\s*(?:=|TO)\s*(.+?)$", re.IGNORECASE | re.MULTILINE
)


@cache
def _executors(declared: SqlFunction) -> frozenset[str]:
    return frozenset(
        role.strip() for listed in _OPTION.findall(declared.sql) for role in listed.split(",")
    )


@cache
def _sql_and_options(declared: SqlFunction) -> tuple[str, str]:
    sql = re.sub(r"^\s*--.*$", "", declared.sql, flags=re.MULTILINE)
    return sql, _DOLLARS.sub("", sql)


def _difference(declared: SqlFunction, actual: Function) -> str | None:
    # Compared with the text of its file: to let PostgreSQL print the declared function would take
    # creating one, and an audit changes nothing.
    sql, options = _sql_and_options(declared)
    upper = " ".join(options.upper().split())
    volatility = {"IMMUTABLE": "i", "STABLE": "s"}
    wanted = next((v for k, v in volatility.items() if re.search(rf"\b{k}\b", upper)), "v")
    parallel = {"PARALLEL SAFE": "s", "PARALLEL RESTRICTED": "r"}
    settings = {name: _listed(value) for name, value in _SETTING.findall(options)}
    given = dict(each.split("=", 1) for each in actual.config)
    answers = {
        "has other arguments or another result": not _same_shape(declared, actual),
        "has another owner": actual.owner != declared.owner,
        "is LEAKPROOF": actual.leakproof,
        "has another volatility": actual.volatility != wanted,
        "is not parallel safe as declared": actual.parallel
        != next((v for k, v in parallel.items() if k in upper), "u"),
        "is SECURITY DEFINER or not, against what is declared": actual.definer
        != ("SECURITY DEFINER" in upper),
        "has settings of its own": settings
        != {name: _listed(value) for name, value in given.items()},
        "may be executed by others": set(actual.executors) != _executors(declared),
        "has another body": not _same_body(declared, sql, actual),
    }
    return next((text for text, differs in answers.items() if differs), None)


def _listed(value: str) -> list[str]:
    return [part.strip().strip("'\"") for part in value.split(",") if part.strip()]


def _same_body(declared: SqlFunction, sql: str, actual: Function) -> bool:
    # Before the function there may be a DO that loads what its settings belong to. Comments in the
    # body are part of it.
    dollars = _DOLLARS.search(declared.sql, declared.sql.index("\nCREATE OR REPLACE "))
    if dollars:
        return not actual.is_bound and dollars.group(2) == actual.body
    returned = _RETURN.search(sql)
    if returned and re.search(r"\bBEGIN\s+ATOMIC\b", sql, re.IGNORECASE) is None:
        return actual.is_bound and parse(returned.group(1), cases=True) == parse(
            re.sub(r"^\s*RETURN\b", "", actual.body), cases=True
        )
    # A body of statements is printed in words of PostgreSQL's own; only those in quotes stay.
    quoted = {word for word in words(sql) if word.startswith("'")}
    return actual.is_bound and {w for w in words(actual.body) if w.startswith("'")} == quoted
