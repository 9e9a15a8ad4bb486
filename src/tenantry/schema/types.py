"""Column types that refuse what PostgreSQL would refuse later, or accept and garble."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast

from pgvector.sqlalchemy import VECTOR
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import DateTime, Dialect, Interval, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

from tenantry.errors import InvalidValueError

__all__ = [
    "CONTENT_MAX_BYTES",
    "EMBEDDING_DIMENSIONS",
    "EMBEDDING_LEAST",
    "STORAGE",
    "STORAGE_PARAMETERS",
    "BoundedText",
    "Embedding",
    "JsonModel",
    "JsonObject",
    "TypedJson",
    "UtcDateTime",
    "check_direction",
    "check_embedding",
    "check_text",
]

EMBEDDING_DIMENSIONS: Final = 1024
"""Length of every stored vector, in float32 components."""

EMBEDDING_LEAST: Final = 2.0**-40
"""Of a vector's largest component. Squares of smaller numbers, and of larger ones than its inverse,
do not fit the float32 that pgvector adds them up in: every similarity would be 1, 0 or NaN."""

STORAGE: Final = "storage"
"""Where `sqlalchemy.Column.info` says how PostgreSQL stores a column: ``"PLAIN"`` for always within
its row; see ALTER TABLE … SET STORAGE."""

STORAGE_PARAMETERS: Final = "storage_parameters"
"""Where `sqlalchemy.Table.info` has a dict of what stands in ``CREATE TABLE … WITH (…)``; only from
2.1 on, SQLAlchemy takes it as an argument."""

CONTENT_MAX_BYTES: Final = 16 * 1024 * 1024
"""Longest message, document or chunk, in bytes of UTF-8; four million tokens are about this."""


# An escape, and not the six characters after an escaped backslash.
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

M = TypeVar("M", bound="JsonModel")


def check_text(value: object, *, max_bytes: int, where: str) -> str:
    """Return ``value`` when PostgreSQL can store it as text.

    Args:
        value: What is to be stored.
        max_bytes: Its longest permitted form, in bytes of UTF-8.
        where: How the message calls the place, as in ``"messages.content"``.

    Raises:
        InvalidValueError: Not a string, contains NUL or a lone surrogate, or is too long.
    """
    if not isinstance(value, str):
        raise InvalidValueError(f"{where} is a {type(value).__name__}; a str is required.")
    if "\0" in value:
        raise InvalidValueError(
            f"{where} contains NUL at character {value.index(chr(0))}, which PostgreSQL cannot "
            "store in text. Remove it first."
        )
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{where} contains a lone surrogate (U+{ord(value[error.start]):04X}) at character "
            f"{error.start}, so it is not valid Unicode. Decode its source with the right encoding."
        ) from None
    if size > max_bytes:
        raise InvalidValueError(
            f"{where} is {size:,} bytes of UTF-8; at most {max_bytes:,} fit. Split it."
        )
    return value


def check_embedding(
    value: object, *, dimensions: int = EMBEDDING_DIMENSIONS, where: str = "embedding"
) -> list[float]:
    """Return ``value`` as a list of floats when PostgreSQL can compare it by cosine.

    Args:
        value: A sequence or one-dimensional array of ``dimensions`` numbers.
        dimensions: The required length.
        where: How the message calls the place.

    Raises:
        InvalidValueError: Wrong length, not numbers, NaN, infinite or zero as float32; or its
            largest component lies outside `EMBEDDING_LEAST` to its inverse.
    """
    numbers = check_direction(value, dimensions=dimensions, where=where)
    largest = max(map(abs, numbers))
    if not EMBEDDING_LEAST <= largest <= 1 / EMBEDDING_LEAST:
        raise InvalidValueError(
            f"{where}'s largest component is {largest:.3g}; 1e-12 to 1e12 is required, because "
            "PostgreSQL squares it as a float32. Divide by the vector's length: cosine distances "
            "stay the same."
        )
    return numbers


def check_direction(
    value: object, *, dimensions: int = EMBEDDING_DIMENSIONS, where: str = "embedding"
) -> list[float]:
    """Return ``value`` as a list of floats when cosine distance is defined for it.

    Args:
        value: A sequence or one-dimensional array of ``dimensions`` numbers.
        dimensions: The required length.
        where: How the message calls the place.

    Raises:
        InvalidValueError: Wrong length, not numbers, NaN, infinite or zero as float32.
    """
    tolist = getattr(value, "to_list", None) or getattr(value, "tolist", None)
    numbers: Any = tolist() if tolist is not None else value
    if isinstance(numbers, str | bytes) or not isinstance(numbers, Sequence):
        raise InvalidValueError(
            f"{where} is a {type(value).__name__}; a sequence of {dimensions} numbers is required."
        )
    if numbers and isinstance(numbers[0], Sequence) and not isinstance(numbers[0], str | bytes):
        raise InvalidValueError(
            f"{where} holds rows of numbers; one vector of {dimensions} numbers is required. Take "
            "one of the rows."
        )
    if len(numbers) != dimensions:
        raise InvalidValueError(
            f"{where} has {len(numbers)} dimensions; {dimensions} are required. Pad shorter "
            "vectors with zeros (cosine distances stay the same) or use another embedder."
        )
    try:
        stored = array("f", numbers)
    except (TypeError, OverflowError) as error:
        raise InvalidValueError(f"{where} must hold float32 numbers only: {error}.") from None
    squares = math.fsum(x * x for x in stored)
    if not math.isfinite(squares):
        at = next(i for i, x in enumerate(stored) if not math.isfinite(x))
        raise InvalidValueError(
            f"{where}[{at}] is {numbers[at]}; every component must be a finite float32."
        )
    if squares == 0.0:
        raise InvalidValueError(
            f"{where} has length zero; cosine distance is not defined for it. Store NULL for "
            "'not embedded yet'."
        )
    return cast("list[float]", list(numbers))


class BoundedText(TypeDecorator[str]):
    """``text`` without NUL or lone surrogates, up to ``max_bytes`` bytes of UTF-8."""

    impl = Text
    cache_ok = True

    def __init__(self, max_bytes: int = 1024) -> None:
        super().__init__()
        self.max_bytes = max_bytes

    def accept(self, value: object, where: str) -> str:
        """Refuse what cannot be stored; see `check_text`."""
        return check_text(value, max_bytes=self.max_bytes, where=where)

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        """Refuse what cannot be stored; see `check_text`."""
        del dialect
        return None if value is None else self.accept(value, "a text value")


class Embedding(TypeDecorator[list[float]]):
    """``vector(n)`` that refuses vectors for which cosine distance is undefined."""

    impl = VECTOR
    cache_ok = True

    def __init__(self, dimensions: int = EMBEDDING_DIMENSIONS) -> None:
        super().__init__(dimensions)
        self.dimensions = dimensions

    def accept(self, value: object, where: str) -> list[float]:
        """Refuse what cannot be compared; see `check_embedding`."""
        return check_embedding(value, dimensions=self.dimensions, where=where)

    def process_bind_param(self, value: object, dialect: Dialect) -> list[float] | None:
        """Refuse what cannot be compared; see `check_embedding`."""
        del dialect
        return None if value is None else self.accept(value, "an embedding")

    # pgvector's distance operators.
    comparator_factory = VECTOR.Comparator


class UtcDateTime(TypeDecorator[datetime]):
    """``timestamptz``; a naive datetime is refused instead of being taken for local time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def accept(self, value: object, where: str) -> datetime:
        """Refuse naive datetimes and convert others to UTC."""
        if not isinstance(value, datetime) or value.utcoffset() is None:
            raise InvalidValueError(
                f"{where} is {value!r}; a datetime with a time zone is required. "
                "Use datetime.now(UTC)."
            )
        return value.astimezone(UTC)

    def process_bind_param(self, value: object, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes and convert others to UTC."""
        del dialect
        return None if value is None else self.accept(value, "a time")

    def coerce_compared_value(self, op: OperatorType | None, value: object) -> TypeEngine[Any]:
        """Let a duration be added to a time, and be one."""
        return (
            Interval() if isinstance(value, timedelta) else super().coerce_compared_value(op, value)
        )


class JsonModel(BaseModel):
    """Base of the typed JSON columns: known keys are checked, unknown keys are kept.

    Frozen, since SQLAlchemy could not see a change inside it: assign a changed copy, as in
    ``widget.config = widget.config.model_copy(update={"theme": "dark"})``.
    """

    # constants: NaN must arrive at the check as itself; by default it is written as null.
    model_config = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class JsonObject(TypeDecorator[dict[str, Any]]):
    """``jsonb`` holding any JSON object, as a dict."""

    impl = JSONB
    cache_ok = True

    def accept(self, value: object, where: str) -> dict[str, Any]:
        """Return ``value`` when it is an object that PostgreSQL's jsonb can hold.

        Raises:
            InvalidValueError: Not a dict, not JSON, NaN or infinite numbers, NUL or lone
                surrogates in a string, or over `CONTENT_MAX_BYTES`.
        """
        if not isinstance(value, dict):
            raise InvalidValueError(f"{where} is a {type(value).__name__}; a dict is required.")
        _check_json(value, where)
        return value

    def process_bind_param(self, value: object, dialect: Dialect) -> dict[str, Any] | None:
        """Refuse what jsonb cannot hold; see `accept`."""
        del dialect
        return None if value is None else self.accept(value, "a JSON value")


class TypedJson(TypeDecorator[M]):
    """``jsonb`` that holds one `JsonModel`."""

    impl = JSONB
    cache_ok = True

    def __init__(self, model: type[M]) -> None:
        super().__init__()
        self.model = model

    def accept(self, value: object, where: str) -> M:
        """Return ``value``, a model or a dict, as a checked model.

        Raises:
            InvalidValueError: It does not fit; the message names the field, not its value.
        """
        if isinstance(value, BaseModel):
            value = value.model_dump()
        try:
            model = self.model.model_validate(value)
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join([where, *map(str, each['loc'])])}: {each['msg']}"
                for each in error.errors(include_input=False, include_url=False)
            )
            raise InvalidValueError(f"{found}. Nothing was written.") from None
        _check_json(_dump(model, where), where)
        return model

    def process_bind_param(self, value: object, dialect: Dialect) -> Any:
        """Check and serialise; see `accept`."""
        del dialect
        if value is None:
            return None
        return _dump(self.accept(value, "a JSON value"), "a JSON value")

    def process_result_value(self, value: Any, dialect: Dialect) -> M | None:
        """Return the stored object as its model."""
        del dialect
        return None if value is None else self.model.model_validate(value)


def _dump(model: BaseModel, where: str) -> dict[str, Any]:
    try:
        return model.model_dump(mode="json")
    except (PydanticSerializationError, RecursionError) as error:
        raise InvalidValueError(f"{where} is not JSON: {error}.") from None


def _check_json(value: object, where: str) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(f"{where} is not JSON: {error}.") from None
    if _ESCAPED_NUL.search(text):
        raise InvalidValueError(f"{where} contains NUL, which jsonb cannot store. Remove it first.")
    check_text(text, max_bytes=CONTENT_MAX_BYTES, where=where)
