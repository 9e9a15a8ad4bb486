"""Values for columns of any type, as SQL literals: those of rows that never were and never stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from secrets import randbelow, token_hex
from typing import Final
from uuid import uuid4

from tenantry.ops.audit.attempts.shapes import Column

__all__ = ["NULL", "Maker", "candidates", "is_harmless", "literal", "unique_value"]

Maker = Callable[[], str]
"""Makes an SQL literal; called again, one that is new where the type has room for it."""

NULL: Final = "NULL"

_BEYOND_NUMERIC: Final = 18
_LENGTH_OVERHEAD: Final = 4


def literal(value: str) -> str:
    """Return ``value`` as an SQL literal; ``standard_conforming_strings`` must be on."""
    return "'" + value.replace("'", "''") + "'"


def _up_to(bound: int) -> Maker:
    # The upper half: sequences begin at the lower end.
    return lambda: str(bound // 2 + randbelow(bound // 2))


def _octets() -> str:
    return f"fd{token_hex(1)}:{token_hex(2)}:{token_hex(2)}:{token_hex(2)}::{token_hex(1)}"


def _day() -> str:
    return f"{2200 + randbelow(700)}-{1 + randbelow(12):02}-{1 + randbelow(28):02}"


def _clock() -> str:
    return f"{randbelow(24):02}:{randbelow(60):02}:{randbelow(60):02}.{randbelow(1000000):06}"


def _span(make: Callable[[int], str]) -> Maker:
    def value() -> str:
        start = randbelow(2_000_000_000)
        return f"[{make(start)},{make(start + 1)})"

    return value


def _moment(seconds: int) -> str:
    return str(datetime(2200, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))[:19]


_BY_TYPE: Final[dict[str, Maker]] = {
    "int2": _up_to(2**15 - 1),
    "int4": _up_to(2**31 - 1),
    "int8": _up_to(2**62),
    "oid": _up_to(2**31 - 1),
    "xid": _up_to(2**31 - 1),
    "xid8": _up_to(2**62),
    "cid": _up_to(2**31 - 1),
    "float4": lambda: str(randbelow(2**20) / 4),
    "float8": lambda: str(randbelow(2**40) / 8),
    "money": lambda: str(randbelow(2**40)),
    "bool": lambda: "false",
    "char": lambda: chr(97 + randbelow(26)),
    "name": lambda: f"audit{token_hex(8)}",
    "uuid": lambda: str(uuid4()),
    "date": _day,
    "time": _clock,
    "timetz": lambda: f"{_clock()}+00",
    "timestamp": lambda: f"{_day()} {_clock()}",
    "timestamptz": lambda: f"{_day()} {_clock()}+00",
    "interval": lambda: f"{randbelow(2**31 - 1)} seconds",
    "json": lambda: f'{{"audit": "{token_hex(8)}"}}',
    "jsonb": lambda: f'{{"audit": "{token_hex(8)}"}}',
    "jsonpath": lambda: f"$.audit{token_hex(4)}",
    "xml": lambda: f"<audit>{token_hex(8)}</audit>",
    "bytea": lambda: f"\\x{token_hex(32)}",
    "inet": _octets,
    "cidr": lambda: f"{_octets()}/128",
    "macaddr": lambda: ":".join(token_hex(1) for _ in range(6)),
    "macaddr8": lambda: ":".join(token_hex(1) for _ in range(8)),
    "tsvector": lambda: f"audit{token_hex(4)}",
    "tsquery": lambda: f"audit{token_hex(4)}",
    "point": lambda: f"({randbelow(2**30)},1)",
    "line": lambda: "{1,1,1}",
    "lseg": lambda: "[(0,0),(1,1)]",
    "box": lambda: "(1,1),(0,0)",
    "path": lambda: "[(0,0),(1,1)]",
    "polygon": lambda: "((0,0),(1,1),(1,0))",
    "circle": lambda: f"<({randbelow(2**30)},1),1>",
    "pg_lsn": lambda: f"{randbelow(2**31):X}/{randbelow(2**31):X}",
    "tid": lambda: "(0,1)",
    "int4range": _span(str),
    "int8range": _span(str),
    "numrange": _span(str),
    "daterange": lambda: f"[{_day()},3000-01-01)",
    "tsrange": _span(_moment),
    "tstzrange": _span(_moment),
    "hstore": lambda: f'"audit"=>"{token_hex(8)}"',
    "ltree": lambda: f"audit.{token_hex(8)}",
    "lquery": lambda: "audit.*",
    "semver": lambda: f"{randbelow(1000)}.{randbelow(1000)}.{randbelow(1000)}",
    "geometry": lambda: f"POINT({randbelow(180)} {randbelow(90)})",
    "geography": lambda: f"POINT({randbelow(180)} {randbelow(90)})",
}
_TEXTS: Final = frozenset({"text", "varchar", "bpchar", "citext"})
_NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "money", "oid"})
_WHOLE: Final = frozenset({"int2", "int4", "int8", "oid"})
_MODEST: Final = {**dict.fromkeys(_NUMBERS, "1"), "bool": "false", "interval": "1 second"}

# What is commonly asked of a text by a pattern.
_FORMATS: Final[tuple[Maker, ...]] = (
    lambda: f"a{token_hex(5)}",
    lambda: f"audit-{token_hex(8)}@example.com",
    lambda: f"https://example.com/{token_hex(8)}",
    lambda: f"audit-{token_hex(4)}",
    lambda: str(10**9 + randbelow(9 * 10**9)),
    lambda: f"+49{10**9 + randbelow(9 * 10**9)}",
    lambda: f"#{token_hex(3)}",
    lambda: f"A{token_hex(5).upper()}",
    lambda: token_hex(32),
    lambda: token_hex(20),
    lambda: str(uuid4()),
    lambda: f"audit-{token_hex(8)}.example.com",
    lambda: f"{randbelow(100)}.{randbelow(100)}.{randbelow(100)}",
    _day,
    lambda: _clock()[:5],
    lambda: "".join(chr(65 + randbelow(26)) for _ in range(3)),
    lambda: "".join(chr(65 + randbelow(26)) for _ in range(2)),
    lambda: "".join(chr(97 + randbelow(26)) for _ in range(2)),
    lambda: "en-US",
    lambda: f"/audit/{token_hex(4)}",
    lambda: f"audit_{token_hex(4)}",
    lambda: f"audit/{token_hex(4)}",
    lambda: "{}",
    lambda: "",
)


def unique_value(column: Column) -> Maker:
    """Return what makes values for ``column`` that no row is likely to have."""
    base, modifier = column.base, column.modifier
    if column.kind in _BY_KIND and base not in _BY_TYPE:
        return _BY_KIND[column.kind](column)
    if base in _TEXTS:
        room = modifier - _LENGTH_OVERHEAD if modifier > 0 else 40
        return lambda: f"a{token_hex(16)}"[:room]
    if base in _BY_MODIFIER:
        return _BY_MODIFIER[base](base, modifier)
    if base == "array":
        return _array(column)
    return _BY_TYPE.get(base, lambda: "0")


def _label(column: Column) -> Maker:
    return lambda: column.labels[randbelow(len(column.labels))] if column.labels else ""


def _composite(column: Column) -> Maker:
    return lambda: "(" + "," * (column.width - 1) + ")"


_BY_KIND: Final[dict[str, Callable[[Column], Maker]]] = {
    "e": _label,
    "c": _composite,
    "m": lambda _column: lambda: "{}",
    "r": lambda _column: lambda: "empty",
}


def _numeric(_base: str, modifier: int) -> Maker:
    if modifier < 0:
        return _up_to(2**40)
    precision = ((modifier - _LENGTH_OVERHEAD) >> 16) & 0xFFFF
    scale = (modifier - _LENGTH_OVERHEAD) & 0x7FF
    scale = scale - 2048 if scale > 1023 else scale  # noqa: PLR2004 - eleven bits with a sign
    digits = min(precision, _BEYOND_NUMERIC)
    return lambda: f"{1 + randbelow(10**digits - 1)}e{-scale}"


def _bits(base: str, modifier: int) -> Maker:
    length = modifier if modifier > 0 else (1 if base == "bit" else 64)
    return lambda: "".join(str(randbelow(2)) for _ in range(length))


def _embedding(base: str, modifier: int) -> Maker:
    dimensions = modifier if modifier > 0 else 3
    if base == "sparsevec":
        return lambda: f"{{1:{1 + randbelow(1000)}}}/{dimensions}"
    return lambda: "[" + ",".join(["1"] * (dimensions - 1) + [str(1 + randbelow(1000))]) + "]"


_BY_MODIFIER: Final[dict[str, Callable[[str, int], Maker]]] = {
    "numeric": _numeric,
    "bit": _bits,
    "varbit": _bits,
    "vector": _embedding,
    "halfvec": _embedding,
    "sparsevec": _embedding,
}


def _array(column: Column) -> Maker:
    if column.element == "enum":
        return lambda: "{" + _inner(column.labels[0] if column.labels else "") + "}"
    make = _BY_TYPE.get(column.element)
    if make is None and column.element in _TEXTS:
        room = column.modifier - _LENGTH_OVERHEAD if column.modifier > 0 else 40
        return lambda: "{" + f"a{token_hex(16)}"[:room] + "}"
    if make is None:
        return lambda: "{}"
    return lambda: "{" + _inner(make()) + "}"


def _inner(element: str) -> str:
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'


def modest_value(column: Column) -> Maker:
    """Return what makes values for ``column`` that any rule would rather allow."""
    if column.base in _TEXTS or column.base not in _MODEST:
        return unique_value(column)
    if column.base == "numeric" and column.modifier >= 0:
        return unique_value(column)
    return lambda: _MODEST[column.base]


_STRING: Final = re.compile(r"'((?:[^']|'')*)'")
# How a pattern of LIKE or a regular expression begins, as far as it says the text itself.
_PREFIX: Final = re.compile(r"\^?([\w:/-]+)(?=[%\[(\\.])")
_NUMBER: Final = re.compile(r"(?<![\w.'\"])\(?(-?\d+(?:\.\d+)?)\)?(?![\w'\"])")


def candidates(column: Column, rules: tuple[str, ...], *, unique: bool) -> Iterator[Maker]:
    """Yield what may satisfy ``rules``, the definitions of checks, the likeliest first.

    Makers of ever new values come first where the column is to be ``unique``.
    """
    # One value and not ever new ones: a check that lets one of them through by luck may refuse the
    # next, and that would look like an answer about tenants.
    yield unique_value(column) if unique else _constant(modest_value(column)())
    texts = [each.replace("''", "'") for rule in rules for each in _STRING.findall(rule)]
    numbers = [each for rule in rules for each in _NUMBER.findall(_STRING.sub("", rule))]
    if column.kind == "e":
        yield from (_constant(label) for label in column.labels)
        return
    if column.base == "bool":
        yield _constant("true")
        return
    if column.base in _TEXTS:
        yield from _text_candidates(texts, numbers, unique=unique)
        return
    if column.base in _NUMBERS:
        numbers += [each for each in texts if _NUMBER.fullmatch(each)]
        yield from _number_candidates(numbers, whole=column.base in _WHOLE)
        return
    yield from (_constant(each) for each in dict.fromkeys(texts))
    yield unique_value(column)
    if column.base in {"json", "jsonb"}:
        yield from (_constant("{}"), _constant("[]"), _constant('"audit"'), _constant("0"))
    elif column.base == "array":
        yield _constant("{}")
        yield from (_constant("{" + _inner(each) + "}") for each in dict.fromkeys(texts))
    elif column.base in {"timestamptz", "timestamp", "date"}:
        yield from (_constant(f"{year}-01-01") for year in (1970, 2020, 2950, 2990))
    elif column.base == "bytea":
        yield from (_of_length(n, "00", "\\x") for n in _lengths(numbers))


def _text_candidates(texts: list[str], numbers: list[str], *, unique: bool) -> Iterator[Maker]:
    if unique:
        yield from (_beginning(each) for each in dict.fromkeys(texts) if _PREFIX.match(each))
        yield from _FORMATS
    yield from (_constant(each) for each in dict.fromkeys(texts))
    if not unique:
        yield from _FORMATS
    yield from (_of_length(length, "a") for length in _lengths(numbers))


def _lengths(numbers: list[str]) -> list[int]:
    found = {int(each) + d for each in numbers if each.isdigit() for d in (0, 1, -1)}
    return sorted(length for length in found if 0 <= length <= 10_000)  # noqa: PLR2004


def _number_candidates(numbers: list[str], *, whole: bool) -> Iterator[Maker]:
    found = [Decimal(each) for each in numbers]
    near = [each + step for each in found for step in (0, 1, -1)]
    between = [(one + other) / 2 for one in found for other in found if one < other]
    common = [Decimal(each) for each in ("0", "1", "0.5", "10", "100", "-1")]
    for each in dict.fromkeys(near + between + common):
        if not whole or each == each.to_integral_value():
            yield _constant(f"{each:f}")


def _constant(value: str) -> Maker:
    return lambda: value


def _beginning(pattern: str) -> Maker:
    found = _PREFIX.match(pattern)
    prefix = found.group(1) if found else ""
    return lambda: f"{prefix}{token_hex(8)}"


def _of_length(length: int, unit: str, prefix: str = "") -> Maker:
    def value() -> str:
        if unit == "a":
            return (f"a{token_hex(length // 2 + 1)}")[:length]
        return prefix + unit * length

    return value


_CAST: Final = re.compile(r'::("[^"]+"|[\w. ])+(\(\d+(,\d+)?\))?(\[\])*')
_CALL: Final = re.compile(r'("[^"]+"|[\w.]+)\s*\(')
_HARMLESS: Final = frozenset(
    {
        "array_fill",
        "bit",
        "char",
        "clock_timestamp",
        "coalesce",
        "current_setting",
        "date_trunc",
        "decimal",
        "decode",
        "encode",
        "gen_random_uuid",
        "interval",
        "json_build_array",
        "json_build_object",
        "jsonb_build_array",
        "jsonb_build_object",
        "lower",
        "make_interval",
        "md5",
        "now",
        "nullif",
        "numeric",
        "random",
        "statement_timestamp",
        "substr",
        "substring",
        "time",
        "timestamp",
        "timezone",
        "to_tsvector",
        "transaction_timestamp",
        "upper",
        "uuidv4",
        "uuidv7",
        "varchar",
    }
)
# Of extensions and of ours, in whatever schema they are.
_HARMLESS_ANYWHERE: Final = frozenset(
    {
        "current_tenant",
        "gen_random_bytes",
        "gen_random_uuid",
        "uuid_generate_v1",
        "uuid_generate_v1mc",
        "uuid_generate_v4",
        "uuid_generate_v7",
    }
)


def is_harmless(default: str) -> bool:
    """Return whether evaluating ``default`` leaves no trace: no sequence, no unknown function."""
    calls = (match.group(1) for match in _CALL.finditer(_CAST.sub("", _STRING.sub("''", default))))
    return all(call in _HARMLESS or call.rpartition(".")[2] in _HARMLESS_ANYWHERE for call in calls)
