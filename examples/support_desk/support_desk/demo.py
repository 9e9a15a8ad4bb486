"""Two companies to look at. Made once; a second run changes nothing."""

from __future__ import annotations

import math
import tomllib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from support_desk.models import SavedReply
from tenantry import Database, TenantSession
from tenantry.auth import Auth
from tenantry.knowledge import add_document
from tenantry.schema import ConversationSession, CostEvent, Message, Tenant, Widget

COMPANIES: Final = tomllib.loads((Path(__file__).parent / "demo.toml").read_text("utf-8"))
PASSWORD: Final = "nine herons over the harbour"  # noqa: S105 - everybody may know it

_DAYS: Final = 21


async def fill(db: Database, auth: Auth, *, now: datetime | None = None) -> None:
    """Make both companies with their users, and what happened in the weeks before ``now``."""
    for slug, company in COMPANIES.items():
        async with db.operator(reason=f"demo: make {slug}") as tx:
            tenant = await tx.scalar(select(Tenant).where(Tenant.slug == slug))
            if tenant is None:
                tx.add(tenant := Tenant(name=company["name"], slug=slug))
        for user in company["users"]:
            if await auth.find_user(tenant.id, user["email"]) is None:
                await auth.register(tenant.id, password=PASSWORD, **user)
        async with db.tenant(tenant.id) as desk:
            if await desk.scalar(select(Widget.id).limit(1)) is None:
                await _fill_desk(desk, company, now or datetime.now(UTC))


async def _fill_desk(tx: TenantSession, company: dict[str, Any], now: datetime) -> None:
    for each in company["documents"]:
        await add_document(tx, **each, chunks=[each["content"]])
    tx.add_all(SavedReply(**each) for each in company["replies"])
    widgets = [Widget(**each) for each in company["widgets"]]
    tx.add_all(widgets)
    await tx.flush()
    for number, lines in enumerate(company["conversations"]):
        started = now - timedelta(hours=7 * number + 1)
        widget = widgets[number % len(widgets)]
        tx.add(talk := ConversationSession(widget_id=widget.id, started_at=started))
        await tx.flush()
        for turn, line in enumerate(lines):
            role, time = ("user", "assistant")[turn % 2], started + timedelta(minutes=turn)
            tx.add(Message(session_id=talk.id, role=role, content=line, created_at=time))
    tx.add_all(_costs(now, company["dollars_per_day"]))


def _costs(now: datetime, dollars: float) -> list[CostEvent]:
    events = []
    for number in range(_DAYS):
        time = now - timedelta(days=number)
        weekend = 0.4 if f"{time:%a}" in {"Sat", "Sun"} else 1.0
        spent = Decimal(str(round(dollars * weekend * (1 + 0.3 * math.sin(number)), 4)))
        for model, share in (("large-1", Decimal("0.7")), ("small-1", Decimal("0.3"))):
            tokens, cost = int(spent * share * 400_000), spent * share
            events.append(
                CostEvent(
                    provider="example", model=model, tokens=tokens, cost=cost, created_at=time
                )
            )
    return events
