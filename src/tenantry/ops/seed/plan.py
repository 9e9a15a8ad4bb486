"""What a seed makes: how many tenants, and how much in each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Final

from tenantry.errors import InvalidValueError

__all__ = ["SeedPlan", "TenantPlan"]

# Changes whenever the same plan makes other rows, so that older seeds are recognised as such.
_FORMAT: Final = 1

_LIMITS: Final = {
    "seed": (0, 2**63 - 1),
    "tenants": (1, 10_000),
    "users": (1, 10_000_000),
    "chunks": (1, 100_000_000),
}

_FIRST_NAMES: Final = ("Acme", "Globex", "Initech")
_NAME_STARTS: Final = (
    "Aster", "Birch", "Cobalt", "Delta", "Ember", "Fjord", "Garnet", "Harbor", "Indigo",
    "Juniper", "Kestrel", "Larch", "Meridian", "Nimbus", "Orchid", "Pioneer", "Quartz", "Ridge",
    "Summit", "Tundra",
)  # fmt: skip
_NAME_ENDS: Final = (
    "Analytics", "Biotech", "Clinics", "Dynamics", "Energy", "Foods", "Games", "Hotels",
    "Insurance", "Logistics", "Media", "Networks", "Optics", "Robotics", "Studios", "Travel",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """One tenant of a plan.

    Args:
        seed: The plan's seed.
        ordinal: Its place in the plan, from 0.
        name: What it is called.
        slug: Its name in URLs.
        users: Number of users.
        chunks: Number of knowledge chunks.
    """

    seed: int
    ordinal: int
    name: str
    slug: str
    users: int
    chunks: int

    def fingerprint(self, corpus_digest: str) -> str:
        """Return what tells this tenant's rows from those of any other plan or documentation."""
        parts = (_FORMAT, self.seed, self.ordinal, self.slug, self.users, self.chunks)
        text = "|".join(map(str, (*parts, corpus_digest)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """The size of a seed. The same plan makes the same bytes on every machine.

    Args:
        seed: Another number makes another data set of the same size.
        tenants: How many; their sizes follow Zipf's law (1, 1/2, 1/3, …), as customers' do.
        users: Users of all tenants together, at least one in each. Widgets, meetings,
            conversations, messages and costs grow with them.
        chunks: Knowledge chunks of all tenants together, at least one in each.

    Raises:
        InvalidValueError: A number is not an int, out of range, or too small for the tenants.
    """

    seed: int = 7
    tenants: int = 3
    users: int = 30
    chunks: int = 600

    def __post_init__(self) -> None:
        for each in fields(self):
            value: object = getattr(self, each.name)
            low, high = _LIMITS[each.name]
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidValueError(
                    f"--{each.name} is {value!r}; a whole number from {low:,} to {high:,} is "
                    "required."
                )
        for name in ("users", "chunks"):
            if getattr(self, name) < self.tenants:
                raise InvalidValueError(
                    f"--{name} is {getattr(self, name):,} for {self.tenants:,} tenants together; "
                    "at least one for each is required."
                )

    def tenant_plans(self) -> tuple[TenantPlan, ...]:
        """Return the plan of each tenant, the largest first."""
        users, chunks = _zipf(self.users, self.tenants), _zipf(self.chunks, self.tenants)
        return tuple(
            TenantPlan(self.seed, ordinal, name, name.lower().replace(" ", "-"), *sizes)
            for ordinal, (name, *sizes) in enumerate(
                zip(map(_name, range(self.tenants)), users, chunks, strict=True)
            )
        )


def _zipf(total: int, parts: int) -> list[int]:
    """Split ``total`` into shares of 1, 1/2, 1/3, …, each at least 1; integers only."""
    unit = 10**12
    weights = [unit // rank for rank in range(1, parts + 1)]
    shares = [1 + (total - parts) * weight // sum(weights) for weight in weights]
    shares[0] += total - sum(shares)
    return shares


def _name(ordinal: int) -> str:
    if ordinal < len(_FIRST_NAMES):
        return _FIRST_NAMES[ordinal]
    number, end = divmod(ordinal - len(_FIRST_NAMES), len(_NAME_ENDS))
    number, start = divmod(number, len(_NAME_STARTS))
    # Shifted, so that neighbours differ in both words.
    first = _NAME_STARTS[(start + end) % len(_NAME_STARTS)]
    return f"{first} {_NAME_ENDS[end]}" + (f" {number + 1}" if number else "")
