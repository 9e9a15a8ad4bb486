"""The walk of `assert_isolated`: what is asked, by whom, and in which order.

The order matters. The first tenant asks before the second, so that what an application keeps in
memory is there to be given away. Lists are asked for before any id of the first tenant was sent,
so that what only repeats an id is told from what knows it. What changes rows comes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import httpx

from tenantry.testing.actors import Actor
from tenantry.testing.answers import Answer, Asker, Limits, OutOfLimitsError
from tenantry.testing.applications import RunningApp, new_walker
from tenantry.testing.attacks import Attack, attacks_on
from tenantry.testing.judging import INTRUDER, NOBODY, NOTHING, TOO_MANY, Judge
from tenantry.testing.openapi import Operation
from tenantry.testing.planting import Planting, Snapshot, changes
from tenantry.testing.report import Leak, Unexercised
from tenantry.testing.requesting import Filled, Rows, fillings
from tenantry.testing.workbench import Workbench

__all__ = ["Walk"]

_ORDER: Final = {"POST": 0, "PUT": 1, "PATCH": 2, "WEBSOCKET": 3, "DELETE": 4}
_UNAUTHORIZED: Final = 401
_GONE: Final = (404, 410)
_LISTENING: Final = "nothing, while the other tenant used the application"
_SETTLING_SECONDS: Final = 0.1
"""Time in which listeners connect."""
_COUNTED: Final = "answers otherwise once the other tenant has more rows, as a count would"


class Walk:
    """One walk through an application.

    Args:
        running: The application.
        operations: What to try.
        bench: Makes the two tenants.
        planting: Fills the tenants.
        examples: Values by operation and name.
        limits: How far to go.
        host: The host of a tenant's own, with ``{slug}``; None: all have the same.
    """

    def __init__(
        self,
        running: RunningApp,
        operations: list[Operation],
        *,
        bench: Workbench,
        planting: Planting,
        examples: Mapping[str, Mapping[str, Any]],
        limits: Limits,
        host: str | None,
    ) -> None:
        self._running = running
        self._safe = [each for each in operations if each.is_safe]
        self._unsafe = [each for each in operations if not each.is_safe]
        self._unsafe.sort(key=lambda each: _ORDER[each.method])
        self._operations = operations
        self._planting = planting
        self._examples = examples
        self._asker = Asker(running, limits)
        self._host = host
        with_key = any(each.by_key for each in operations)
        self._owner = Actor(bench, running, planting, host, with_key)
        self._intruder = Actor(bench, running, planting, host, with_key)
        self._nobody = new_walker(running)
        self._judge = Judge()
        self._works: dict[tuple[Operation, int], Filled] = {}
        self._refusals: dict[Operation, list[str]] = {}
        self._silent: set[Operation] = set()
        self._gone: set[Operation] = set()
        self._lasting: set[Operation] = set()
        self._reached: set[Operation] = set()
        self._stopped = False

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self._asker.count

    @property
    def leaks(self) -> list[Leak]:
        """What was found."""
        return self._judge.leaks

    async def run(self) -> None:
        """Walk."""
        try:
            await self._run()
        except OutOfLimitsError:
            self._stopped = True
        finally:
            await self._nobody.aclose()
            for actor in self._actors:
                await actor.close()

    def unexercised(self) -> list[Unexercised]:
        """Return what is not known to be isolated."""
        found = [Unexercised(f"table {n}", why) for n, why in self._planting.failed.items()]
        reasons = ((each, self._why_not(each)) for each in self._operations)
        return found + [Unexercised(str(each), why) for each, why in reasons if why]

    def _why_not(self, operation: Operation) -> str | None:
        refusals = self._refusals.get(operation, [])
        if self._stopped and operation not in self._reached:
            return f"not reached with {self.requests} requests; raise max_requests or max_seconds"
        if any((operation, id(who)) in self._works for who in self._actors):
            if operation in self._silent:
                return "it has answered to nothing that was guessed; give its messages in examples="
            return None
        if all(each.startswith("401") for each in refusals):
            return "401 for signed-in users; does tenantry_credentials fit the application?"
        # 404 is what ids that were made up get; anything else says more.
        telling = [each for each in refusals if not each.startswith("404")] or refusals
        last = telling[-1] if telling else "nothing"
        return f"never carried out in {len(refusals)} requests, an answer was {last}"

    @property
    def _actors(self) -> tuple[Actor, Actor]:
        return self._owner, self._intruder

    async def _run(self) -> None:
        for actor in self._actors:
            await actor.settle()
        if self._host is not None:
            self._nobody.base_url = self._intruder.client.base_url
        filling = [each for each in self._unsafe if each.method != "DELETE"]
        for operation in (*self._safe, *filling, *self._safe):
            await self._use(operation, self._owner)
        await self._learn()
        await self._ask_for_lists()
        await self._see_influence()
        await self._listen()
        for operation in (*self._safe, *self._unsafe):
            await self._attack(operation)
            self._reached.add(operation)
        await self._ask_for_lists()
        await self._ask_as_owner(self._safe)

    async def _ask_for_lists(self) -> None:
        for operation in self._safe:
            await self._use(operation, self._intruder)
            await self._ask(self._nobody, operation, Attack(NOTHING, self._base(operation)))

    async def _learn(self) -> None:
        """Look at both tenants, and note what is the first one's alone."""
        for actor in self._actors:
            await actor.look()
        self._judge.learn(self._owner.secrets(), self._intruder.secrets())

    def _ways(self, operation: Operation, who: Actor) -> list[Filled]:
        examples = self._examples.get(str(operation), {})
        ways = list(fillings(operation, who.rows, examples))
        if operation.body and "password" in str(operation.body.get("properties", {})):
            known = {**who.own_credentials, **examples}
            ways = [*fillings(operation, who.rows, known), *ways]
        if (operation, id(who)) in self._works and operation.is_safe:
            ways.insert(0, self._works[operation, id(who)])
        return ways

    async def _use(self, operation: Operation, who: Actor) -> None:
        """Have a tenant use an operation on what is its own, until that is carried out once."""
        for filled in self._ways(operation, who):
            if who is self._owner:
                answer = await self._asker.ask(who.client, operation, filled)
            else:
                answer = await self._ask(who.client, operation, Attack(NOTHING, filled))
            who.learn(operation, answer)
            if not operation.is_safe:
                await who.stay_signed_in()
            if answer.ok:
                self._works[operation, id(who)] = filled
                if operation.is_socket or answer.endless:
                    self._lasting.add(operation)
                if operation.is_socket and not (answer.said or operation.messages):
                    self._silent.add(operation)
                if not operation.is_safe:
                    await who.look()
                return
            self._refusals.setdefault(operation, []).append(answer.complaint)
            if answer.status in {_UNAUTHORIZED, 0, *TOO_MANY} and "password" not in answer.sent:
                return

    async def _see_influence(self) -> None:
        """See whether what the second tenant is told depends on how much the first one has.

        A sum or a count holds no text by which it could be recognized. Twice the same answer, then
        another one once the first tenant has grown, and that once more: it is no accident.
        """
        seen = [await self._bodies(), await self._bodies()]
        await self._owner.grow()
        seen += [await self._bodies(), await self._bodies()]
        if any(_influenced(*each) for each in zip(*seen, strict=True)):
            await self._owner.grow()
            seen.append(await self._bodies())
            clients = ((each, who) for each in self._safe for who in self._strangers)
            for (operation, client), *each in zip(clients, *seen, strict=True):
                if _influenced(*each):
                    line = f"client.request({operation.method!r}, {operation.path!r}), twice"
                    self._judge.report(operation, self._name(client), NOTHING, _COUNTED, line)
        await self._learn()

    async def _listen(self) -> None:
        """Listen to what goes on while the first tenant uses the application."""
        lasting = [each for each in self._operations if each in self._lasting]
        if not lasting:
            return
        ended = asyncio.Event()
        heard = [
            asyncio.create_task(
                self._asker.ask(client, operation, self._base(operation), held=ended)
            )
            for operation in lasting
            for client in self._strangers
        ]
        try:
            await asyncio.sleep(_SETTLING_SECONDS)
            for operation in self._unsafe:
                filled = self._works.get((operation, id(self._owner)))
                if filled is not None:
                    answer = await self._asker.ask(self._owner.client, operation, filled)
                    self._owner.learn(operation, answer)
                    await self._owner.stay_signed_in()
        finally:
            ended.set()
            answers = await asyncio.gather(*heard)
        await self._learn()
        asked = ((each, who) for each in lasting for who in self._strangers)
        for (operation, client), answer in zip(asked, answers, strict=True):
            self._judge.look(operation, self._name(client), _LISTENING, answer)

    async def _bodies(self) -> list[dict[str, str]]:
        asked = [
            await self._asker.ask(client, operation, self._base(operation))
            for operation in self._safe
            for client in self._strangers
        ]
        return [{**e.headers, "": f"{e.status} {e.body}"} for e in asked]

    @property
    def _strangers(self) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        return self._intruder.client, self._nobody

    async def _attack(self, operation: Operation) -> None:
        if operation.method == "DELETE":
            await self._intruder.grow()
        if not operation.is_safe:
            await self._use(operation, self._intruder)
        for client in (None, self._nobody):  # the intruder's own may have to be made anew
            for attack in self._attacks(operation):
                await self._try(operation, client, attack)
            if changes(self._owner.snapshot, await self._current()):
                await self._find_the_change(operation, client)
            elif not operation.is_safe:
                await self._see_what_is_gone(operation, client)

    def _attacks(self, operation: Operation) -> list[Attack]:
        return list(
            attacks_on(
                operation, self._base(operation), self._theirs(), self._intruder.rows, self._host
            )
        )

    def _theirs(self) -> Rows:
        """Return the values of the first tenant that the second has not, too."""
        mine = self._intruder.rows
        found: Rows = {}
        for origin, values in self._owner.rows.items():
            known = {str(each) for each in mine.get(origin, ())}
            if left := [each for each in values if str(each) not in known]:
                found[origin] = left
        return found

    async def _try(
        self, operation: Operation, client: httpx.AsyncClient | None, attack: Attack
    ) -> Answer:
        answer = await self._ask(client, operation, attack)
        controls = [
            await self._ask(client, operation, Attack(attack.what, each))
            for each in attack.controls
        ]
        if controls:
            who = self._name(client)
            if self._judge.compare(operation, who, attack.what, answer, controls):
                again = await self._ask(client, operation, attack)
                self._judge.confirm(operation, who, attack.what, answer, again)
        if not operation.is_safe:
            await self._intruder.stay_signed_in()
        return answer

    async def _find_the_change(
        self, operation: Operation, client: httpx.AsyncClient | None
    ) -> None:
        """Do again what has changed rows of the first tenant, one by one."""
        what = "; ".join(changes(self._owner.snapshot, await self._current()))
        await self._owner.grow()
        await self._learn()
        who = self._name(client)
        for attack in self._attacks(operation):
            answer = await self._try(operation, client, attack)
            found = changes(self._owner.snapshot, await self._current())
            if found:
                what = f"it {'; '.join(found)}"
                self._judge.report(operation, who, attack.what, what, answer.line)
                break
        else:
            what = f"it {what}"
            self._judge.report(operation, who, "one of many requests", what, "not found")
        await self._owner.grow()
        await self._learn()

    async def _see_what_is_gone(
        self, operation: Operation, client: httpx.AsyncClient | None
    ) -> None:
        """See whether the first tenant still gets what the operation is about.

        It may be in no table of ours, where no row would be missed.
        """
        about = [each for each in self._safe if operation.path.startswith(each.path)]
        about = [each for each in about if "{" in each.path and each not in self._gone]
        for gone in await self._ask_as_owner(about):
            what = f"it takes away what {gone} has shown to the other tenant"
            self._judge.report(
                operation, self._name(client), "one of many requests", what, "not found"
            )
            self._gone.add(gone)

    async def _ask_as_owner(self, operations: list[Operation]) -> list[Operation]:
        """Look at what the first tenant is shown, and return what it is no longer shown."""
        gone = []
        for operation in operations:
            if (filled := self._works.get((operation, id(self._owner)))) is not None:
                answer = await self._asker.ask(self._owner.client, operation, filled)
                self._judge.look_as_owner(operation, answer)
                if answer.status in _GONE:
                    gone.append(operation)
        return gone

    async def _current(self) -> Snapshot:
        return await self._planting.snapshot(self._owner.user.tenant_id)

    def _base(self, operation: Operation) -> Filled:
        """Return a request of the second tenant's own, as like to one that works as is known."""
        own = self._works.get((operation, id(self._intruder)))
        if own is not None:
            return own
        examples = self._examples.get(str(operation), {})
        ways = list(fillings(operation, self._intruder.rows, examples))
        theirs = self._works.get((operation, id(self._owner)))
        fitting = [each for each in ways if theirs and each.origins == theirs.origins]
        return next(iter([*fitting, *ways]), Filled())

    async def _ask(
        self, client: httpx.AsyncClient | None, operation: Operation, attack: Attack
    ) -> Answer:
        """Ask as somebody who may know nothing of the first tenant, and look at the answer."""
        answer = await self._asker.ask(client or self._intruder.client, operation, attack.filled)
        self._judge.look(operation, self._name(client), attack.what, answer)
        return answer

    def _name(self, client: httpx.AsyncClient | None) -> str:
        return NOBODY if client is self._nobody else INTRUDER


def _influenced(*seen: Mapping[str, str]) -> bool:
    """Return whether the body or a header was twice the same, then twice another, then a third."""
    a, b, c, d, *more = seen
    return any(
        a.get(name) == b.get(name) != c.get(name) == d.get(name)
        and all(each.get(name) != d.get(name) for each in more)
        for name in a
    )
