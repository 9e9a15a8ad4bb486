"""What somebody who watches the library is told: `tenantry.opentelemetry`, and nobody by default.

A `Database` has an observer or has none, and everything made from it looks there. So two databases
of a process can be watched differently, and where nobody watches, all that is left is a comparison
with None.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self, TypedDict, Unpack
from uuid import UUID

__all__ = ["Facts", "Measured", "Observation", "Observer", "Operation", "Quantity", "Reading"]

Operation = Literal[
    "transaction",
    "sign_in",
    "validate",
    "authenticate_api_key",
    "vector_search",
    "keyword_search",
    "hybrid_search",
]

Quantity = Literal[
    "connections_idle",
    "connections_used",
    "connections_max",
    "hashes_running",
    "hashes_waiting",
    "hashes_refused",
]
"""What can be read at any moment. All but ``hashes_refused``, which only grows, go up and down."""


class Reading(NamedTuple):
    """The value of a quantity at this moment.

    Args:
        quantity: Which.
        value: How many.
        pool: Of connections: the pool.
    """

    quantity: Quantity
    value: int
    pool: str = ""


class Measured(Protocol):
    """What has quantities, which can be read from any thread without waiting."""

    def readings(self) -> Iterable[Reading]:
        """Return them."""
        ...


class Facts(TypedDict, total=False):
    """What is known of an operation. It is all that an observer learns: no text, and no secret.

    Args:
        tenant_id: The tenant, as the caller gave it: it may be no tenant id at all.
        read_only: The transaction only reads, so it may be on the replica.
        rows: How many the operation gives back.
        refused: It has ended with No, and that is no fault.
    """

    tenant_id: UUID | str
    read_only: bool
    rows: int
    refused: bool


class Observation(ABC):
    """An operation that is under way, ended as a context manager or by `end`."""

    __slots__ = ()

    @abstractmethod
    def note(self, **facts: Unpack[Facts]) -> None:
        """Add what has become known."""

    @abstractmethod
    def statement(self, summary: str, *, callers: Sequence[Observation] = ()) -> Observation:
        """Begin a statement that is sent for this operation.

        Args:
            summary: What it does, without any value.
            callers: Where one statement serves several operations, all of them, this one too. It
                is then part of none.
        """

    @abstractmethod
    def end(self, error: BaseException | None = None) -> None:
        """End, with the error that ends it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(error)


class Observer(Protocol):
    """Whoever watches a `Database`."""

    def begin(self, operation: Operation, **facts: Unpack[Facts]) -> Observation:
        """Return the observation of an operation that begins now, in the calling task."""
        ...
