"""Loading a seed: one transaction per tenant, as the operator, and never the same twice."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import delete, or_, select

from tenantry.errors import ConflictError
from tenantry.ops.seed.corpus import Corpus, load_corpus
from tenantry.ops.seed.generate import TableRows, tenant_id, tenant_rows
from tenantry.ops.seed.indexes import indexes_put_off, one_seed_at_a_time
from tenantry.schema import Tenant
from tenantry.tenancy.copying import copy_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession

    from tenantry.database import Database
    from tenantry.ops.seed.plan import SeedPlan, TenantPlan

__all__ = ["SeedProgress", "SeedReport", "SeededTenant", "load_tenant", "seed"]


@dataclass(frozen=True, slots=True)
class SeedProgress:
    """How far a seed has come.

    Args:
        tenant: Slug of the tenant at hand; empty between tenants.
        table: The table at hand; between tenants the step, as "rebuilding indexes: …".
        done: Rows loaded so far, those of tenants that were there already included.
        total: Rows in all.
    """

    tenant: str
    table: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class SeededTenant:
    """What became of one tenant.

    Args:
        id: Its id.
        slug: Its slug.
        loaded: False: the same seed had loaded it before, and it was left alone.
        rows: Rows loaded, by table.
        seconds: How long it took, generating included.
    """

    id: UUID
    slug: str
    loaded: bool
    rows: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SeedReport:
    """What a seed did.

    Args:
        tenants: Each tenant of the plan.
        seconds: How long all of it took.
    """

    tenants: tuple[SeededTenant, ...]
    seconds: float

    @property
    def rows(self) -> dict[str, int]:
        """Rows loaded, by table."""
        total: dict[str, int] = {}
        for tenant in self.tenants:
            for table, count in tenant.rows.items():
                total[table] = total.get(table, 0) + count
        return total


async def seed(
    db: Database,
    plan: SeedPlan,
    *,
    replace: bool = False,
    on_progress: Callable[[SeedProgress], None] | None = None,
) -> SeedReport:
    """Load the tenants of ``plan``, each in one transaction, as the operator.

    A tenant that the same plan has loaded before is left alone, so an interrupted seed is finished
    by the next. No tenant is touched that a seed did not make. Two seeds of one database work one
    after the other.

    For many chunks, indexes that are dear to maintain row by row are dropped first and rebuilt at
    the end, also after an error or a first Ctrl-C. Meanwhile searches are slow, and while an index
    is built, other writers of its table wait. A seed that was killed leaves them missing, which
    `tenantry db check` names; the next seed, or `tenantry db push`, makes them.

    Args:
        db: The database; it needs its admin URL.
        plan: What to load.
        replace: Remove tenants of the plan that another seed made, with all their rows, and load
            them anew.
        on_progress: Called after each batch of rows, and before each step between tenants.

    Raises:
        ConflictError: A tenant of the plan exists, and this seed did not make it. Nothing was
            written.
        ConfigurationError: There is no admin URL.
        MigrationError: An index could not be rebuilt.
    """
    started = time.perf_counter()
    corpus = await asyncio.to_thread(load_corpus)
    plans = plan.tenant_plans()
    meter = _Meter(
        sum(table.count for each in plans for table in tenant_rows(each, corpus)), on_progress
    )
    tenants = []
    async with one_seed_at_a_time(db, on_wait=partial(meter.step, "waiting for another seed")):
        async with db.operator(reason="seed: are its tenants there?") as tx:
            found = await _find(tx, plans)
        new = [each for each in plans if not _is_loaded(found, each, corpus, replace=replace)]
        async with indexes_put_off(
            db, new_chunks=sum(each.chunks for each in new), on_step=meter.step
        ):
            for each in plans:
                meter.tenant = each.slug
                async with db.operator(reason=f"seed: load {each.slug}") as tx:
                    tenants.append(await _seed_tenant(tx, each, corpus, meter, replace=replace))
    return SeedReport(tuple(tenants), time.perf_counter() - started)


async def load_tenant(
    tx: AsyncSession,
    tables: Sequence[TableRows],
    *,
    on_batch: Callable[[str, int], None] | None = None,
) -> dict[str, int]:
    """Load the rows of one tenant in the transaction of ``tx``.

    Args:
        tx: The operator's session.
        tables: In an order that satisfies the foreign keys, as `tenant_rows` returns them.
        on_batch: Called with the table's name and the number of rows after each batch.

    Returns:
        The number of rows loaded, by table.
    """
    loaded = {}
    for each in tables:
        name = each.table.name
        report = None if on_batch is None else partial(on_batch, name)
        loaded[name] = await copy_rows(
            tx, each.table, each.rows, columns=each.columns, on_batch=report
        )
    return loaded


async def _seed_tenant(
    tx: AsyncSession, plan: TenantPlan, corpus: Corpus, meter: _Meter, *, replace: bool
) -> SeededTenant:
    started = time.perf_counter()
    # Asked again: it may have been a while, and what is found now is what would be deleted.
    found = await _find(tx, [plan])
    identity = tenant_id(plan)
    tables = tenant_rows(plan, corpus)
    if _is_loaded(found, plan, corpus, replace=replace):
        meter.add("tenants", sum(table.count for table in tables))
        return SeededTenant(identity, plan.slug, loaded=False)
    await tx.execute(
        delete(Tenant).where(or_(Tenant.id == identity, Tenant.slug == plan.slug)),
        execution_options={"synchronize_session": False},
    )
    rows = await load_tenant(tx, tables, on_batch=meter.add)
    return SeededTenant(
        identity, plan.slug, loaded=True, rows=rows, seconds=time.perf_counter() - started
    )


async def _find(tx: AsyncSession, plans: Sequence[TenantPlan]) -> list[tuple[UUID, str, object]]:
    """Return id, slug and seed's mark of the tenants that have a slug or an id of the plans."""
    ids, slugs = [tenant_id(plan) for plan in plans], [plan.slug for plan in plans]
    rows = await tx.execute(
        select(Tenant.id, Tenant.slug, Tenant.settings).where(
            or_(Tenant.id.in_(ids), Tenant.slug.in_(slugs))
        )
    )
    return [(row.id, row.slug, (row.settings.model_extra or {}).get("seed")) for row in rows]


def _is_loaded(
    found: Sequence[tuple[UUID, str, object]], plan: TenantPlan, corpus: Corpus, *, replace: bool
) -> bool:
    mark, identity = plan.fingerprint(corpus.digest), tenant_id(plan)
    for found_id, slug, found_mark in found:
        if identity != found_id and plan.slug != slug:
            continue
        if found_mark == mark:
            return True
        if not isinstance(found_mark, str):
            raise ConflictError(
                f"There is a tenant {slug!r} that no seed made, so it is left alone. Give it "
                "another slug, or seed another database."
            )
        if not replace:
            raise ConflictError(
                f"Tenant {slug!r} was made by another seed: other numbers, or another version of "
                "tenantry. Use --replace to remove it with all its rows and load it anew, or "
                "seed another database."
            )
    return False


class _Meter:
    def __init__(self, total: int, report: Callable[[SeedProgress], None] | None) -> None:
        self.tenant = ""
        self._total = total
        self._done = 0
        self._report = report

    def add(self, table: str, rows: int) -> None:
        self._done += rows
        self._tell(self.tenant, table)

    def step(self, name: str) -> None:
        self._tell("", name)

    def _tell(self, tenant: str, what: str) -> None:
        if self._report is not None:
            self._report(SeedProgress(tenant, what, self._done, self._total))
