"""The command line, ``tenantry``."""

from __future__ import annotations

from tenantry.cli.main import main

__all__ = ["main"]
