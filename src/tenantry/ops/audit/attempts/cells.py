"""What is tried with, and what came of it, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tenantry.ops.audit.attempts.shapes import ForeignKey, Key

__all__ = ["Cell", "Crossing", "Tenants"]


class Tenants(NamedTuple):
    """Ids of tenants that do not exist: two that get rows, and one that never does."""

    a: str
    b: str
    nobody: str


@dataclass(frozen=True, slots=True)
class Crossing:
    """A way across.

    Args:
        what: What happened.
        through: The key or foreign key that answered, None where it was row security.
    """

    what: str
    through: Key | ForeignKey | None = None


@dataclass
class Cell:
    """What came of one operation; ``waiting`` says what is tried only once another wall stands."""

    crossings: list[Crossing] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    waiting: str = ""
