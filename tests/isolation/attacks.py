"""Every attack, by name."""

from __future__ import annotations

from tests.isolation import attacks_on_rows, attacks_on_structure
from tests.isolation.attack import ATTACKS

__all__ = ["ATTACKS"]

assert {each.run.__module__ for each in ATTACKS.values()} == {
    attacks_on_rows.__name__,
    attacks_on_structure.__name__,
}
