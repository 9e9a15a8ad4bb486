"""Pytest's hooks: the options, the run that its processes share, and the line at the end."""

from __future__ import annotations

import statistics
from typing import Any, Final

import pytest

from tenantry.testing.runs import Run

__all__ = ["CLONES", "RUN"]

RUN: Final = pytest.StashKey[Run]()
"""The run that a process takes part in."""
CLONES: Final = pytest.StashKey[list[float]]()
"""Seconds that each copy of the template took."""

_KEY: Final = "tenantry_testing"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options for pyproject.toml and pytest.ini."""
    parser.addini(
        "tenantry_models",
        "modules or files that declare your tables; by default those of [tool.tenantry], and what "
        "the tests import",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, or join that of the process which has started this one."""
    given = getattr(config, "workerinput", {}).get(_KEY)
    config.stash[RUN] = Run.join(given) if given else Run.begin()
    config.stash[CLONES] = []


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take away what the run has made, be it that it was interrupted."""
    run = config.stash.get(RUN, None)
    if run is not None:
        run.end()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist which run it takes part in."""
    node.workerinput[_KEY] = str(node.config.stash[RUN].folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that has started this one how long copying took."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_KEY] = session.config.stash[CLONES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take down how long copying took in a process of pytest-xdist."""
    del error
    node.config.stash[CLONES].extend(getattr(node, "workeroutput", {}).get(_KEY, ()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how many databases were made, and how long each took."""
    seconds = config.stash[CLONES]
    if seconds:
        median = statistics.median(seconds) * 1000
        count = f"{len(seconds)} database{'s' if len(seconds) > 1 else ''}"
        terminalreporter.write_line(f"tenantry: {count} cloned, median {median:.0f} ms")
