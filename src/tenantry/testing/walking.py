"""The walk of `assert_isolated`: what is asked, by whom, in which order, and how it is judged.

The order matters. The first tenant asks before the second, so that what an application keeps in
memory is there to be given away. Lists are asked for before any id of the first tenant was sent,
so that what only repeats an id is told from what knows it. What changes rows comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

from tenantry.testing.actors import Actor
from tenantry.testing.answers import Answer, Asker, Limits, OutOfLimitsError
from tenantry.testing.applications import RunningApp, new_client
from tenantry.testing.attacks import Attack, attacks_on
from tenantry.testing.openapi import Operation, Schemas
from tenantry.testing.planting import Planting, changes
from tenantry.testing.report import Leak, Unexercised
from tenantry.testing.requesting import Filled, fillings
from tenantry.testing.workbench import Workbench

__all__ = ["Walk"]

_ORDER: Final = {"POST": 0, "PUT": 1, "PATCH": 2, "DELETE": 3}
_TOO_MANY: Final = (429, 503)
_UNAUTHORIZED: Final = 401
_INTRUDER: Final = "a user of another tenant"
_NOBODY: Final = "nobody who is signed in"
_NOTHING: Final = "nothing of the other tenant's"


class Walk:
    """One walk through an application.

    Args:
        running: The application.
        operations: What to try.
        bench: Makes the two tenants.
        schemas: Those of the application's document.
        planting: Fills the tenants.
        examples: Values by operation and name.
        limits: How far to go.
    """

    def __init__(
        self,
        running: RunningApp,
        operations: list[Operation],
        *,
        bench: Workbench,
        schemas: Schemas,
        planting: Planting,
        examples: Mapping[str, Mapping[str, Any]],
        limits: Limits,
    ) -> None:
        self.leaks: list[Leak] = []
        self._operations = operations
        self._schemas = schemas
        self._planting = planting
        self._examples = examples
        self._asker = Asker(schemas, limits)
        self._owner = Actor(bench, running, planting)
        self._intruder = Actor(bench, running, planting)
        self._nobody = new_client(running)
        self._secrets: dict[str, str] = {}
        self._given: set[str] = set()
        self._works: dict[tuple[Operation, int], Filled] = {}
        self._refusals: dict[Operation, list[str]] = {}
        self._reached: set[Operation] = set()
        self._stopped = False

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self._asker.count

    async def run(self) -> None:
        """Walk."""
        try:
            await self._run()
        except OutOfLimitsError:
            self._stopped = True
        finally:
            await self._nobody.aclose()

    def unexercised(self) -> list[Unexercised]:
        """Return what is not known to be isolated."""
        found = [Unexercised(f"table {n}", why) for n, why in self._planting.failed.items()]
        for operation in self._operations:
            refusals = self._refusals.get(operation, [])
            works = any((operation, id(who)) in self._works for who in self._actors)
            if self._stopped and operation not in self._reached:
                reason = (
                    f"not reached with {self.requests} requests; raise max_requests or max_seconds"
                )
            elif works:
                continue
            elif all(each.startswith("401") for each in refusals):
                reason = "401 for signed-in users; does tenantry_credentials fit the application?"
            else:
                last = refusals[-1] if refusals else "nothing"
                reason = (
                    f"never carried out in {len(refusals)} requests, the last answer was {last}"
                )
            found.append(Unexercised(str(operation), reason))
        return found

    @property
    def _actors(self) -> tuple[Actor, Actor]:
        return self._owner, self._intruder

    async def _run(self) -> None:
        for actor in self._actors:
            await actor.settle()
        safe = [each for each in self._operations if each.is_safe]
        unsafe = [each for each in self._operations if not each.is_safe]
        unsafe.sort(key=lambda each: _ORDER[each.method])
        filling = [each for each in unsafe if each.method != "DELETE"]
        for operation in (*safe, *filling, *safe):
            await self._use(operation, self._owner)
        await self._learn()
        await self._ask_for_lists(safe)
        await self._see_influence(safe)
        for operation in (*safe, *unsafe):
            await self._attack(operation)
            self._reached.add(operation)
        await self._ask_for_lists(safe)

    async def _ask_for_lists(self, safe: list[Operation]) -> None:
        for operation in safe:
            await self._use(operation, self._intruder)
            await self._ask(self._nobody, operation, Attack(_NOTHING, self._base(operation)))

    async def _learn(self) -> None:
        """Look at both tenants, and note what is the first one's alone."""
        for actor in self._actors:
            await actor.look()
        shared = self._intruder.secrets()
        secrets = self._owner.secrets()
        self._secrets = {text: what for text, what in secrets.items() if text not in shared}

    async def _use(self, operation: Operation, who: Actor) -> None:
        """Have a tenant use an operation on what is its own, until that is carried out once."""
        examples = self._examples.get(str(operation), {})
        ways = list(fillings(operation, who.rows, self._schemas, examples))
        if operation.body and "password" in str(operation.body.get("properties", {})):
            known = {**who.own_credentials, **examples}
            ways = [*fillings(operation, who.rows, self._schemas, known), *ways]
        if (operation, id(who)) in self._works and operation.is_safe:
            ways.insert(0, self._works[operation, id(who)])
        for filled in ways:
            if who is self._owner:
                answer = await self._asker.ask(who.client, operation, filled)
            else:
                answer = await self._ask(who.client, operation, Attack(_NOTHING, filled))
            if not operation.is_safe:
                who.learn(operation, answer)
                await who.stay_signed_in()
            if answer.ok:
                self._works[operation, id(who)] = filled
                if not operation.is_safe:
                    await who.look()
                return
            self._refusals.setdefault(operation, []).append(answer.complaint)
            if answer.status in {_UNAUTHORIZED, 0, *_TOO_MANY} and "password" not in answer.sent:
                return

    async def _see_influence(self, safe: list[Operation]) -> None:
        """See whether what the second tenant is told depends on how much the first one has.

        A sum or a count holds no text by which it could be recognized. Twice the same answer, then
        another one once the first tenant has grown, and that once more: it is no accident.
        """
        asked = [(each, who) for each in safe for who in (self._intruder.client, self._nobody)]

        async def bodies() -> list[tuple[int, str]]:
            answers = [await self._asker.ask(w, o, self._base(o)) for o, w in asked]
            return [(answer.status, answer.body) for answer in answers]

        first, second = await bodies(), await bodies()
        await self._owner.grow()
        third, fourth = await bodies(), await bodies()
        if any(a == b != c == d for a, b, c, d in zip(first, second, third, fourth, strict=True)):
            await self._owner.grow()
            fifth = await bodies()
            for (operation, client), *seen in zip(
                asked, first, second, third, fourth, fifth, strict=True
            ):
                if seen[0] == seen[1] != seen[2] == seen[3] != seen[4]:
                    self._report(
                        operation,
                        client,
                        _NOTHING,
                        "answers otherwise once the other tenant has more rows, as a count would",
                        f"client.request({operation.method!r}, {operation.path!r}), twice",
                    )
        await self._learn()

    async def _attack(self, operation: Operation) -> None:
        if operation.method == "DELETE":
            await self._intruder.grow()
        if not operation.is_safe:
            await self._use(operation, self._intruder)
        for client in (None, self._nobody):  # the intruder's own may have to be made anew
            for attack in attacks_on(
                operation, self._base(operation), self._owner.rows, self._schemas
            ):
                await self._try(operation, client, attack)
            if changes(self._owner.snapshot, await self._current()):
                await self._find_the_change(operation, client)

    async def _try(
        self, operation: Operation, client: httpx.AsyncClient | None, attack: Attack
    ) -> Answer:
        answer = await self._ask(client or self._intruder.client, operation, attack)
        controls = [
            await self._ask(client or self._intruder.client, operation, Attack(attack.what, each))
            for each in attack.controls
        ]
        if controls:
            self._compare(operation, client, attack, answer, controls)
        if not operation.is_safe:
            await self._intruder.stay_signed_in()
        return answer

    def _compare(
        self,
        operation: Operation,
        client: httpx.AsyncClient | None,
        attack: Attack,
        answer: Answer,
        controls: list[Answer],
    ) -> None:
        shapes = {each.shape for each in controls}
        statuses = {each.status for each in (answer, *controls)}
        if statuses & {0, *_TOO_MANY} or len({each.status for each in controls}) > 1:
            return
        told = controls[0].status
        if answer.status != told:
            what = f"answers {answer.status}, and {told} for one that is nobody's: it exists"
        elif not answer.ok and len(shapes) == 1 and answer.shape not in shapes:
            what = f"answers {told} in other words than for one that is nobody's: it exists"
        else:
            return
        self._report(operation, client, attack.what, what, answer.line)

    async def _find_the_change(
        self, operation: Operation, client: httpx.AsyncClient | None
    ) -> None:
        """Do again what has changed rows of the first tenant, one by one."""
        what = "; ".join(changes(self._owner.snapshot, await self._current()))
        await self._owner.grow()
        await self._learn()
        for attack in attacks_on(operation, self._base(operation), self._owner.rows, self._schemas):
            answer = await self._try(operation, client, attack)
            found = changes(self._owner.snapshot, await self._current())
            if found:
                self._report(operation, client, attack.what, f"it {'; '.join(found)}", answer.line)
                break
        else:
            self._report(operation, client, "one of many requests", f"it {what}", "not found")
        await self._owner.grow()
        await self._learn()

    async def _current(self) -> Any:
        return await self._planting.snapshot(self._owner.user.tenant_id)

    def _base(self, operation: Operation) -> Filled:
        """Return a request of the second tenant's own, as like to one that works as is known."""
        own = self._works.get((operation, id(self._intruder)))
        if own is not None:
            return own
        examples = self._examples.get(str(operation), {})
        ways = list(fillings(operation, self._intruder.rows, self._schemas, examples))
        theirs = self._works.get((operation, id(self._owner)))
        fitting = [each for each in ways if theirs and each.origins == theirs.origins]
        return next(iter([*fitting, *ways]), Filled())

    async def _ask(self, client: httpx.AsyncClient, operation: Operation, attack: Attack) -> Answer:
        """Ask as somebody who may know nothing of the first tenant, and look at the answer."""
        answer = await self._asker.ask(client, operation, attack.filled)
        self._given |= {text for text in self._secrets if text in answer.sent}
        shown = {
            what
            for text, what in self._secrets.items()
            if text not in self._given and text in answer.text
        }
        if shown:
            what = f"shows {', '.join(sorted(shown))} of the other tenant"
            self._report(operation, client, attack.what, what, answer.line)
        return answer

    def _report(
        self,
        operation: Operation,
        client: httpx.AsyncClient | None,
        parameter: str,
        what: str,
        line: str,
    ) -> None:
        who = _NOBODY if client is self._nobody else _INTRUDER
        kind = what.partition(" ")[0]
        same = {
            leak.what.partition(" ")[0]
            for leak in self.leaks
            if (leak.operation, leak.who) == (str(operation), who)
        }
        # The first that was found is the simplest, and what shows rows changes with them.
        if kind not in same and not (kind == "answers" and "shows" in same):
            self.leaks.append(Leak(str(operation), who, parameter, what, line))
