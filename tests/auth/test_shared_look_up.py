"""Look-ups that share statements: each caller gets its own answer, whoever else goes away."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from tenantry import Database
from tenantry.auth import Auth, UserInfo
from tenantry.auth.looking_up import Question, SharedLookUp
from tenantry.auth.tokens import make_api_key, make_token
from tenantry.errors import DatabaseUnavailableError, InvalidTokenError
from tests.auth.conftest import EMAIL, PASSWORD, Later
from tests.conftest import TenantPair, Urls, open_connection

REFUSED = "refused"


@dataclass(frozen=True)
class Case:
    """A token or key, and what it must come to: the session's id, the tenant's, or a refusal."""

    text: str
    expected: str
    is_key: bool = False


@pytest.fixture
async def cases(auth: Auth, ada: UserInfo, tenants: TenantPair, later: Later) -> list[Case]:
    """Good and bad ones, of two tenants and several users, due to be renewed and not."""
    users = [ada]
    for number, tenant in enumerate([*tenants] * 2):
        users.append(await auth.register(tenant.id, f"u{number}@acme.example", PASSWORD))
    expired = [await auth.sign_in(each.tenant_id, each.email, PASSWORD) for each in users]
    bad = [each.token for each in expired]
    await later(timedelta(hours=24))
    cases = []
    for due in (True, False):
        for user in users:
            made = [await auth.sign_in(user.tenant_id, user.email, PASSWORD) for _ in range(2)]
            cases.append(Case(made[0].token, made[0].session.id))
            await auth.sign_out(made[1].token)
            bad.append(made[1].token)
        if due:
            await later(timedelta(hours=2))
    good = [case.text for case in cases]
    bad += [one[:59] + other[59:] for one, other in itertools.pairwise(good)]
    bad += [str(uuid4()) + one[36:] for one in good[:2]]
    bad += [str(tenants.b.id) + one[36:] for one in good if str(tenants.a.id) in one]
    bad += [make_token(ada.tenant_id)[0] for _ in range(3)]
    bad += ["", "rubbish", good[0] + "\n"]
    cases += [Case(each, REFUSED) for each in bad]
    for tenant in tenants:
        key = (await auth.issue_api_key(tenant.id)).key
        cases.append(Case(key, str(tenant.id), is_key=True))
        cases.append(Case(make_api_key(tenant.id)[0], REFUSED, is_key=True))
    return cases


async def ask(auth: Auth, case: Case) -> None:
    """Look that the answer is the case's own."""
    try:
        if case.is_key:
            found = str((await auth.authenticate_api_key(case.text)).tenant_id)
        else:
            principal = await auth.validate(case.text)
            found = str(principal.session_id)
            assert case.text.startswith(str(principal.tenant_id))
    except InvalidTokenError:
        found = REFUSED
    assert found == case.expected


def is_at_rest(auth: Auth) -> bool:
    """Whether every connection has come back, and nobody waits."""
    return all(
        len(each._idle) == len(each._all) and not each._waiting and not each._served
        for each in (auth._sessions, auth._api_keys)
    )


async def test_everybody_gets_their_own_answer(
    auth: Auth, cases: list[Case], observer: asyncpg.Connection
) -> None:
    """500 mixed ones at a time, a third of them cancelled at any moment: no answer goes astray."""

    for seed in range(12):
        await storm(auth, cases, random.Random(seed))
    states = await observer.fetch(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE '%tenantry.%' AND pid <> pg_backend_pid()"
    )
    assert {row["state"] for row in states} == {"idle"}


async def storm(auth: Auth, cases: list[Case], chance: random.Random) -> None:
    """500 look-ups, begun and cancelled at random moments."""
    tasks, cancelled = [], set()
    for _ in range(500):
        task = asyncio.create_task(ask(auth, chance.choice(cases)))
        tasks.append(task)
        if chance.random() < 0.3:
            victim = chance.choice(tasks)
            if victim.cancel():
                cancelled.add(victim)
        for _ in range(chance.choice((0, 0, 0, 1, 2))):
            await asyncio.sleep(0)
        if chance.random() < 0.02:
            await asyncio.sleep(chance.random() * 0.004)
    async with asyncio.timeout(30):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for task, result in zip(tasks, results, strict=True):
        assert result is None or (
            task in cancelled and isinstance(result, asyncio.CancelledError)
        ), result
    assert sum(result is None for result in results) > 200
    for _ in range(100):
        if is_at_rest(auth):
            break
        await asyncio.sleep(0.01)
    assert is_at_rest(auth)


async def test_a_cancelled_caller_leaves_no_answer_behind(
    auth: Auth, cases: list[Case], observer: asyncpg.Connection
) -> None:
    """Cancelled while its answer is under way, the next one on that connection gets its own."""
    good = [case for case in cases if case.expected != REFUSED and not case.is_key]
    for crowd in (1, 30):
        async with observer.transaction():
            await observer.execute("LOCK TABLE sessions")
            tasks = [asyncio.create_task(ask(auth, good[0])) for _ in range(crowd)]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for case in good[1:]:
            await ask(auth, case)
        await asyncio.gather(*(ask(auth, case) for case in cases))
        assert all(task.cancelled() for task in tasks)
    assert is_at_rest(auth)


async def test_a_cancelled_caller_takes_nobody_along(
    auth: Auth, cases: list[Case], observer: asyncpg.Connection
) -> None:
    """Of those who share a statement, one goes and the others get their answers."""
    async with observer.transaction():
        await observer.execute("LOCK TABLE sessions")
        tasks = [asyncio.create_task(ask(auth, case)) for case in cases * 4]
        await asyncio.sleep(0.05)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0.01)
    await asyncio.wait(tasks)
    assert all(task.exception() is None for task in tasks[1::2])


async def test_an_answer_is_never_older_than_its_question(
    auth: Auth, db: Database, ada: UserInfo
) -> None:
    """Whoever asks after a change was committed sees it, in whatever crowd the question goes."""
    token = (await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)).token
    stop, asked = asyncio.Event(), 0

    async def crowd() -> None:
        while not stop.is_set():
            await auth.validate(token)

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(crowd())
        for role in ("admin", "member", "owner") * 5:
            async with db.tenant(ada.tenant_id) as tx:
                await tx.execute(text("UPDATE users SET role = :role"), {"role": role})
            told = await asyncio.gather(*(auth.validate(token) for _ in range(20)))
            assert {principal.role for principal in told} == {role}
            asked += len(told)
        stop.set()
    assert asked == 300


NUMBERS = Question(
    one="SELECT $1::int AS number WHERE $1::int >= 0",
    many="SELECT place, number, number % 2 = 1 AS odd"
    " FROM unnest($1::int[]) WITH ORDINALITY asked (number, place) WHERE number >= 0",
    again="SELECT place, number + 1000 FROM unnest($1::int[]) WITH ORDINALITY a (number, place)",
)


@pytest.fixture
def numbers(urls: Urls) -> SharedLookUp:
    """Finds natural numbers; an odd one is asked for again, which adds 1000 in a crowd."""
    return SharedLookUp(NUMBERS, lambda: open_connection(urls.app))


async def test_places_are_kept(numbers: SharedLookUp) -> None:
    """What is not found, what is asked for again, and duplicates: each in its own place."""
    keys = [*range(-5, 600), *range(-5, 5), 7, 7, 7]
    for _ in range(3):
        rows = await asyncio.gather(*(numbers.find((key,)) for key in keys))
        for key, row in list(zip(keys, rows, strict=True))[1:]:
            if key < 0:
                assert row is None
            else:
                assert row is not None
                assert row[1] == key + 1000 * (key % 2)
    await numbers.close()


async def test_an_error_that_nobody_foresaw_reaches_everybody(
    numbers: SharedLookUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told, in an error of ours, and the connection is given back."""

    async def fail(*args: object) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr(numbers, "_ask_many", fail)
    async with asyncio.timeout(5):
        results = await asyncio.gather(
            *(numbers.find((key,)) for key in range(20)), return_exceptions=True
        )
    assert {type(each) for each in results[1:]} == {DatabaseUnavailableError}
    assert not [each for each in results if "secret" in str(each)]
    monkeypatch.undo()
    assert (await numbers.find((4,))) is not None
    await numbers.close()


async def test_errors_are_not_shared(numbers: SharedLookUp, urls: Urls) -> None:
    """Each caller raises an exception of its own: tracebacks of requests do not mix."""
    broken = SharedLookUp(NUMBERS, lambda: open_connection(urls.app.set(database="there_is_none")))
    results = await asyncio.gather(
        *(broken.find((key,)) for key in range(20)), return_exceptions=True
    )
    assert {type(each) for each in results} == {DatabaseUnavailableError}
    assert len({id(each) for each in results}) == 20
    await broken.close()
    await numbers.close()


async def test_what_follows_a_failure_is_a_new_connection(
    numbers: SharedLookUp, urls: Urls
) -> None:
    """A statement that fails does not leave its connection to the next one."""
    opened: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        opened.append(await open_connection(urls.app))
        return opened[-1]

    wrong = SharedLookUp(Question(one="SELECT 1 / $1::int", many=""), connect)
    assert (await wrong.find((1,)))[0] == 1  # type: ignore[index]
    with pytest.raises(DatabaseUnavailableError):
        await wrong.find((0,))
    assert opened[-1].is_closed()
    assert (await wrong.find((1,)))[0] == 1  # type: ignore[index]
    assert len(opened) <= 3
    await wrong.close()
    assert all(each.is_closed() for each in opened)
    await numbers.close()
