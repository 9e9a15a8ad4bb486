"""Embedders: loading them by name, holding them to their contract, and the built-in one."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import ConfigurationError, InvalidValueError
from tenantry.knowledge import HASH_EMBEDDER, Embedder, embed, hash_embedding, load_embedder
from tenantry.schema import EMBEDDING_DIMENSIONS


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def test_built_in_embedder_is_loaded_by_its_name() -> None:
    """The name that the command line shows loads the function."""
    assert load_embedder(HASH_EMBEDDER) is hash_embedding


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_module_in_the_current_directory_is_found(here: Path) -> None:
    """A file beside the documents can hold the embedder, and sys.path is as before."""
    (here / "my_local_embedder.py").write_text(
        "class A:\n    run = staticmethod(lambda texts: [[4.0]])\n"
    )
    before = list(sys.path)
    assert load_embedder("my_local_embedder:A.run")(["x"]) == [[4.0]]
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "module:function"),
        ("json", "module:function"),
        (":dumps", "module:function"),
        ("json:", "module:function"),
        ("json:dumps()", "module:function"),
        ("../evil:run", "module:function"),
        ("no_such_module_xyz:run", "no module no_such_module_xyz"),
        ("no_such_package.inner:run", "no module no_such_package"),
        ("json:no_such_function", "has no no_such_function"),
        ("sys:version", "is a str; a function"),
    ],
)
def test_name_that_leads_nowhere(name: str, message: str) -> None:
    """Each way in which a name can be wrong has its own message."""
    with pytest.raises(ConfigurationError, match=message):
        load_embedder(name)


def test_module_that_fails_on_import(here: Path) -> None:
    """An error in the embedder's module is reported with its type and text."""
    (here / "broken_embedder.py").write_text("1 / 0")
    with pytest.raises(ConfigurationError, match="ZeroDivisionError"):
        load_embedder("broken_embedder:run")
    (here / "needs_more.py").write_text("import no_such_dependency_xyz")
    with pytest.raises(ConfigurationError, match=r"no module no_such_dependency_xyz\. The module"):
        load_embedder("needs_more:run")


async def test_plain_function_runs_in_a_thread() -> None:
    """A slow embedder does not stop the event loop."""
    threads = []

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        threads.append(threading.current_thread())
        return hash_embedding(texts)

    assert await embed(embedder, ["a", "b"]) == hash_embedding(["a", "b"])
    assert threads[0] is not threading.main_thread()


async def test_coroutine_function_is_awaited_in_the_loop() -> None:
    """An asynchronous embedder runs where it can use the loop, as function or as object."""

    class Client:
        async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
            await asyncio.sleep(0)
            return hash_embedding(texts)

    assert await embed(Client(), ["a"]) == hash_embedding(["a"])
    assert await embed(Client().__call__, ["a"]) == hash_embedding(["a"])


def test_interruption_does_not_wait_for_a_plain_function() -> None:
    """A model that takes a minute for a batch kept Ctrl-C waiting for as long."""
    never = threading.Event()

    async def interrupted() -> None:
        async with asyncio.timeout(0.1):
            await embed(lambda texts: [[1.0] * int(never.wait(5))], ["one"])

    started = perf_counter()
    with pytest.raises(TimeoutError):
        asyncio.run(interrupted())
    assert perf_counter() - started < 3
    never.set()


async def test_embedder_that_has_run_out() -> None:
    """`next()` without more to give is an error like others, and not an import that never ends."""
    empty = iter(())
    with pytest.raises(ConfigurationError, match="StopIteration"):
        await asyncio.wait_for(embed(lambda texts: next(empty), ["one"]), 5)


async def raise_cancelled(texts: Sequence[str]) -> list[list[float]]:
    raise asyncio.CancelledError


async def await_cancelled(texts: Sequence[str]) -> list[list[float]]:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task
    return []


def raise_cancelled_in_a_thread(texts: Sequence[str]) -> list[list[float]]:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "embedder", [raise_cancelled, await_cancelled, raise_cancelled_in_a_thread]
)
async def test_embedder_that_is_cancelled_within(embedder: Embedder) -> None:
    """A client that gives its own request up has failed: nobody has cancelled who embeds."""
    with pytest.raises(ConfigurationError, match="failed with CancelledError"):
        await asyncio.wait_for(embed(embedder, ["one"]), 5)


async def test_whoever_embeds_can_be_cancelled() -> None:
    """Then it is no failure of the embedder's, asynchronous or in a thread."""
    never, begun = threading.Event(), asyncio.Event()

    async def asynchronous(texts: Sequence[str]) -> list[list[float]]:
        begun.set()
        await asyncio.sleep(60)
        return []

    loop = asyncio.get_running_loop()

    def plain(texts: Sequence[str]) -> list[list[float]]:
        loop.call_soon_threadsafe(begun.set)
        never.wait(60)
        return []

    for embedder in (asynchronous, plain):
        begun.clear()
        task = asyncio.create_task(embed(embedder, ["one"]))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    never.set()


async def test_no_texts_need_no_embedder() -> None:
    """Nothing to embed: the embedder is not called."""

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        raise AssertionError

    assert await embed(embedder, []) == []


GOOD = [1.0] + [0.0] * (EMBEDDING_DIMENSIONS - 1)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([], "0 vectors for 2 texts"),
        ([GOOD] * 3, "3 vectors for 2 texts"),
        (None, "returned a NoneType"),
        ("ab", "returned a str"),
        ([GOOD, [1.0] * 384], "vector 1 has 384 dimensions"),
        ([GOOD, [math.nan, *GOOD[1:]]], r"vector 1\[0\] is nan"),
        ([GOOD, [math.inf, *GOOD[1:]]], r"vector 1\[0\] is inf"),
        ([[0.0] * EMBEDDING_DIMENSIONS, GOOD], "vector 0 has length zero"),
        ([GOOD, ["x"] * EMBEDDING_DIMENSIONS], "vector 1 must hold float32"),
        ([GOOD, None], "vector 1 is a NoneType"),
    ],
)
async def test_embedder_that_breaks_its_contract(vectors: object, message: str) -> None:
    """What an embedder returns is checked, and the message names the embedder and the vector."""

    async def embedder(texts: Sequence[str]) -> object:
        return vectors

    with pytest.raises(InvalidValueError, match=f"(?i)the embedder mine.*{message}"):
        await embed(embedder, ["a", "b"], name="mine")  # type: ignore[arg-type]


async def test_embedder_that_fails() -> None:
    """An embedder's own error becomes the cause of one that names the embedder."""

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        raise OSError("no route to host")

    with pytest.raises(ConfigurationError, match=r"mine failed with OSError: no route") as caught:
        await embed(embedder, ["a"], name="mine")
    assert isinstance(caught.value.__cause__, OSError)


@given(st.text())
def test_hash_embedding_is_always_a_unit_vector(text: str) -> None:
    """Any text whatsoever gets a vector for which cosine distance is defined."""
    [vector] = hash_embedding([text])
    assert len(vector) == EMBEDDING_DIMENSIONS
    assert math.isclose(cosine(vector, vector), 1.0, rel_tol=1e-9)


@pytest.mark.parametrize(
    "text", ["", "   ", "🎉", "🎉🎊", "?!", "\ud800", "\0", "漢字", "a" * 100_000]
)
def test_hash_embedding_of_unusual_text(text: str) -> None:
    """Text without words has a direction too."""
    [vector] = hash_embedding([text])
    assert math.isclose(cosine(vector, vector), 1.0, rel_tol=1e-9)


def test_hash_embedding_is_the_same_everywhere() -> None:
    """These bytes were made once; another process, machine or Python makes them too."""
    text = "Every row carries its tenant. Straße, naïve, 東京, 42!"
    code = (
        "import sys, hashlib; from array import array; from tenantry.knowledge import *;"
        f"print(hashlib.sha256(array('d', hash_embedding([{text!r}])[0]).tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "12345")
    }
    own = hashlib.sha256(array("d", hash_embedding([text])[0]).tobytes()).hexdigest()
    assert digests == {own} == {"a06ecd6b95fcbff0087fa735ecee872992b72cd105a1b1621894df253bee0e28"}


def test_hash_embedding_is_lexical() -> None:
    """Shared words and stems bring texts together, case does not part them, meaning is unknown."""
    query, same, stem, other = hash_embedding(
        ["refund policy", "REFUND POLICY", "policies for refunds", "how to bake bread"]
    )
    assert cosine(query, same) == pytest.approx(1.0)
    assert cosine(query, stem) > 0.2 > cosine(query, other)
    car, automobile = hash_embedding(["car", "automobile"])
    assert abs(cosine(car, automobile)) < 0.2
