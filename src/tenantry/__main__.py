"""``python -m tenantry``."""

from __future__ import annotations

from tenantry.cli import main

main()
