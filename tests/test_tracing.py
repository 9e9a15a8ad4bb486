"""What the tests' own helper for coverage promises."""

from __future__ import annotations

import os
import sys

from tests.tracing import CONFIGURATION, without


def test_after_a_pause_processes_are_still_left_alone() -> None:
    """Nor is what coverage wraps around the end of a process wrapped once more."""
    end = os._exit
    with without():
        pass
    assert CONFIGURATION not in os.environ
    assert os._exit is end


def test_nothing_is_traced_in_a_pause() -> None:
    """Nor by the tracing that a process of pytest-xdist's began with."""
    with without():
        assert sys.gettrace() is None
