"""Vectors in the form in which PostgreSQL takes them, each checked on the way.

Arrays come by the buffer protocol: numpy's, ``array.array``, ``memoryview``, and by ``__array__``
those of other libraries. None of these libraries is needed here.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tenantry.errors import InvalidValueError
from tenantry.schema.types import EMBEDDING_DIMENSIONS, check_embedding

__all__ = ["Matrix", "wire_vector"]

# pgvector's binary form: two int16, the dimensions and a zero, then float32, all big-endian.
_HEAD: Final = struct.pack(">HH", EMBEDDING_DIMENSIONS, 0)

_FLOATS: Final = frozenset("efd")  # float16, float32, float64
_IS_LITTLE: Final = sys.byteorder == "little"


def wire_vector(value: object, *, where: str) -> bytes:
    """Return one vector as PostgreSQL takes it.

    Args:
        value: A sequence or one-dimensional array of `EMBEDDING_DIMENSIONS` numbers.
        where: How a message calls the place.

    Raises:
        InvalidValueError: Cosine distance is not defined for it; see `check_embedding`.
    """
    view = _view(value)
    form = None if view is None else _format(view)
    if view is None or form is None or view.ndim != 1:
        return _wire(_listed(value), where, original=value)
    return _wire(_native(view.tobytes(), form), where)


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
            return _wire(row, where) if self._is_array else wire_vector(row, where=where)
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
    except (TypeError, ValueError):
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


def _listed(value: Any) -> array[float]:
    """Return a sequence of numbers as float32; empty: it is something else."""
    if isinstance(value, str | bytes | bytearray):
        return array("f")
    tolist = getattr(value, "to_list", None) or getattr(value, "tolist", None)
    try:
        return array("f", tolist() if tolist is not None else value)
    except (TypeError, ValueError, OverflowError):
        return array("f")


def _wire(numbers: array[float], where: str, *, original: object = None) -> bytes:
    """Return ``numbers``, which are used up, as they are sent; messages speak of ``original``."""
    is_zero = not any(numbers)  # any() ends at the first that is not
    if _IS_LITTLE:
        numbers.byteswap()
    sent = numbers.tobytes()
    # NaN and infinity begin with the byte 7F or FF. So do finite numbers from 2**127 on: the slow
    # check tells which it is.
    first = sent[::4]
    if is_zero or len(numbers) != EMBEDDING_DIMENSIONS or b"\x7f" in first or b"\xff" in first:
        if _IS_LITTLE:
            numbers.byteswap()
        check_embedding(numbers if original is None else original, where=where)
    return _HEAD + sent
