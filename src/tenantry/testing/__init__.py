"""Tests of what you build on tenantry: a pytest plugin, switched on by its name.

In the ``conftest.py`` at the root of your tests: ``pytest_plugins = ["tenantry.testing"]``.

PYTEST_DONT_REWRITE: a conftest.py may import it before pytest comes to rewrite its asserts.
"""

from __future__ import annotations

from tenantry.testing.isolation import assert_isolated
from tenantry.testing.recording import RecordedSql, Statement, recorded_sql
from tenantry.testing.report import IsolationError, IsolationReport, Leak, Unexercised
from tenantry.testing.workbench import PASSWORD, Credentials, Workbench, bearer

__all__ = [
    "PASSWORD",
    "Credentials",
    "IsolationError",
    "IsolationReport",
    "Leak",
    "RecordedSql",
    "Statement",
    "Unexercised",
    "Workbench",
    "assert_isolated",
    "bearer",
    "recorded_sql",
]

pytest_plugins = ["tenantry.testing.plugin", "tenantry.testing.fixtures"]
