"""The hashing pool: order, bounds, cancellation, memory, and an event loop that stays awake."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tenantry.auth import hashing
from tenantry.auth.hashing import HashingPool, usable_cores
from tenantry.auth.passwords import hash_password
from tenantry.auth.profiles import TESTING_HASHING, Argon2Parameters
from tenantry.errors import BusyError, ConfigurationError, SessionUseError

CHEAP = TESTING_HASHING


class Gate:
    """Stands in for a slow hash: it starts, is noted, and ends when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[bytes] = []
        self.open = threading.Semaphore(0)
        monkeypatch.setattr(hashing, "hash_password", self._hash)

    def _hash(self, prepared: bytes, parameters: Argon2Parameters) -> str:
        self.started.append(prepared)
        assert self.open.acquire(timeout=10)
        return hash_password(prepared, parameters)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
async def pool() -> AsyncIterator[HashingPool]:
    pool = HashingPool(1, max_waiting=3)
    yield pool
    pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads set no events
            await asyncio.sleep(0.001)


async def ask(pool: HashingPool, *names: bytes) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(pool.hash(name, CHEAP)) for name in names]
    await asyncio.sleep(0.01)
    return tasks


async def test_it_hashes_and_verifies(pool: HashingPool) -> None:
    """What it returns is what the functions return, and an error in a thread is the caller's."""
    stored = await pool.hash(b"mine", CHEAP)
    assert await pool.verify(stored, b"mine", parameters=CHEAP) == (True, False)
    assert await pool.verify(stored, b"other", parameters=CHEAP) == (False, False)
    assert await pool.verify(None, b"mine", parameters=CHEAP) == (False, False)
    with pytest.raises(TypeError):
        await pool.hash("no bytes", CHEAP)  # type: ignore[arg-type]
    assert (pool.running, pool.waiting) == (0, 0)


async def test_a_permit_for_each_hash(gate: Gate) -> None:
    """No more hashes run at a time than there are permits; the others wait."""
    pool = HashingPool(2)
    tasks = await ask(pool, b"1", b"2", b"3", b"4")
    await until(lambda: len(gate.started) == 2)
    assert (pool.running, pool.waiting) == (2, 2)
    gate.open.release(4)
    await asyncio.gather(*tasks)
    assert len(gate.started) == 4
    assert (pool.running, pool.waiting) == (0, 0)
    pool.close()


async def test_first_come_first_served(pool: HashingPool, gate: Gate) -> None:
    """Callers are served in the order in which they asked, and nobody overtakes."""
    tasks = await ask(pool, b"1", b"2", b"3")
    gate.open.release()
    await tasks[0]
    tasks += await ask(pool, b"4")
    gate.open.release(3)
    await asyncio.gather(*tasks)
    assert gate.started == [b"1", b"2", b"3", b"4"]


async def test_a_full_queue_answers_at_once(pool: HashingPool, gate: Gate) -> None:
    """One more than may wait is told "busy" at once, with a time to come back after."""
    pool._seconds = 2.0
    tasks = await ask(pool, b"1", b"2", b"3", b"4")
    with pytest.raises(BusyError) as caught:
        await asyncio.wait_for(pool.hash(b"5", CHEAP), 0.5)
    assert caught.value.retry_after_seconds == 8  # 1 runs and 3 wait, 2 seconds each
    gate.open.release(4)
    await asyncio.gather(*tasks)
    assert b"5" not in gate.started
    gate.open.release()
    assert await pool.hash(b"6", CHEAP)


async def test_cancelled_while_waiting_is_gone_at_once(pool: HashingPool, gate: Gate) -> None:
    """Who is cancelled in the queue leaves room in it, and nothing is hashed for them."""
    first, second, third, fourth = await ask(pool, b"1", b"2", b"3", b"4")
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert pool.waiting == 2
    (fifth,) = await ask(pool, b"5")
    gate.open.release(4)
    await asyncio.gather(first, third, fourth, fifth)
    assert gate.started == [b"1", b"3", b"4", b"5"]
    assert (pool.running, pool.waiting) == (0, 0)


async def test_cancelled_while_hashing_frees_nothing_yet(pool: HashingPool, gate: Gate) -> None:
    """A caller who is gone still holds the permit, until the thread with the memory has ended."""
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    first, second = await ask(pool, b"1", b"2")
    await until(lambda: gate.started == [b"1"])
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0.05)
    assert gate.started == [b"1"]
    assert (pool.running, pool.waiting) == (1, 1)
    gate.open.release(2)
    assert await second
    assert gate.started == [b"1", b"2"]
    loop.set_exception_handler(None)
    assert complaints == []


async def test_cancelled_when_the_turn_has_come(pool: HashingPool, gate: Gate) -> None:
    """A turn that reaches somebody who was cancelled at that moment goes to the next."""
    first, second, third = await ask(pool, b"1", b"2", b"3")
    release = pool._release

    def release_and_cancel() -> None:
        release()
        pool._release = release  # type: ignore[method-assign]
        second.cancel()

    pool._release = release_and_cancel  # type: ignore[method-assign]
    gate.open.release(2)
    await first
    assert await third
    assert second.cancelled()
    assert gate.started == [b"1", b"3"]
    assert (pool.running, pool.waiting) == (0, 0)


async def test_many_cancelled_at_random_lose_no_permit() -> None:
    """After hundreds of callers, half of them cancelled at any moment, all permits are free."""
    pool = HashingPool(2, max_waiting=500)
    tasks = [asyncio.create_task(pool.hash(b"%d" % n, CHEAP)) for n in range(300)]
    for number, task in enumerate(tasks):
        if number % 2:
            await asyncio.sleep(0)
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, str) for each in results[::2])
    await until(lambda: pool.running == 0)
    assert pool.waiting == 0
    assert pool._threads == 2
    pool.close()


async def test_a_closed_pool_refuses_and_ends_its_threads(gate: Gate) -> None:
    """close() refuses who waits and who comes, lets the running end, and leaves no thread."""
    pool = HashingPool(1)
    before = {each for each in threading.enumerate() if each.name == "tenantry-hash"}
    running, waiting = await ask(pool, b"1", b"2")
    (thread,) = (
        each
        for each in threading.enumerate()
        if each.name == "tenantry-hash" and each not in before
    )
    pool.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await waiting
    with pytest.raises(ConfigurationError, match="closed"):
        await pool.hash(b"3", CHEAP)
    gate.open.release()
    assert await running
    await until(lambda: not thread.is_alive())
    assert gate.started == [b"1"]


async def test_a_pool_belongs_to_one_event_loop(pool: HashingPool) -> None:
    """Another loop is refused instead of waiting for ever."""
    await pool.hash(b"1", CHEAP)
    with pytest.raises(SessionUseError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(pool.hash(b"2", CHEAP)))


def test_a_loop_that_is_gone_takes_nothing_with_it(gate: Gate) -> None:
    """A hash that ends after its loop has been closed ends quietly."""

    async def leave() -> HashingPool:
        pool = HashingPool(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.hash(b"1", CHEAP), 0.05)
        return pool

    before = set(threading.enumerate())
    asyncio.run(leave())
    (thread,) = set(threading.enumerate()) - before
    gate.open.release()
    thread.join(10)
    assert not thread.is_alive()


def test_a_pool_needs_a_permit() -> None:
    """No permits, or a queue of negative length, is refused."""
    with pytest.raises(ConfigurationError, match="permits is 0"):
        HashingPool(0)
    with pytest.raises(ConfigurationError, match="max_waiting is -1"):
        HashingPool(max_waiting=-1)


@pytest.mark.parametrize(
    ("affinity", "cpu_max", "cores", "permits"),
    [
        (8, None, 8, 7),
        (8, "max 100000", 8, 7),
        (8, "150000 100000", 2, 1),
        (8, "20000 100000", 1, 1),
        (1, None, 1, 1),
        (2, "garbage", 2, 1),
        (2, "1600000 100000", 2, 1),
    ],
)
def test_one_hash_fewer_than_cores(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    affinity: int,
    cpu_max: str | None,
    cores: int,
    permits: int,
) -> None:
    """A core is left for everything else; a container's share counts, and not its host's cores."""
    path = tmp_path / "cpu.max"
    if cpu_max is not None:
        path.write_text(cpu_max + "\n")
    monkeypatch.setattr(hashing, "_CPU_MAX", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    assert usable_cores() == cores
    assert HashingPool().permits == permits


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux has SCHED_IDLE.")
async def test_hashing_gives_way_and_the_rest_does_not(
    pool: HashingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's threads run when nothing else wants to; the loop's own is left as it was."""
    seen: list[int] = []

    def look(prepared: bytes, parameters: Argon2Parameters) -> str:
        seen.append(os.sched_getscheduler(0))
        return ""

    monkeypatch.setattr(hashing, "hash_password", look)
    await pool.hash(b"", CHEAP)
    assert seen == [os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_where_no_thread_may_give_way_hashing_goes_on(
    pool: HashingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that refuses, or has no such call, still hashes."""

    def refuse(*args: object) -> None:
        raise PermissionError("sandbox")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    assert await pool.hash(b"1", CHEAP)


_STORM = """
import asyncio, pathlib, resource, sys
from tenantry.auth.hashing import HashingPool
from tenantry.auth.passwords import verify
from tenantry.auth.profiles import RFC_9106_SECOND as costs, Argon2Parameters

def peak_mib():
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # ru_maxrss would be the parent's, where that is larger.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10

async def main():
    pool = HashingPool(2, max_waiting=40)
    await pool.verify(None, b"x", parameters=Argon2Parameters(1, 64, 1))
    before = peak_mib()
    once = Argon2Parameters(1, costs.memory_kib, costs.parallelism)
    await asyncio.gather(*(pool.verify(None, b"x", parameters=once) for _ in range(40)))
    print(peak_mib() - before)

asyncio.run(main())
"""


def test_memory_is_bounded_by_the_permits() -> None:
    """40 hashes of 64 MiB at once, 2 permits: no more than 2 times 64 MiB, and 50 MiB."""
    code = [sys.executable, "-c", _STORM]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert 2 * 64 - 10 < float(done.stdout) < 2 * 64 + 50
