"""What a tenant's transaction costs, beside the same one of SQLAlchemy without a tenant.

One transaction is: open a session, read one row by its key through the ORM, commit, close.

- ours: ``db.tenant(id)`` as ``tenantry_app``, under row security; the condition on the tenant is
  added by the session;
- plain: ``AsyncSession`` as the superuser, past row security; the condition is written by hand, so
  that both find the row by the same index.

They take turns in one run, ours first in every other pair. The figure is the median of the ratios
of the pairs; its spread over the rounds says how far the machine lets it be trusted.
"""

from __future__ import annotations

import os
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.server import running_server
from tenantry import Database, Settings
from tenantry.schema import Tenant, Widget
from tenantry.schema.row_security import APP_ROLE
from tenantry.tenancy.connecting import create_engine

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable

    Transaction = Callable[[Widget], Awaitable[Widget]]

MOST: Final = 1.05
PAIRS: Final = 2000
WARM_UP: Final = 300
TENANTS, WIDGETS = 50, 20
RESULTS: Final = Path(__file__).with_name("results") / "tenant_transaction.md"


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limit is kept."""
    rounds = max(3, options.rounds)
    with running_server() as server:
        name = await server.create()
        admin = server.at(name)
        plain_engine = create_engine(admin)
        settings = Settings(database_url=admin.set(username=APP_ROLE), admin_url=admin)
        async with Database.connect(settings=settings) as db:
            widgets = await _fill(db)

            async def ours(widget: Widget) -> Widget:
                async with db.tenant(widget.tenant_id) as tx:
                    return (await tx.scalars(select(Widget).where(Widget.id == widget.id))).one()

            async def plain(widget: Widget) -> Widget:
                async with AsyncSession(plain_engine, expire_on_commit=False) as tx, tx.begin():
                    query = select(Widget).where(
                        Widget.tenant_id == widget.tenant_id, Widget.id == widget.id
                    )
                    return (await tx.scalars(query)).one()

            await _pairs(ours, plain, widgets, WARM_UP)
            results = [await _pairs(ours, plain, widgets, PAIRS) for _ in range(rounds)]
        await plain_engine.dispose()
        await server.drop(name)
    ratios = [ratio for ratio, _, _ in results]
    ratio = statistics.median(ratios)
    lines = [
        *(
            f"ours {ours_us:7.0f} µs   plain {plain_us:7.0f} µs   ours / plain {each:.3f}"
            for each, ours_us, plain_us in results
        ),
        f"ours / plain: {ratio:.3f}, limit {MOST}: {'kept' if ratio <= MOST else 'MISSED'}",
    ]
    print(*lines, sep="\n", flush=True)
    if options.save:
        _save(lines)
    return ratio <= MOST


async def _fill(db: Database) -> list[Widget]:
    async with db.operator(reason="benchmark") as tx:
        tenants = [Tenant(name=f"t{i}", slug=f"t{i}") for i in range(TENANTS)]
        tx.add_all(tenants)
        await tx.flush()
        widgets = [Widget(tenant_id=each.id, name="w") for each in tenants for _ in range(WIDGETS)]
        tx.add_all(widgets)
    return widgets


async def _pairs(
    ours: Transaction, plain: Transaction, widgets: list[Widget], count: int
) -> tuple[float, float, float]:
    """Return the median ratio, and the median microseconds of both."""
    taken: dict[Transaction, list[float]] = {ours: [], plain: []}
    for number in range(count):
        widget = widgets[number * 7 % len(widgets)]
        for transaction in (ours, plain) if number % 2 else (plain, ours):
            started = time.perf_counter()
            found = await transaction(widget)
            taken[transaction].append(time.perf_counter() - started)
            assert found.id == widget.id
    ratio = statistics.median(a / b for a, b in zip(taken[ours], taken[plain], strict=True))
    return ratio, statistics.median(taken[ours]) * 1e6, statistics.median(taken[plain]) * 1e6


def _save(lines: list[str]) -> None:
    heading = (
        f"## {datetime.now(UTC):%Y-%m-%d}, {PAIRS:,} pairs in each round, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    if not RESULTS.exists():
        RESULTS.write_text(
            "# A tenant's transaction\n\nNewest last; see `tenant_transaction.py`.\n"
        )
    with RESULTS.open("a") as file:
        file.write("\n".join(["", heading, "", "```text", *lines, "```", ""]))
