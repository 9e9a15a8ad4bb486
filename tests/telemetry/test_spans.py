"""Spans: what there is one of, whose child it is, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, NoResultFound
from starlette.exceptions import HTTPException

from tenantry import Database
from tenantry.auth import Auth, SignedIn
from tenantry.errors import InvalidCredentialsError, InvalidTokenError
from tenantry.knowledge import Chunk, add_document
from tenantry.schema import EMBEDDING_DIMENSIONS, ConversationSession, Widget
from tenantry.search import hybrid_search, keyword_search, vector_search
from tests.conftest import TenantPair
from tests.telemetry.conftest import EMAIL, PASSWORD, Recording

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

VECTOR = [1.0] + [0.0] * (EMBEDDING_DIMENSIONS - 1)
KEY, KEYS = "SELECT tenantry.authenticate_api_key", "SELECT tenantry.authenticate_api_keys"
SESSION, SESSIONS = "SELECT tenantry.validate_session", "SELECT tenantry.validate_sessions"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    assert of.context is not None
    return span.parent is not None and span.parent.span_id == of.context.span_id


async def test_a_transaction_is_a_span_around_its_block(
    recording: Recording, db: Database, tenants: TenantPair
) -> None:
    """It is the caller's child and the parent of what is done within, and names the tenant."""
    with recording.tracer.start_as_current_span("request") as request:
        async with db.tenant(str(tenants.a.id), read_only=True) as tx:
            with recording.tracer.start_as_current_span("work"):
                await tx.scalars(select(Widget))
        assert trace.get_current_span() is request
    span = recording.span("tenantry.transaction")
    assert is_child(span, recording.span("request"))
    assert is_child(recording.span("work"), span)
    assert span.kind is SpanKind.INTERNAL
    said = attributes(span)
    assert said.pop("server.address")
    said.pop("server.port", None)
    assert said == {
        "db.system.name": "postgresql",
        "db.namespace": db.settings.database_url and db.settings.database_url.database,
        "tenantry.tenant_id": str(tenants.a.id),
        "tenantry.read_only": True,
        "tenantry.outcome": "ok",
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_an_error_is_told_by_its_type_and_sqlstate(
    recording: Recording, db: Database, tenants: TenantPair
) -> None:
    """No message, no event, no description: PostgreSQL's would quote the row."""
    with pytest.raises(IntegrityError):
        async with db.tenant(tenants.a.id) as tx:
            first = Widget(name="sesame-secret")
            tx.add(first)
            await tx.flush()
            await tx.execute(
                text("INSERT INTO widgets (tenant_id, id, name) VALUES (:tenant, :id, 'sesame')"),
                {"tenant": first.tenant_id, "id": first.id},
            )
    span = recording.span("tenantry.transaction")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert not span.events
    assert attributes(span)["error.type"] == "sqlalchemy.exc.IntegrityError"
    assert attributes(span)["db.response.status_code"] == "23505"
    assert attributes(span)["tenantry.outcome"] == "error"
    assert "sesame" not in recording.everything()


async def test_a_failed_commit_and_a_cancelled_block_are_told(
    recording: Recording, db: Database, tenants: TenantPair
) -> None:
    """What fails at the end of the block counts as well; who was cancelled has made no mistake."""
    with pytest.raises(IntegrityError):
        async with db.tenant(tenants.a.id) as tx:
            tx.add(ConversationSession(widget_id=uuid4()))  # sent with the commit
    assert attributes(recording.span("tenantry.transaction"))["tenantry.outcome"] == "error"
    recording.clear()

    entered = asyncio.Event()

    async def wait() -> None:
        async with db.tenant(tenants.a.id):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = recording.span("tenantry.transaction")
    assert attributes(span)["tenantry.outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


class OtherServiceError(Exception):
    status_code = 404


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NoResultFound(), "refused"),
        (HTTPException(404), "refused"),
        (HTTPException(502), "error"),
        (OtherServiceError(), "error"),
    ],
    ids=["no row", "404", "502", "another service's 404"],
)
async def test_what_a_request_is_refused_with_is_no_failure(
    recording: Recording, db: Database, tenants: TenantPair, error: Exception, outcome: str
) -> None:
    """A page that is not there would else count as a failed transaction."""
    with pytest.raises(type(error)):
        async with db.tenant(tenants.a.id):
            raise error
    span = recording.span("tenantry.transaction")
    assert attributes(span)["tenantry.outcome"] == outcome
    assert (span.status.status_code is StatusCode.ERROR) == (outcome == "error")


async def test_a_block_may_end_in_another_task(
    recording: Recording, db: Database, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """As a fixture does: the span ends, and nothing is taken from a context that never had it."""
    stack = AsyncExitStack()
    await asyncio.create_task(stack.enter_async_context(db.tenant(tenants.a.id)))
    with recording.tracer.start_as_current_span("elsewhere") as elsewhere:
        await stack.aclose()
        assert trace.get_current_span() is elsewhere
    assert recording.span("tenantry.transaction").end_time
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]


async def test_a_sign_in_is_one_trace_across_the_hashing_thread(
    recording: Recording, auth: Auth, tenants: TenantPair
) -> None:
    """Its transactions before and after the hash are its children, and the hash is not lost."""
    await auth.register(tenants.a.id, EMAIL, PASSWORD)
    recording.clear()
    with recording.tracer.start_as_current_span("request") as request:
        await auth.sign_in(tenants.a.id, EMAIL, PASSWORD)
        assert trace.get_current_span() is request
    span = recording.span("tenantry.sign_in")
    assert is_child(span, recording.span("request"))
    transactions = recording.spans("tenantry.transaction")
    assert len(transactions) == 2
    assert all(is_child(each, span) for each in transactions)
    assert attributes(span) == {
        "tenantry.tenant_id": str(tenants.a.id),
        "tenantry.outcome": "ok",
    }
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenants.a.id, EMAIL, "wrong")
    refused = recording.spans("tenantry.sign_in")[-1]
    assert attributes(refused)["tenantry.outcome"] == "refused"
    assert refused.status.status_code is StatusCode.UNSET


async def test_a_sign_in_without_a_tenant_is_seen_as_refused(
    recording: Recording, auth: Auth
) -> None:
    """In spans and in metrics, like a wrong password; that there is no tenant is not told."""
    with pytest.raises(InvalidCredentialsError):
        await auth.refuse_sign_in("sesame")
    span = recording.span("tenantry.sign_in")
    assert attributes(span) == {"tenantry.outcome": "refused"}
    assert span.status.status_code is StatusCode.UNSET
    key = (("tenantry.operation", "sign_in"), ("tenantry.outcome", "refused"))
    assert recording.points("tenantry.operation.duration")[key][0] == 1
    assert "sesame" not in recording.everything()


async def test_what_is_no_tenant_id_is_not_told(recording: Recording, auth: Auth) -> None:
    """It could be anything, a password too."""
    with pytest.raises(Exception, match="tenant id is required"):
        await auth.sign_in("sesame", EMAIL, PASSWORD)
    assert "tenantry.tenant_id" not in attributes(recording.span("tenantry.sign_in"))
    assert "sesame" not in recording.everything()


async def test_whoever_comes_alone_has_the_statement_as_a_child(
    signed_in: SignedIn, recording: Recording, auth: Auth, tenants: TenantPair
) -> None:
    """A validation is a span with the tenant, once that is proven; its statement is a client's."""
    key = (await auth.issue_api_key(tenants.a.id)).key
    recording.clear()
    await auth.validate(signed_in.token)
    await auth.authenticate_api_key(key)
    for own, sent in (
        (recording.span("tenantry.validate"), recording.span(SESSION)),
        (recording.span("tenantry.authenticate_api_key"), recording.span(KEY)),
    ):
        assert own.kind is SpanKind.INTERNAL
        assert attributes(own) == {
            "tenantry.tenant_id": str(tenants.a.id),
            "tenantry.outcome": "ok",
        }
        assert sent.kind is SpanKind.CLIENT
        assert is_child(sent, own)
        assert attributes(sent)["db.query.summary"] == sent.name
        assert "db.operation.batch.size" not in attributes(sent)
    recording.clear()
    for token in ("nonsense", signed_in.token[:-2] + "AA"):
        with pytest.raises(InvalidTokenError):
            await auth.validate(token)
    for refused in recording.spans("tenantry.validate"):
        assert attributes(refused) == {"tenantry.outcome": "refused"}
        assert refused.status.status_code is StatusCode.UNSET


async def test_a_shared_statement_is_nobodys_child_and_is_linked_to_all(
    signed_in: SignedIn, recording: Recording, auth: Auth
) -> None:
    """Each caller keeps its own trace; the statement has nothing of their context, nor baggage."""
    from opentelemetry.sdk.trace import SpanProcessor

    carried: list[object] = []

    class Watching(SpanProcessor):
        def on_start(self, span: Any, parent_context: object = None) -> None:
            if span.name == SESSIONS:
                carried.append(baggage.get_all())

    recording.tracer_provider.add_span_processor(Watching())

    async def request(number: int) -> None:
        with recording.tracer.start_as_current_span(f"request {number}"):
            token = context.attach(baggage.set_baggage("caller", number))
            await auth.validate(signed_in.token)
            context.detach(token)

    await asyncio.gather(*(request(number) for number in range(40)))
    validations = recording.spans("tenantry.validate")
    assert len(validations) == 40
    parents = {each.parent.span_id for each in validations if each.parent}
    assert parents == {
        each.context.span_id
        for each in recording.spans()
        if each.name.startswith("request") and each.context
    }
    shared = recording.spans(SESSIONS)
    assert all(each.parent is None for each in shared)
    linked = [link.context.span_id for each in shared for link in each.links]
    assert sum(attributes(each).get("db.operation.batch.size", 1) for each in shared) == len(linked)
    alone = [
        each for each in validations if any(is_child(s, each) for s in recording.spans(SESSION))
    ]
    assert sorted(linked + [each.context.span_id for each in alone if each.context]) == sorted(
        each.context.span_id for each in validations if each.context
    )
    assert max(len(each.links) for each in shared) > 1
    assert carried
    assert not any(carried)


async def test_searches_are_client_spans_in_their_transaction(
    recording: Recording, db: Database, tenants: TenantPair
) -> None:
    """Each of the three, with the tenant and how many hits; a bad argument is an error."""
    async with db.tenant(tenants.a.id) as tx:
        await add_document(
            tx, title="Refunds", content="sesame", chunks=[Chunk("sesame refunds", VECTOR)]
        )
        await vector_search(tx, VECTOR)
        await keyword_search(tx, "sesame")
        await hybrid_search(tx, text="sesame", embedding=VECTOR)
        with pytest.raises(Exception, match="1 to 1,000"):
            await vector_search(tx, VECTOR, k=0)
    transaction = recording.span("tenantry.transaction")
    for name in ("vector_search", "keyword_search", "hybrid_search"):
        span = recording.spans(name)[0]
        assert is_child(span, transaction)
        assert span.kind is SpanKind.CLIENT
        assert attributes(span)["tenantry.tenant_id"] == str(tenants.a.id)
        assert attributes(span)["db.operation.name"] == name
        assert attributes(span)["db.response.returned_rows"] == 1
    failed = recording.spans("vector_search")[-1]
    assert attributes(failed)["error.type"] == "tenantry.errors.InvalidValueError"
    assert "sesame" not in recording.everything()


async def test_nothing_secret_leaves(
    recording: Recording, db: Database, auth: Auth, tenants: TenantPair
) -> None:
    """Neither email, password, token, key, text, address nor what a client calls itself."""
    tenant = tenants.a.id
    user = await auth.register(tenant, EMAIL, PASSWORD, name="Ada Lovelace")
    opened = await auth.sign_in(
        tenant, EMAIL, PASSWORD, address="192.0.2.77", user_agent="Mosaic/0.9"
    )
    key = (await auth.issue_api_key(tenant)).key
    await asyncio.gather(
        *(auth.validate(opened.token) for _ in range(5)), auth.authenticate_api_key(key)
    )
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenant, EMAIL, "mistyped password")
    async with db.tenant(tenant) as tx:
        await keyword_search(tx, "confidential question")
        await vector_search(tx, [0.123456789] * EMBEDDING_DIMENSIONS)
    await auth.sign_out(opened.token)
    said = recording.everything()
    assert str(tenant) in said
    secrets = [PASSWORD, "mistyped", key, key[-20:], opened.token, *opened.token.split(".")[1:]]
    for secret in (*secrets, opened.device_token, EMAIL, "Ada", str(user.id), "192.0.2.77",
                   "Mosaic", "confidential", "0.12345"):  # fmt: skip
        assert secret not in said


async def test_spans_are_made_only_where_they_are_wanted(
    signed_in: SignedIn, db: Database, auth: Auth, record: Callable[..., Recording]
) -> None:
    """A parent that is not sampled has no children; durations are recorded all the same."""
    recording = record()
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    off = record(ParentBased(ALWAYS_OFF))
    recording.watch(db)
    with off.tracer.start_as_current_span("not sampled"):
        await asyncio.gather(*(auth.validate(signed_in.token) for _ in range(9)))
        async with db.tenant(signed_in.user.tenant_id) as tx:
            await keyword_search(tx, "word")
    assert recording.spans() == []
    key = (("tenantry.operation", "validate"), ("tenantry.outcome", "ok"))
    assert recording.points("tenantry.operation.duration")[key][0] == 9
    await auth.validate(signed_in.token)
    assert len(recording.spans()) == 2
