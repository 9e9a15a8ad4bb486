"""The command line, ``tenantry``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        # Here, so that Ctrl-C is one line while the imports still run, half a second of them.
        from tenantry.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted.\n")
        sys.exit(1)
