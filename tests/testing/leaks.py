"""Endpoints that mix tenants up, each in a way that happens, and how that is to be reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Header, HTTPException, Query, Request, Response
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import Text, cast, delete, func, select, update

from tenantry.schema import CostEvent, Tenant, Widget
from tests.testing.applications import Product, Who, WidgetIn, WidgetOut, found, out

OTHERS = "a user of another tenant"
NOBODY = "nobody who is signed in"


@dataclass(frozen=True)
class Case:
    """An endpoint that leaks.

    Args:
        add: Adds it.
        operation: Which it is.
        parameter: A part of what the report says about the parameter.
        what: A part of what the report says was seen.
        who: Who has seen it.
    """

    add: Callable[[Product], None]
    operation: str
    parameter: str
    what: str
    who: str = OTHERS


CASES: dict[str, Case] = {}


Add = Callable[[Product], None]


def leak(operation: str, *, parameter: str, what: str, who: str = OTHERS) -> Callable[[Add], Add]:
    def keep(add: Add) -> Add:
        CASES[add.__name__] = Case(add, operation, parameter, what, who)
        return add

    return keep


@leak("GET /everything", parameter="nothing of the other tenant's", what="widgets.id, widgets.name")
def reads_as_the_operator(product: Product) -> None:
    @product.app.get("/everything")
    async def everything(who: Who) -> list[WidgetOut]:
        async with product.db.operator(reason="a mistake") as tx:
            return [out(each) for each in await tx.scalars(select(Widget))]


async def widgets_of(product: Product, tenant_id: UUID | str) -> list[str]:
    async with product.db.tenant(tenant_id) as tx:
        return list(await tx.scalars(select(Widget.name)))


@leak(
    "GET /tenants/{tenant_id}/widgets",
    parameter="path tenant_id = tenants.id of the other tenant",
    what="shows widgets.name",
)
def believes_the_path(product: Product) -> None:
    @product.app.get("/tenants/{tenant_id}/widgets")
    async def widgets(who: Who, tenant_id: UUID) -> list[str]:
        return await widgets_of(product, tenant_id)


@leak("GET /widgets", parameter="query tenant = tenants.id", what="shows widgets.name")
def believes_the_query(product: Product) -> None:
    @product.app.get("/widgets")
    async def widgets(who: Who, tenant: UUID | None = None) -> list[str]:
        return await widgets_of(product, tenant or who.tenant_id)


@leak("GET /widgets", parameter="undeclared headers X-Tenant-ID", what="shows widgets.name")
def believes_a_header(product: Product) -> None:
    @product.app.get("/widgets")
    async def widgets(who: Who, request: Request) -> list[str]:
        return await widgets_of(product, request.headers.get("x-tenant-id", str(who.tenant_id)))


@leak("GET /widgets", parameter="header x-shop = tenants.slug", what="shows widgets.name")
def believes_a_slug(product: Product) -> None:
    @product.app.get("/widgets")
    async def widgets(who: Who, x_shop: Annotated[str, Header()] = "") -> list[str]:
        async with product.db.operator(reason="a mistake") as tx:
            named = await tx.scalar(select(Tenant.id).where(Tenant.slug == x_shop))
        return await widgets_of(product, named or who.tenant_id)


@leak(
    "GET /widgets/{widget_id}",
    parameter="path widget_id = widgets.id of the other tenant",
    what="shows widgets.name",
)
def remembers_by_id_alone(product: Product) -> None:
    cache: dict[UUID, str] = {}

    @product.app.get("/widgets/{widget_id}")
    async def widget(who: Who, widget_id: UUID) -> str:
        if widget_id not in cache:
            async with product.db.tenant(who.tenant_id) as tx:
                cache[widget_id] = found(await tx.get(Widget, widget_id), widget_id).name
        return cache[widget_id]


@leak(
    "PUT /widgets/{widget_id}",
    parameter="path widget_id = widgets.id of the other tenant",
    what="changed widgets.name",
)
def writes_any_row(product: Product) -> None:
    @product.app.put("/widgets/{widget_id}", status_code=204)
    async def rename(who: Who, widget_id: UUID, given: WidgetIn) -> None:
        async with product.db.operator(reason="a mistake") as tx:
            await tx.execute(update(Widget).where(Widget.id == widget_id).values(name=given.name))


@leak(
    "DELETE /widgets/{widget_id}",
    parameter="path widget_id = widgets.id of the other tenant",
    what="deleted a row of widgets",
)
def deletes_any_row(product: Product) -> None:
    @product.app.delete("/widgets/{widget_id}", status_code=204)
    async def remove(who: Who, widget_id: UUID) -> None:
        async with product.db.operator(reason="a mistake") as tx:
            await tx.execute(delete(Widget).where(Widget.id == widget_id))


@leak("POST /widgets", parameter="undeclared fields tenant_id", what="added a row to widgets")
def takes_the_tenant_from_the_body(product: Product) -> None:
    @product.app.post("/widgets", status_code=204)
    async def add(who: Who, given: dict[str, str]) -> None:
        tenant_id = given.get("tenant_id", who.tenant_id)
        async with product.db.tenant(tenant_id) as tx:
            tx.add(Widget(name="mine"))


@leak("GET /list", parameter="nothing", what="shows widgets.id", who=NOBODY)
def asks_for_no_credentials(product: Product) -> None:
    @product.app.get("/list")
    async def ids() -> list[UUID]:
        async with product.db.operator(reason="a mistake") as tx:
            return list(await tx.scalars(select(Widget.id)))


async def is_of(product: Product, widget_id: UUID) -> UUID | None:
    async with product.db.operator(reason="a mistake") as tx:
        return await tx.scalar(select(Widget.tenant_id).where(Widget.id == widget_id))


@leak(
    "GET /widgets/{widget_id}", parameter="path widget_id = widgets.id", what="answers 403, and 404"
)
def forbids_what_is_there(product: Product) -> None:
    @product.app.get("/widgets/{widget_id}")
    async def widget(who: Who, widget_id: UUID) -> None:
        owner = found(await is_of(product, widget_id), widget_id)
        if owner != who.tenant_id:
            raise HTTPException(403, "Not yours.")


@leak("GET /widgets/{widget_id}", parameter="path widget_id = widgets.id", what="in other words")
def says_it_in_other_words(product: Product) -> None:
    @product.app.get("/widgets/{widget_id}")
    async def widget(who: Who, widget_id: UUID) -> None:
        owner = found(await is_of(product, widget_id), widget_id)
        if owner != who.tenant_id:
            raise HTTPException(404, "Not here.")


@leak("POST /names", parameter="body name = widgets.name", what="answers 409, and 201")
def wants_names_unique_among_all(product: Product) -> None:
    @product.app.post("/names", status_code=201)
    async def take(who: Who, given: WidgetIn) -> None:
        async with product.db.operator(reason="a mistake") as tx:
            if await tx.scalar(select(Widget.id).where(Widget.name == given.name).limit(1)):
                raise HTTPException(409, "Taken.")


@leak("GET /count", parameter="nothing", what="answers otherwise once the other tenant has more")
def counts_all_rows(product: Product) -> None:
    @product.app.get("/count")
    async def count(who: Who) -> int:
        async with product.db.operator(reason="a mistake") as tx:
            return await tx.scalar(select(func.count()).select_from(Widget)) or 0


@leak("GET /hidden/{widget_id}", parameter="path widget_id = widgets.id", what="shows widgets.name")
def hides_from_the_document(product: Product) -> None:
    @product.app.get("/hidden/{widget_id}", include_in_schema=False)
    async def widget(who: Who, widget_id: UUID) -> str:
        async with product.db.operator(reason="a mistake") as tx:
            named = select(Widget.name).where(Widget.id == widget_id)
            return str(found(await tx.scalar(named), widget_id))


async def names_of(product: Product, ids: list[UUID]) -> list[str]:
    async with product.db.operator(reason="a mistake") as tx:
        return list(await tx.scalars(select(Widget.name).where(Widget.id.in_(ids))))


class Ids(BaseModel):
    ids: list[UUID]


@leak("POST /batch", parameter="body ids = widgets.id", what="shows widgets.name")
def looks_up_ids_of_any_table(product: Product) -> None:
    @product.app.post("/batch")
    async def batch(who: Who, given: Ids) -> list[str]:
        return await names_of(product, given.ids)


@leak("POST /list", parameter="body 0 = widgets.id", what="shows widgets.name")
def takes_a_list_for_a_body(product: Product) -> None:
    @product.app.post("/list")
    async def batch(who: Who, given: list[UUID]) -> list[str]:
        return await names_of(product, given)


@leak(
    "GET /widgets/batch",
    parameter="query ids = one's own and widgets.id",
    what="shows widgets.name",
)
def checks_the_first_alone(product: Product) -> None:
    @product.app.get("/widgets/batch")
    async def batch(who: Who, ids: Annotated[list[UUID], Query()]) -> list[str]:
        if await is_of(product, ids[0]) != who.tenant_id:
            raise HTTPException(404, "There is no such widget.")
        return await names_of(product, ids)


@leak(
    "GET /widgets/{widget_id}/exists",
    parameter="path widget_id = widgets.id",
    what="answers otherwise than for one that is nobody's",
)
def says_yes_to_what_is_there(product: Product) -> None:
    @product.app.get("/widgets/{widget_id}/exists")
    async def exists(who: Who, widget_id: UUID) -> bool:
        return await is_of(product, widget_id) is not None


@leak(
    "GET /widgets/{widget_id}",
    parameter="path widget_id = widgets.id",
    what="answers otherwise than for one that is nobody's",
)
def gives_the_reason_in_a_header(product: Product) -> None:
    @product.app.get("/widgets/{widget_id}")
    async def widget(who: Who, widget_id: UUID) -> None:
        owner = await is_of(product, widget_id)
        if owner != who.tenant_id:
            raise HTTPException(404, headers={"X-Reason": "foreign" if owner else "missing"})


@leak("GET /total", parameter="nothing", what="answers otherwise once the other tenant has more")
def counts_all_rows_in_a_header(product: Product) -> None:
    @product.app.get("/total")
    async def total(who: Who, response: Response) -> None:
        async with product.db.operator(reason="a mistake") as tx:
            count = await tx.scalar(select(func.count()).select_from(Widget))
        response.headers["X-Total-Count"] = str(count)


@leak("GET /search", parameter="query q = a part of every text", what="shows widgets.name")
def searches_everything(product: Product) -> None:
    @product.app.get("/search")
    async def search(who: Who, q: str = "") -> list[str]:
        async with product.db.operator(reason="a mistake") as tx:
            found = select(Widget.name).where(Widget.name.contains(q))
            return list(await tx.scalars(found)) if q else []


@leak("GET /cursor", parameter="query after = a cursor of one's own", what="shows widgets.name")
def pages_on_into_the_others_rows(product: Product) -> None:
    @product.app.get("/cursor")
    async def page(who: Who, after: UUID | None = None) -> dict[str, Any]:
        if after is not None and await is_of(product, after) != who.tenant_id:
            raise HTTPException(404)
        own = Widget.tenant_id == who.tenant_id if after is None else Widget.id > after
        async with product.db.operator(reason="a mistake") as tx:
            found = list(await tx.scalars(select(Widget).where(own).order_by(Widget.id).limit(3)))
        return {"names": [e.name for e in found], "next": found[-1].id if found else None}


@leak("GET /act", parameter="undeclared query parameters", what="shows widgets.name")
def believes_an_undeclared_workspace(product: Product) -> None:
    @product.app.get("/act")
    async def act(who: Who, request: Request) -> list[str]:
        return await widgets_of(product, request.query_params.get("workspace_id", who.tenant_id))


@leak("GET /next", parameter="nothing", what="answers otherwise once the other tenant has more")
def numbers_the_rows_of_all(product: Product) -> None:
    @product.app.get("/next")
    async def largest(who: Who) -> int:
        async with product.db.operator(reason="a mistake") as tx:
            return await tx.scalar(select(func.max(CostEvent.tokens))) or 0


@leak("GET /some", parameter="query scope = all", what="shows widgets.name")
def shows_all_when_asked_to(product: Product) -> None:
    @product.app.get("/some")
    async def some(who: Who, scope: Literal["mine", "all"] = "mine") -> list[str]:
        if scope == "mine":
            return await widgets_of(product, who.tenant_id)
        async with product.db.operator(reason="a mistake") as tx:
            return list(await tx.scalars(select(Widget.name)))


@leak("GET /also", parameter="query everything = true", what="shows widgets.name")
def shows_everything_when_asked_to(product: Product) -> None:
    @product.app.get("/also")
    async def some(who: Who, everything: bool = False) -> list[str]:
        if not everything:
            return await widgets_of(product, who.tenant_id)
        async with product.db.operator(reason="a mistake") as tx:
            return list(await tx.scalars(select(Widget.name)))


@leak("GET /one", parameter="query widget = widgets.id", what="shows widgets.name")
def is_asked_for_by_its_tables_name(product: Product) -> None:
    @product.app.get("/one")
    async def one(who: Who, widget: str = "") -> list[str]:
        async with product.db.operator(reason="a mistake") as tx:
            found = select(Widget.name).where(cast(Widget.id, Text) == widget)
            return list(await tx.scalars(found))


class Counts(BaseModel):
    counts: dict[UUID, int]


@leak("POST /counts", parameter="body counts.* = widgets.id", what="shows widgets.name")
def takes_ids_for_keys(product: Product) -> None:
    @product.app.post("/counts")
    async def count(who: Who, given: Counts) -> list[str]:
        return await names_of(product, list(given.counts))


@leak("GET /filter", parameter="query where = JSON with ids", what="shows widgets.name")
def reads_json_in_a_text(product: Product) -> None:
    @product.app.get("/filter")
    async def filtered(who: Who, where: str = "{}") -> list[str]:
        given = TypeAdapter(dict[str, Any]).validate_json(where if where[:1] == "{" else "{}")
        return await names_of(product, [UUID(given["widget_id"])] if "widget_id" in given else [])


class Chosen(BaseModel):
    widget_ids: list[UUID]
    newest: bool


# As newer versions of FastAPI declare a parameter of Json[Chosen], which older ones cannot read.
_CHOSEN: dict[str, Any] = {
    "contentMediaType": "application/json",
    "contentSchema": Chosen.model_json_schema(),
}
ChosenText = Annotated[str, Query(json_schema_extra=_CHOSEN)]


@leak("GET /chosen", parameter="query where = JSON with ids", what="shows widgets.name")
def declares_json_in_a_text(product: Product) -> None:
    @product.app.get("/chosen")
    async def chosen(who: Who, where: ChosenText) -> list[str]:
        try:
            return await names_of(product, Chosen.model_validate_json(where).widget_ids)
        except ValidationError:
            raise HTTPException(422) from None


@leak("GET /current", parameter="undeclared headers such as", what="shows widgets.name")
def believes_a_header_that_is_called_like_a_table(product: Product) -> None:
    @product.app.get("/current")
    async def current(who: Who, request: Request) -> list[str]:
        widget = request.headers.get("x-widget-id")
        return await names_of(product, [UUID(widget)] if widget else [])


@leak("GET /focus", parameter="undeclared query parameters such as", what="shows widgets.name")
def believes_a_parameter_that_is_called_like_a_table(product: Product) -> None:
    @product.app.get("/focus")
    async def focus(who: Who, request: Request) -> list[str]:
        widget = request.query_params.get("widget_id")
        return await names_of(product, [UUID(widget)] if widget else [])


@leak("GET /export", parameter="header Accept = text/csv", what="shows widgets.name")
def exports_everything(product: Product) -> None:
    @product.app.get("/export")
    async def export(who: Who, request: Request) -> list[str]:
        if "text/csv" not in request.headers.get("accept", ""):
            return await widgets_of(product, who.tenant_id)
        async with product.db.operator(reason="a mistake") as tx:
            return list(await tx.scalars(select(Widget.name)))


@leak("GET /sheet/{widget_id}", parameter="header Accept = text/csv", what="shows widgets.name")
def checks_ids_for_json_alone(product: Product) -> None:
    @product.app.get("/sheet/{widget_id}")
    async def sheet(who: Who, request: Request, widget_id: UUID) -> list[str]:
        is_sheet = "text/csv" in request.headers.get("accept", "")
        if not is_sheet and await is_of(product, widget_id) != who.tenant_id:
            raise HTTPException(404, "There is no such widget.")
        return await names_of(product, [widget_id])
