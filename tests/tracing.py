"""What coverage traces: it makes Python half as slow again, and the same lines need it but once.

A test, or a process that a test starts, is judged with or without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from coverage import Coverage

__all__ = ["CONFIGURATION", "UNTRACED", "leave_processes_alone", "trace_once", "traced", "without"]

UNTRACED: Final = pytest.StashKey[bool]()
"""Of a test, with its setting up: coverage does not look."""

CONFIGURATION: Final = "COVERAGE_PROCESS_CONFIG"
"""Where coverage tells the processes below how to measure."""

_taken: list[str] = []


def trace_once() -> None:
    """End the tracing that began with this process, before pytest-cov begins its own.

    A process of pytest-xdist's has both, and when one pauses the other goes on.
    """
    if measured := Coverage.current():
        measured.stop()


def leave_processes_alone() -> None:
    """Have coverage trace no process below, but for those that are given `traced`."""
    if given := os.environ.pop(CONFIGURATION, None):
        _taken.append(given)


def traced() -> dict[str, str]:
    """What a process needs in its environment to be traced, where this one is."""
    return {CONFIGURATION: _taken[-1]} if _taken else {}


@contextmanager
def without() -> Iterator[None]:
    """Within the block nothing is traced."""
    measured = Coverage.current()
    if measured is None:
        yield
        return
    measured.stop()
    # To start again would apply the patches again: each time one more around os._exit, and the
    # environment would have every process below traced.
    measured.set_option("run:patch", [])
    try:
        yield
    finally:
        measured.start()
