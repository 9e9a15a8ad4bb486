"""Hashing beside the event loop: a few threads, a bounded queue, and the loop goes first."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tenantry.auth.passwords import Verification, hash_password, verify
from tenantry.auth.profiles import Argon2Parameters
from tenantry.errors import BusyError, ConfigurationError, SessionUseError
from tenantry.tenancy.observing import Reading

__all__ = ["HashingPool", "usable_cores"]

_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")

_FIRST_GUESS_SECONDS: Final = 0.2
"""How long a hash takes until one was measured."""

_Job = tuple["asyncio.Future[Any]", Callable[[], Any]]
_Outcome = Any

T = TypeVar("T")


class HashingPool:
    """Runs hashes in threads of its own, a few at a time, in the order of asking.

    A caller that is cancelled while it waits leaves the queue, and nothing is hashed for it. One
    that is cancelled later frees no permit before its thread has ended: libargon2 cannot be
    interrupted, and its memory is taken until then.

    Args:
        permits: Hashes at a time, each with its own memory: 64 MiB in the profile STANDARD. None:
            one fewer than the usable cores, and at least one.
        max_waiting: Callers that may wait; the next is refused at once.

    Raises:
        ConfigurationError: ``permits`` is below 1 or ``max_waiting`` below 0.
    """

    def __init__(self, permits: int | None = None, *, max_waiting: int = 64) -> None:
        if permits is not None and permits < 1:
            raise ConfigurationError(f"permits is {permits}; at least 1 is required.")
        if max_waiting < 0:
            raise ConfigurationError(f"max_waiting is {max_waiting}; at least 0 is required.")
        self.permits = permits if permits is not None else max(1, usable_cores() - 1)
        self.max_waiting = max_waiting
        self._running = 0
        self._refused = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._seconds = _FIRST_GUESS_SECONDS
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def running(self) -> int:
        """How many hashes are being computed."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many callers wait for their turn."""
        return len(self._waiting)

    @property
    def refused(self) -> int:
        """How many callers were refused since the beginning, because too many waited."""
        return self._refused

    def readings(self) -> Iterator[Reading]:
        """Return `running`, `waiting` and `refused`."""
        yield Reading("hashes_running", self.running)
        yield Reading("hashes_waiting", self.waiting)
        yield Reading("hashes_refused", self.refused)

    def refuse_when_full(self) -> None:
        """Refuse at once what would be refused after other work.

        Raises:
            BusyError: Too many wait already.
        """
        if self._running >= self.permits and len(self._waiting) >= self.max_waiting:
            self._refused += 1
            raise BusyError(
                f"{len(self._waiting)} callers wait for a password's hash already. Try again "
                "later, or permit more hashes at a time on a machine with more cores.",
                retry_after_seconds=self._wait_seconds(),
            )

    async def hash(self, prepared: bytes, parameters: Argon2Parameters) -> str:
        """Return the PHC string of a prepared password, as `hash_password` does.

        Raises:
            BusyError: Too many wait already, or there is not enough memory.
            ConfigurationError: The pool is closed.
            SessionUseError: The pool belongs to another event loop.
        """
        return await self._run(partial(hash_password, prepared, parameters))

    async def verify(
        self, stored: str | None, prepared: bytes, *, parameters: Argon2Parameters
    ) -> Verification:
        """Verify a prepared password against what is stored, as `verify` does.

        Raises:
            BusyError: Too many wait already, or there is not enough memory.
            ConfigurationError: The pool is closed.
            SessionUseError: The pool belongs to another event loop.
        """
        return await self._run(partial(verify, stored, prepared, parameters=parameters))

    def close(self) -> None:
        """Refuse what comes and what waits, and end the threads when they are done."""
        self._closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(_closed())
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    async def _run(self, call: Callable[[], T]) -> T:
        loop = self._checked_loop()
        await self._permit(loop)
        # Nothing is awaited between the permit and the queue: no cancellation can lose it.
        if self._threads < self._running:
            self._start_thread(loop)
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((done, call))
        return await done

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        # A daemon: what nobody waits for any more must not hold up the end of the process.
        thread = threading.Thread(
            target=_work, args=(self._jobs, loop, self._ended), name="tenantry-hash", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._release()
            raise BusyError(
                "The system refuses another thread, so no password can be hashed. Permit the "
                "process more threads.",
                retry_after_seconds=1,
            ) from error
        self._threads += 1

    def _checked_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise _closed()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise SessionUseError(
                "This HashingPool belongs to another event loop. Make one for each loop."
            )
        return loop

    async def _permit(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._running < self.permits:
            self._running += 1
            return
        self.refuse_when_full()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come at the same moment: it goes to the next one.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release()
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            raise

    def _wait_seconds(self) -> int:
        ahead = self._running + len(self._waiting)
        return math.ceil(ahead * self._seconds / self.permits)

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the permit is handed on, so nobody can overtake
                return
        self._running -= 1

    def _ended(self, done: asyncio.Future[Any], outcome: _Outcome, seconds: float) -> None:
        self._seconds += (seconds - self._seconds) / 8
        self._release()
        if done.done():  # cancelled
            return
        if isinstance(outcome, BaseException):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and a container's share."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = _CPU_MAX.read_text().split()
        share = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no container, or one without a limit: "max"
        return cores
    return max(1, min(cores, share))


def _work(
    jobs: queue.SimpleQueue[_Job | None],
    loop: asyncio.AbstractEventLoop,
    ended: Callable[[asyncio.Future[Any], _Outcome, float], None],
) -> None:
    _give_way()
    while (job := jobs.get()) is not None:
        done, call = job
        started = time.perf_counter()
        outcome: _Outcome
        try:
            outcome = call()
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            outcome = error
        try:
            loop.call_soon_threadsafe(ended, done, outcome, time.perf_counter() - started)
        except RuntimeError:  # the loop is closed, and the caller gone with it
            return
        del job, done, call, outcome  # a password must not stay here until the next one comes


def _give_way() -> None:
    """Let every other thread go first, where the system has a word for it.

    SCHED_IDLE needs no privilege, and Linux treats a core that runs only such threads as free. A
    nice value does not do: what wakes up still waits for the end of a slice, some 3 ms.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # refused by a sandbox
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _closed() -> ConfigurationError:
    return ConfigurationError("This HashingPool is closed. Make a new one.")
