"""Vectors in the form in which PostgreSQL takes them, each checked on the way.

pgvector's binary form: two int16, the dimensions and a zero, then float32, all big-endian.

Arrays come by the buffer protocol: numpy's, ``array.array``, ``memoryview``, and by ``__array__``
those of other libraries. None of these libraries is needed here.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final, Protocol, TypeAlias

from tenantry.errors import InvalidValueError
from tenantry.schema.types import (
    EMBEDDING_DIMENSIONS,
    EMBEDDING_LEAST,
    check_direction,
    check_embedding,
)

__all__ = ["Embedding", "Matrix", "SupportsArray", "wire_direction", "wire_vector"]


class SupportsArray(Protocol):
    """An array of numpy, or of a library that can make one of its own into one."""

    def __array__(self) -> Any: ...


Embedding: TypeAlias = Sequence[float] | SupportsArray
"""One vector."""

_FLOATS: Final = frozenset("efd")  # float16, float32, float64
_IS_LITTLE: Final = sys.byteorder == "little"


def _first_bytes(least: int, most: int) -> bytes:
    return bytes(byte for byte in range(256) if least <= byte & 0x7F <= most)


# What the first byte of a big-endian float32 can be: it holds the sign, and the exponent but for
# its last bit. A scan of these bytes takes a microsecond, to look at 1,024 numbers ten times that.
# The bounds are those of EMBEDDING_LEAST, to a factor of two: what is outside is looked at closely.
_SMALL: Final = _first_bytes(0, 0x2B)  # less than 2**-39
_LARGE: Final = _first_bytes(0x53, 0x7F)  # from 2**39 on, infinite, or NaN


def wire_vector(value: object, *, where: str, dimensions: int = EMBEDDING_DIMENSIONS) -> bytes:
    """Return one vector as PostgreSQL takes it.

    Args:
        value: A sequence or one-dimensional array of ``dimensions`` numbers.
        where: How a message calls the place.
        dimensions: The required length.

    Raises:
        InvalidValueError: Cosine distance is not defined for it; see `check_embedding`.
    """
    sent = _packed(value, dimensions)
    if sent is None or not _is_comparable(sent):
        given = check_embedding(value, dimensions=dimensions, where=where)
        return _in_order(_packer(dimensions)(*given), dimensions)
    return sent


def wire_direction(value: object) -> bytes:
    """Return a vector whose direction alone counts, as PostgreSQL takes it.

    Args:
        value: A sequence or one-dimensional array of `EMBEDDING_DIMENSIONS` numbers; of any length
            but zero.

    Raises:
        InvalidValueError: Cosine distance is not defined for it; see `check_direction`.
    """
    sent = _packed(value, EMBEDDING_DIMENSIONS)
    if sent is not None and _is_comparable(sent):
        return sent
    given = check_direction(value)
    largest = max(map(abs, given))
    if not EMBEDDING_LEAST <= largest <= 1 / EMBEDDING_LEAST:
        given = [each / largest for each in given]
    return _in_order(_packer(EMBEDDING_DIMENSIONS)(*given), EMBEDDING_DIMENSIONS)


def _is_comparable(sent: bytes) -> bool:
    """Return whether all is finite and the largest number within bounds; False: perhaps."""
    first = sent[4::4]
    return bool(first.translate(None, _SMALL)) and len(first.translate(None, _LARGE)) == len(first)


@cache
def _packer(dimensions: int) -> Callable[..., bytes]:
    # In this machine's order, and turned afterwards: in the other one it takes longer, number by
    # number. What is too large for a float32 becomes infinite.
    return struct.Struct(f"{dimensions}f").pack


def _in_order(data: bytes, dimensions: int) -> bytes:
    """Return what is sent, of float32 in this machine's order."""
    numbers = array("f")
    numbers.frombytes(data)
    if _IS_LITTLE:
        numbers.byteswap()
    return _head(dimensions) + numbers.tobytes()


def _packed(value: object, dimensions: int) -> bytes | None:
    """Return what is sent; None: ``value`` is something else, or holds what is no number."""
    view = None if type(value) is list else _view(value)
    if view is not None and view.format == "f" and view.shape == (dimensions,):
        # What models return: each call that is left out here is felt in a small tenant's search.
        return _in_order(view.tobytes(), dimensions)
    form = None if view is None else _format(view)
    if view is not None and form is not None and view.ndim == 1:
        return _wire(_native(view.tobytes(), form), dimensions)
    listed = value if type(value) is list else _listed(value)
    if listed is None or len(listed) != dimensions:
        return None
    try:
        return _in_order(_packer(dimensions)(*listed), dimensions)
    except (TypeError, OverflowError, struct.error):
        return None


def _listed(value: object) -> Sequence[Any] | None:
    tolist = getattr(value, "to_list", None) or getattr(value, "tolist", None)
    listed: object = tolist() if tolist is not None else value
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes | bytearray):
        return None
    return listed


class Matrix:
    """Rows of vectors, taken one after the other.

    Args:
        value: A two-dimensional array of float16, float32 or float64 with a row for each vector,
            or an iterable of vectors. An array is never copied whole.

    Raises:
        InvalidValueError: An array of another shape or type, or no iterable.
    """

    __slots__ = ("_is_array", "_rows")

    def __init__(self, value: object) -> None:
        view = _view(value)
        self._is_array = view is not None
        self._rows: Iterator[Any]
        if view is not None:
            self._rows = _rows(view)
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
            self._rows = iter(value)
        else:
            raise InvalidValueError(
                f"embeddings is a {type(value).__name__}; a two-dimensional array, or an iterable "
                "with a vector for each chunk, is required."
            )

    def take(self, *, where: str) -> bytes:
        """Return the next row as PostgreSQL takes it.

        Raises:
            InvalidValueError: There is none left, or cosine distance is not defined for it.
        """
        for row in self._rows:
            return _row(row, where) if self._is_array else wire_vector(row, where=where)
        raise InvalidValueError(
            f"{where}: there are fewer embeddings than chunks; one for each is required. "
            "Nothing was written."
        )

    def require_end(self, count: int) -> None:
        """Raise where rows are left.

        Raises:
            InvalidValueError: There are more embeddings than chunks.
        """
        for _ in self._rows:
            raise InvalidValueError(
                f"There are more embeddings than the {count:,} chunks; one for each is required. "
                "Nothing was written."
            )


def _rows(view: memoryview) -> Iterator[array[float]]:
    form = _format(view)
    shape = view.shape or ()
    if form is None or shape[1:] != (EMBEDDING_DIMENSIONS,):
        raise InvalidValueError(
            f"embeddings is an array of shape {shape} and format {view.format!r}; "
            f"(chunks, {EMBEDDING_DIMENSIONS}) of float16, float32 or float64 is required."
        )
    # A slice, since a row of its own is not to be had; tobytes() puts any strides in order.
    return (_native(view[row : row + 1].tobytes(), form) for row in range(shape[0]))


def _view(value: object) -> memoryview | None:
    """Return the buffer of an array; None: it is something else."""
    if isinstance(value, list | tuple | str | bytes | bytearray):
        return None
    try:
        return memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # no buffer, or of a type that the protocol has no name for
        pass
    as_array = getattr(value, "__array__", None)
    if as_array is None:
        return None
    try:
        return memoryview(as_array())
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor that requires gradients
        return None


def _format(view: memoryview) -> str | None:
    """Return the format of float numbers; None: of something else."""
    form = view.format
    return form if form[-1:] in _FLOATS and len(form.lstrip("@=<>!")) == 1 else None


def _order(form: str) -> str:
    return ">" if form[0] in ">!" else "<" if form[0] == "<" else "="


def _native(data: bytes, form: str) -> array[float]:
    """Return the numbers as float32 of this machine."""
    kind = form[-1]
    if kind == "e":  # which array.array does not know
        return array("f", struct.unpack(f"{_order(form)}{len(data) // 2}e", data))
    numbers: array[float] = array("f" if kind == "f" else "d")
    numbers.frombytes(data)
    if _order(form) == (">" if _IS_LITTLE else "<"):
        numbers.byteswap()
    return numbers if kind == "f" else array("f", numbers)


def _row(numbers: array[float], where: str) -> bytes:
    sent = _wire(numbers, EMBEDDING_DIMENSIONS)
    return sent if sent is not None and _is_comparable(sent) else wire_vector(numbers, where=where)


def _wire(numbers: array[float], dimensions: int) -> bytes | None:
    """Return what is sent; None: it has another length."""
    return _in_order(numbers.tobytes(), dimensions) if len(numbers) == dimensions else None


@cache
def _head(dimensions: int) -> bytes:
    return struct.pack(">HH", dimensions, 0)
