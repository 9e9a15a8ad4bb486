"""Whether the database answers, asked by as many as like to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["Readiness"]


class Readiness:
    """One question for all who ask at the same moment, whose answer is kept for a second.

    Args:
        ping: The question. It raises where the answer is no.
        kept_seconds: How long an answer holds.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]], *, kept_seconds: float = 1.0) -> None:
        self._ping = ping
        self._kept_seconds = kept_seconds
        self._asking: asyncio.Task[None] | None = None
        self._answered_at = 0.0

    async def ask(self) -> None:
        """Return where the answer is yes.

        Raises:
            Exception: What the question has raised.
        """
        now = asyncio.get_running_loop().time()
        task = self._asking
        if task is None or (task.done() and now - self._answered_at >= self._kept_seconds):
            task = self._asking = asyncio.create_task(self._question())
        await asyncio.shield(task)  # who goes away takes the answer from nobody

    async def _question(self) -> None:
        try:
            await self._ping()
        finally:
            self._answered_at = asyncio.get_running_loop().time()
