"""The command line, ``tenantry``."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    # What is imported stays to the end. To look through it again and again for what could be freed,
    # the last time at the exit, took a third of a short command's time.
    gc.disable()
    try:
        # Here, so that Ctrl-C is one line while the imports still run, half a second of them.
        from tenantry.cli.main import main as run

        gc.freeze()
        gc.enable()
        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted.\n")
        sys.exit(1)
