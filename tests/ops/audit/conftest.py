from __future__ import annotations

import pytest

from tenantry.ops.audit import auditing, live
from tenantry.ops.audit.attempts import answers


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit gives up what is locked, or takes long, after a fraction of its usual time."""
    begin = answers._BEGIN.replace("lock_timeout = '2s'", "lock_timeout = '300ms'")
    begin = begin.replace("statement_timeout = '5s'", "statement_timeout = '1500ms'")
    monkeypatch.setattr(answers, "_BEGIN", begin)
    bounds = [each.replace("'2s'", "'300ms'") for each in auditing._BOUNDS]
    monkeypatch.setattr(auditing, "_BOUNDS", bounds)
    monkeypatch.setattr(live, "_PATIENCE", "SET LOCAL lock_timeout = '300ms'")
