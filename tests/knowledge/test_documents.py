"""Adding, replacing and deleting documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select

from tenantry import Database
from tenantry.errors import (
    ConflictError,
    DocumentUnknownError,
    InvalidValueError,
    ReadOnlyError,
    SessionUseError,
)
from tenantry.knowledge import (
    HASH_EMBEDDER,
    Chunk,
    add_document,
    delete_document,
    hash_embedding,
    import_folder,
    load_chunks,
    replace_document,
)
from tenantry.schema import EMBEDDING_DIMENSIONS, KnowledgeChunk, KnowledgeDocument
from tests.conftest import TenantPair

UNIT = [1.0] + [0.0] * (EMBEDDING_DIMENSIONS - 1)
OTHER = [0.0, 2.0] + [0.0] * (EMBEDDING_DIMENSIONS - 2)


@pytest.fixture
async def document(db: Database, tenants: TenantPair) -> UUID:
    """A document of tenant a with everything."""
    async with db.tenant(tenants.a.id) as tx:
        return await add_document(
            tx,
            title="Refunds",
            content="Thirty days.",
            embedding=UNIT,
            metadata={"lang": "en", "deep": {"é": [1, None]}},
            source="refunds.md",
            chunks=[Chunk("Thirty", UNIT), Chunk("days.", OTHER)],
        )


async def read(db: Database, tenants: TenantPair, document_id: UUID) -> KnowledgeDocument:
    async with db.tenant(tenants.a.id) as tx:
        return await tx.get_one(KnowledgeDocument, document_id)


async def passages(db: Database, document_id: UUID) -> list[tuple[int, str, list[float] | None]]:
    async with db.operator(reason="test") as tx:
        chunk = KnowledgeChunk
        statement = select(chunk.position, chunk.content, chunk.embedding)
        of_it = statement.where(chunk.document_id == document_id).order_by(chunk.position)
        return [(row[0], row[1], row[2]) for row in await tx.execute(of_it)]


async def count(db: Database, model: type[KnowledgeChunk | KnowledgeDocument]) -> int:
    async with db.operator(reason="test") as tx:
        return await tx.scalar(select(func.count()).select_from(model)) or 0


async def test_document_is_added_with_its_chunks(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Everything that was given is there, for its tenant alone."""
    stored = await read(db, tenants, document)
    assert (stored.title, stored.content, stored.source) == (
        "Refunds",
        "Thirty days.",
        "refunds.md",
    )
    assert stored.embedding == UNIT
    assert stored.document_metadata == {"lang": "en", "deep": {"é": [1, None]}}
    assert await passages(db, document) == [(0, "Thirty", UNIT), (1, "days.", OTHER)]
    async with db.tenant(tenants.b.id) as tx:
        assert await tx.get(KnowledgeDocument, document) is None


async def test_document_needs_a_title_and_a_text_only(db: Database, tenants: TenantPair) -> None:
    """The rest is empty, and two documents without a source do not collide."""
    async with db.tenant(tenants.a.id) as tx:
        ids = [await add_document(tx, title="t", content="") for _ in range(2)]
    stored = await read(db, tenants, ids[0])
    assert (stored.embedding, stored.document_metadata, stored.source) == (None, {}, None)
    assert await passages(db, ids[0]) == []


async def test_chunks_may_come_from_anywhere(db: Database, tenants: TenantPair) -> None:
    """Texts alone, generators and asynchronous iterables are chunks."""

    async def slowly() -> AsyncIterator[Chunk | str]:
        yield "a"
        await asyncio.sleep(0)
        yield Chunk("b", UNIT)

    async with db.tenant(tenants.a.id) as tx:
        first = await add_document(tx, title="t", content="c", chunks=slowly())
        second = await add_document(tx, title="t", content="c", chunks=(x for x in "ab"))
    assert await passages(db, first) == [(0, "a", None), (1, "b", UNIT)]
    assert await passages(db, second) == [(0, "a", None), (1, "b", None)]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"title": None}, "knowledge_documents.title is a NoneType"),
    ({"title": "a\0b"}, "title contains NUL"),
    ({"title": "x" * 1001}, "title is 1,001 bytes"),
    ({"content": b"x"}, "content is a bytes"),
    ({"content": "\ud800"}, "content contains a lone surrogate"),
    ({"content": "x" * 17_000_000}, "content is 17,000,000 bytes"),
    ({"embedding": [1.0] * 3}, "embedding has 3 dimensions"),
    ({"embedding": [float("nan"), *UNIT[1:]]}, r"embedding\[0\] is nan"),
    ({"embedding": [0.0] * EMBEDDING_DIMENSIONS}, "embedding has length zero"),
    ({"metadata": ["x"]}, "metadata is a list"),
    ({"metadata": {"x": float("inf")}}, "metadata is not JSON"),
    ({"metadata": {"x": "\0"}}, "metadata contains NUL"),
    ({"language": "klingon"}, "language is 'klingon'; one of arabic, .* Use 'simple'"),
    ({"language": ["english"]}, "language is a list; one of arabic"),
    ({"language": "x" * 1_000_000}, "language is 'x{39}; one of arabic"),
    ({"chunks": ["fine", "a\0b"]}, "row 1: content contains NUL"),
    ({"chunks": ["fine", Chunk("x", [0.0] * 1024)]}, "row 1: embedding has length zero"),
    ({"chunks": [Chunk("x", document_id=uuid4())]}, "all are loaded for"),
    ({"chunks": "a text"}, "an iterable of Chunk or str"),
]


async def test_bad_values_are_named_and_change_nothing(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """What cannot be stored is named; the transaction goes on as if it had not been tried."""
    before = await read(db, tenants, document)
    async with db.tenant(tenants.a.id) as tx:
        for bad, message in BAD:
            given: dict[str, Any] = {"title": "t", "content": "c", **bad}
            with pytest.raises(InvalidValueError, match=message):
                await add_document(tx, **given)
            with pytest.raises(InvalidValueError, match=message):
                await replace_document(tx, document, **given)
        with pytest.raises(InvalidValueError, match="source contains NUL"):
            await add_document(tx, title="t", content="c", source="\0")
    after = await read(db, tenants, document)
    assert (after.title, after.content, after.document_metadata) == (
        before.title,
        before.content,
        before.document_metadata,
    )
    assert await passages(db, document) == [(0, "Thirty", UNIT), (1, "days.", OTHER)]
    assert await count(db, KnowledgeDocument) == 1


async def test_error_in_the_chunks_leaves_no_document(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """An error of the caller's own passes through, and neither document nor chunks stay."""

    def broken() -> Iterator[str]:
        yield from ["x"] * 300
        raise RuntimeError("no more")

    async with db.tenant(tenants.a.id) as tx:
        with pytest.raises(RuntimeError, match="no more"):
            await add_document(tx, title="new", content="c", chunks=broken())
        with pytest.raises(RuntimeError, match="no more"):
            await replace_document(tx, document, title="new", content="c", chunks=broken())
        twice = [Chunk("x", position=1), Chunk("x", position=1)]
        with pytest.raises(ConflictError, match="position 1"):
            await replace_document(tx, document, title="new", content="c", chunks=twice)
    assert (await read(db, tenants, document)).title == "Refunds"
    assert len(await passages(db, document)) == 2
    assert await count(db, KnowledgeDocument) == 1


async def test_source_is_there_once(db: Database, tenants: TenantPair, document: UUID) -> None:
    """Two documents of one source are a conflict that quotes nothing, and two tenants' none."""
    async with db.tenant(tenants.a.id) as tx:
        with pytest.raises(ConflictError, match="a document of this source") as caught:
            await add_document(tx, title="secret", content="c", source="refunds.md")
        assert caught.value.__cause__ is None
        await add_document(tx, title="t", content="c", source="other.md")
    async with db.tenant(tenants.b.id) as tx:
        await add_document(tx, title="t", content="c", source="refunds.md")
    assert await count(db, KnowledgeDocument) == 3


async def test_replaced_document_keeps_what_it_is(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Id, source and created_at stay; all else is what was given last, or empty."""
    before = await read(db, tenants, document)
    async with db.tenant(tenants.a.id) as tx:
        seen = await tx.get_one(KnowledgeDocument, document)
        await replace_document(
            tx,
            str(document),
            title="Refunds 2",
            content="Sixty days.",
            embedding=OTHER,
            metadata={"v": 2},
            chunks=["Sixty", "more", "days."],
        )
        assert (seen.title, seen.document_metadata) == ("Refunds 2", {"v": 2})
    after = await read(db, tenants, document)
    assert (after.id, after.created_at, after.source) == (
        before.id,
        before.created_at,
        before.source,
    )
    assert (after.title, after.content, after.embedding) == ("Refunds 2", "Sixty days.", OTHER)
    assert after.document_metadata == {"v": 2}
    assert [each[:2] for each in await passages(db, document)] == [
        (0, "Sixty"),
        (1, "more"),
        (2, "days."),
    ]
    async with db.tenant(tenants.a.id) as tx:
        await replace_document(tx, document, title="bare", content="c")
    bare = await read(db, tenants, document)
    assert (bare.embedding, bare.document_metadata) == (None, {})
    assert await passages(db, document) == []


async def test_replacements_at_once_do_not_mix(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Whoever comes last, the chunks are those of its text, all of them and no others."""

    async def replace(name: str) -> None:
        async with db.tenant(tenants.a.id) as tx:
            await tx.scalar(select(1))
            chunks = [f"{name}{n}" for n in range(30)]
            await replace_document(tx, document, title=name, content=name, chunks=chunks)
            await asyncio.sleep(0.01)

    for _ in range(3):
        await asyncio.wait_for(asyncio.gather(*map(replace, "abc")), 30)
        name = (await read(db, tenants, document)).title
        found = [each[:2] for each in await passages(db, document)]
        assert found == [(n, f"{name}{n}") for n in range(30)]


async def test_deleted_document_takes_its_chunks(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """Nothing of it stays, and it is unknown from then on."""
    async with db.tenant(tenants.a.id) as tx:
        kept = await add_document(tx, title="t", content="c", chunks=["kept"])
        await delete_document(tx, str(document))
        with pytest.raises(DocumentUnknownError, match="no document"):
            await delete_document(tx, document)
    assert await count(db, KnowledgeDocument) == 1
    assert await passages(db, document) == []
    assert len(await passages(db, kept)) == 1


async def test_other_tenants_document_is_unknown(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """B can neither replace nor delete what is A's, and learns no more than of one that is not."""
    async with db.tenant(tenants.b.id) as tx:
        told = []
        for unknown in (document, uuid4(), "no uuid", None):
            target: Any = unknown
            with pytest.raises(DocumentUnknownError) as caught:
                await replace_document(tx, target, title="t", content="c", chunks=["x"])
            with pytest.raises(DocumentUnknownError):
                await delete_document(tx, target)
            told.append(str(caught.value).replace(str(unknown), "ID"))
        assert told[0] == told[1]
    assert (await read(db, tenants, document)).title == "Refunds"
    assert len(await passages(db, document)) == 2


async def test_only_a_writing_tenants_session_writes(
    db: Database, tenants: TenantPair, document: UUID
) -> None:
    """The operator has no tenant to write for, and a read-only session does not write."""
    async with db.operator(reason="test") as operator:
        tx: Any = operator
        with pytest.raises(SessionUseError):
            await add_document(tx, title="t", content="c")
        with pytest.raises(SessionUseError):
            await replace_document(tx, document, title="t", content="c")
        with pytest.raises(SessionUseError):
            await delete_document(tx, document)
    for act in (
        lambda own: add_document(own, title="t", content="c"),
        lambda own: replace_document(own, document, title="t", content="c"),
        lambda own: delete_document(own, document),
    ):
        with pytest.raises(ReadOnlyError):
            async with db.tenant(tenants.a.id, read_only=True) as own:
                await act(own)


async def test_import_brings_back_what_was_replaced(
    db: Database, tenants: TenantPair, tmp_path: Path
) -> None:
    """A document replaced by hand differs from its file, and the next import notices."""
    (tmp_path / "a.md").write_text("# From a file\n\nText.\n")

    async def run() -> Any:
        return await import_folder(
            db, tenants.a.id, tmp_path, embedder=hash_embedding, embedder_name=HASH_EMBEDDER
        )

    await run()
    async with db.tenant(tenants.a.id) as tx:
        document_id = await tx.scalar(select(KnowledgeDocument.id))
        assert document_id is not None
        await replace_document(tx, document_id, title="by hand", content="c")
    assert (await run()).changed == ("a.md",)
    assert (await read(db, tenants, document_id)).title == "From a file"


async def test_chunks_have_the_language_of_their_document(
    db: Database, tenants: TenantPair
) -> None:
    """Given once, it holds for all chunks, also for those of later; a replacement may change it."""

    async def languages() -> set[tuple[str, str]]:
        async with db.operator(reason="test") as tx:
            both = select(KnowledgeDocument.language, KnowledgeChunk.language).join(
                KnowledgeChunk, KnowledgeChunk.document_id == KnowledgeDocument.id
            )
            return {(row[0], row[1]) for row in await tx.execute(both)}

    async with db.tenant(tenants.a.id) as tx:
        document_id = await add_document(
            tx, title="t", content="c", language="german", chunks=["Häuser"] * 200
        )
        await load_chunks(tx, ["Bäume"], document_id=document_id)
    assert await languages() == {("german", "german")}
    async with db.tenant(tenants.a.id) as tx:
        await replace_document(tx, document_id, title="t", content="c", chunks=["x"])
    assert await languages() == {("german", "german")}
    async with db.tenant(tenants.a.id) as tx:
        await replace_document(
            tx, document_id, title="t", content="c", language="simple", chunks=["x"]
        )
    assert await languages() == {("simple", "simple")}
