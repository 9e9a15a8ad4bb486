"""What the doctor found, as data: the doors print it as a table or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Diagnosis", "State"]

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at.

    Args:
        name: What, as in ``clock``. Names are stable.
        state: ``problem``: mend it before you rely on this database. ``warning``: know it, and
            mend it where it does not fit. A check that could not run is a problem.
        found: What was found, in a sentence or a few words; no password, no URL with one.
        advice: What to do, or empty.
    """

    name: str
    state: State
    found: str
    advice: str = ""
