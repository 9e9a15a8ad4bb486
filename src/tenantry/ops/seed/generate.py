"""The rows of one tenant, table by table, made as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from tenantry.ops.seed.chance import EPOCH, Source, pick, whole
from tenantry.ops.seed.knowledge import KnowledgeRows
from tenantry.ops.seed.material import (
    FAMILY_NAMES,
    GIVEN_NAMES,
    MODELS,
    ROOMS,
    SCRIPTS,
    WIDGETS,
)
from tenantry.schema import (
    Base,
    ConversationSession,
    CostEvent,
    KnowledgeChunk,
    KnowledgeDocument,
    Meeting,
    Message,
    Tenant,
    User,
    Widget,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal
    from random import Random
    from uuid import UUID

    from sqlalchemy import Table

    from tenantry.ops.seed.corpus import Corpus
    from tenantry.ops.seed.plan import TenantPlan

__all__ = ["TableRows", "tenant_id", "tenant_rows"]

_MESSAGE_SECONDS: Final = 40
_WIDGETS_MAX: Final = 200
_DISABLED: Final = 16


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of one table.

    Args:
        table: Where they go.
        columns: The order of their values.
        rows: The rows; made while they are read, so this can be read once.
        count: How many there will be.
    """

    table: Table
    columns: tuple[str, ...]
    rows: Iterator[Sequence[Any]]
    count: int


def tenant_rows(plan: TenantPlan, corpus: Corpus) -> list[TableRows]:
    """Return the rows of a tenant, in an order that satisfies every foreign key."""
    made = _Tenant(plan, corpus)
    knowledge = KnowledgeRows(plan, made.id, made.source, corpus)
    return [
        _table(Tenant, "id name slug settings created_at updated_at", made.tenant(), 1),
        _table(
            User, "tenant_id id email name role disabled_at created_at", made.users(), plan.users
        ),
        _table(
            Widget, "tenant_id id name config created_at updated_at", made.widgets(), made.n_widgets
        ),
        _table(
            Meeting,
            "tenant_id id room_name status started_at ended_at",
            made.meetings(),
            made.n_meetings,
        ),
        _table(
            ConversationSession,
            "tenant_id id meeting_id widget_id started_at ended_at",
            made.conversations(),
            made.n_conversations,
        ),
        _table(
            Message,
            "tenant_id id session_id role content created_at",
            made.messages(),
            made.turns(0),
        ),
        _table(
            CostEvent,
            "tenant_id id session_id provider model tokens cost created_at",
            made.costs(),
            made.turns(1),
        ),
        _table(
            KnowledgeDocument,
            "tenant_id id title content embedding metadata created_at",
            knowledge.documents(),
            knowledge.document_count,
        ),
        _table(
            KnowledgeChunk,
            "tenant_id id document_id content embedding position created_at",
            knowledge.chunks(),
            plan.chunks,
        ),
    ]


def tenant_id(plan: TenantPlan) -> UUID:
    """Return the id of a tenant; its sizes do not change it."""
    return _source(plan).uuid("tenant", 0, EPOCH)


def _source(plan: TenantPlan) -> Source:
    return Source("tenant", plan.seed, plan.slug)


def _table(model: type[Base], columns: str, rows: Iterator[Sequence[Any]], count: int) -> TableRows:
    return TableRows(cast("Table", model.__table__), tuple(columns.split()), rows, count)


class _Tenant:
    """Everything of a tenant but its knowledge. Each thing is made from its number alone."""

    def __init__(self, plan: TenantPlan, corpus: Corpus) -> None:
        self.plan = plan
        self.source = _source(plan)
        self.id = tenant_id(plan)
        self.mark = plan.fingerprint(corpus.digest)
        self.n_widgets = min(2 + plan.users // 10, _WIDGETS_MAX)
        self.n_meetings = 4 + plan.users // 2
        self.n_conversations = 2 * plan.users

    def tenant(self) -> Iterator[Sequence[Any]]:
        settings = {"locale": "en", "timezone": "UTC", "seed": self.mark}
        yield (self.id, self.plan.name, self.plan.slug, settings, EPOCH, EPOCH)

    def users(self) -> Iterator[Sequence[Any]]:
        for number in range(self.plan.users):
            created = self.source.when(number, self.plan.users)
            name, email = self._person(number)
            role = "owner" if number == 0 else "admin" if number % 7 == 1 else "member"
            disabled = created + timedelta(days=30) if number % 17 == _DISABLED else None
            identity = self.source.uuid("user", number, created)
            yield (self.id, identity, email, name, role, disabled, created)

    def _person(self, number: int) -> tuple[str, str]:
        # Shifted by the round, so that every pair of names comes before any comes again.
        turn, given = divmod(number + 7 * self.plan.ordinal, len(GIVEN_NAMES))
        again, shift = divmod(turn, len(FAMILY_NAMES))
        first, last = GIVEN_NAMES[given], FAMILY_NAMES[(given + shift) % len(FAMILY_NAMES)]
        suffix = str(again + 1) if again else ""
        return f"{first} {last}", f"{first}.{last}{suffix}@{self.plan.slug}.example".lower()

    def widgets(self) -> Iterator[Sequence[Any]]:
        for number in range(self.n_widgets):
            name, theme, greeting = WIDGETS[number % len(WIDGETS)]
            again = number // len(WIDGETS)
            config = {
                "theme": theme,
                "greeting": greeting,
                "allowed_origins": [f"https://{self.plan.slug}.example"],
            }
            created = self.source.when(number, self.n_widgets)
            shown = f"{name} {again + 1}" if again else name
            yield (self.id, self._widget_id(number), shown, config, created, created)

    def _widget_id(self, number: int) -> UUID:
        return self.source.uuid("widget", number, self.source.when(number, self.n_widgets))

    def meetings(self) -> Iterator[Sequence[Any]]:
        for number in range(self.n_meetings):
            begin = self.source.when(number, self.n_meetings)
            minutes = whole(self.source.random("meeting", number), 10, 75)
            room = f"{ROOMS[number % len(ROOMS)]}-{number + 1}"
            # The last two are yet to end and yet to begin; every table of statuses has all three.
            match self.n_meetings - number:
                case 1:
                    status, started, ended = "scheduled", None, None
                case 2:
                    status, started, ended = "active", begin, None
                case _:
                    status, started, ended = "ended", begin, begin + timedelta(minutes=minutes)
            yield (self.id, self._meeting_id(number), room, status, started, ended)

    def _meeting_id(self, number: int) -> UUID:
        return self.source.uuid("meeting", number, self.source.when(number, self.n_meetings))

    def conversations(self) -> Iterator[Sequence[Any]]:
        for number in range(self.n_conversations):
            started = self._started(number)
            turns = len(self._script(number))
            # A conversation in four takes place in a meeting that is over, the others in widgets.
            meeting = widget = None
            if number % 4 == 0:
                meeting = self._meeting_id(number % (self.n_meetings - 2))
            else:
                widget = self._widget_id(number % self.n_widgets)
            ended = started + timedelta(seconds=_MESSAGE_SECONDS * turns)
            yield (self.id, self._conversation_id(number), meeting, widget, started, ended)

    def _started(self, number: int) -> datetime:
        minutes = whole(self.source.random("conversation", number), 0, 8 * 60)
        return self.source.when(number, self.n_conversations) + timedelta(minutes=minutes)

    def _conversation_id(self, number: int) -> UUID:
        return self.source.uuid("conversation", number, self._started(number))

    def _script(self, number: int) -> tuple[str, ...]:
        return SCRIPTS[(number + self.plan.ordinal) % len(SCRIPTS)]

    def turns(self, first: int) -> int:
        """Return the number of turns: all of them for 0, the assistant's for 1."""
        rounds, rest = divmod(self.n_conversations, len(SCRIPTS))
        sizes = [len(range(0, len(script), 1 + first)) for script in SCRIPTS]
        return rounds * sum(sizes) + sum(
            len(range(0, len(self._script(number)), 1 + first)) for number in range(rest)
        )

    def messages(self) -> Iterator[Sequence[Any]]:
        message = 0
        for number in range(self.n_conversations):
            session, started = self._conversation_id(number), self._started(number)
            visitor = GIVEN_NAMES[number * 11 % len(GIVEN_NAMES)]
            widget = WIDGETS[number % self.n_widgets % len(WIDGETS)][0]
            for turn, line in enumerate(self._script(number)):
                at = started + timedelta(seconds=_MESSAGE_SECONDS * turn)
                identity = self.source.uuid("message", message, at)
                role = "assistant" if turn % 2 else "user"
                content = line.format(name=visitor, widget=widget)
                yield (self.id, identity, session, role, content, at)
                message += 1

    def costs(self) -> Iterator[Sequence[Any]]:
        event = 0
        for number in range(self.n_conversations):
            session, started = self._conversation_id(number), self._started(number)
            random = self.source.random("cost", number)
            for turn in range(1, len(self._script(number)), 2):
                at = started + timedelta(seconds=_MESSAGE_SECONDS * turn)
                identity = self.source.uuid("cost", event, at)
                yield (self.id, identity, session, *_charge(random), at)
                event += 1


def _charge(random: Random) -> tuple[str, str, int, Decimal]:
    provider, model, dollars_per_million = pick(random, MODELS)
    tokens = whole(random, 350, 4200)
    return provider, model, tokens, dollars_per_million * tokens / 1_000_000
