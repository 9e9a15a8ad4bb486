"""Importing a folder into a tenant's knowledge base."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text

from tenantry import Database
from tenantry.errors import (
    ConfigurationError,
    InvalidValueError,
    TenantRequiredError,
    TenantUnknownError,
)
from tenantry.knowledge import (
    HASH_EMBEDDER,
    Embedder,
    ImportProgress,
    ImportReport,
    add_document,
    hash_embedding,
    import_folder,
    replace_document,
)
from tenantry.schema import EMBEDDING_DIMENSIONS, KnowledgeChunk, KnowledgeDocument, Tenant
from tenantry.schema.types import CONTENT_MAX_BYTES
from tests.conftest import TenantPair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "handbook"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "refunds.md").write_text("```\n# not this\n```\n\n## Refunds ##\n\nThirty days.\n")
    (root / "deep" / "er" / "Hours.TXT").write_text("We are open from nine to five.\n")
    (root / "deep" / "long.markdown").write_text("# Long\n\n" + "A sentence of it. " * 300)
    (root / ".hidden.md").write_text("secret")
    (root / "picture.png").write_bytes(b"\x89PNG")
    return root


ALL = ("deep/er/Hours.TXT", "deep/long.markdown", "refunds.md")


async def run(
    db: Database,
    tenant: Tenant,
    path: Path,
    *,
    prune: bool = False,
    embedder: Embedder = hash_embedding,
    name: str = HASH_EMBEDDER,
    language: str = "english",
    seen: list[ImportProgress] | None = None,
) -> ImportReport:
    return await import_folder(
        db,
        tenant.id,
        path,
        embedder=embedder,
        embedder_name=name,
        language=language,
        prune=prune,
        on_progress=None if seen is None else seen.append,
    )


async def stored(db: Database, tenant: Tenant) -> dict[str | None, KnowledgeDocument]:
    async with db.tenant(tenant.id) as tx:
        return {each.source: each for each in await tx.scalars(select(KnowledgeDocument))}


async def chunks(db: Database, tenant: Tenant, source: str) -> list[KnowledgeChunk]:
    document = (await stored(db, tenant))[source]
    async with db.tenant(tenant.id) as tx:
        statement = select(KnowledgeChunk).where(KnowledgeChunk.document_id == document.id)
        return list(await tx.scalars(statement.order_by(KnowledgeChunk.position)))


async def test_folder_becomes_documents_and_chunks(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """Every text file becomes a document with its title, its chunks and their vectors."""
    seen: list[ImportProgress] = []
    report = await run(db, tenants.a, folder, seen=seen)
    documents = await stored(db, tenants.a)
    assert report.added == ALL == tuple(sorted(str(source) for source in documents))
    titles = {document.title for document in documents.values()}
    assert titles == {"Refunds", "Hours", "Long"}
    long = await chunks(db, tenants.a, "deep/long.markdown")
    assert len(long) > 3
    assert [chunk.position for chunk in long] == list(range(len(long)))
    assert long[1].embedding == pytest.approx(hash_embedding([long[1].content])[0], abs=1e-6)
    assert report.chunks == len(long) + 2
    assert [each.done for each in seen] == [1, 2, 3]
    assert {each.total for each in seen} == {3}


async def test_other_tenant_sees_nothing(db: Database, tenants: TenantPair, folder: Path) -> None:
    """What one tenant imports is not there for another, who may import the same folder."""
    await run(db, tenants.a, folder)
    assert await stored(db, tenants.b) == {}
    assert (await run(db, tenants.b, folder)).added == ALL


async def test_second_import_changes_only_what_changed(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """An unchanged file is not even embedded; a changed one keeps its id and loses old chunks."""
    await run(db, tenants.a, folder)
    before = await stored(db, tenants.a)
    asked: list[str] = []

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        asked.extend(texts)
        return hash_embedding(texts)

    assert (await run(db, tenants.a, folder, embedder=embedder)).unchanged == ALL
    assert asked == []
    (folder / "deep" / "long.markdown").write_text("# Short\n\nNow.")
    (folder / "new.txt").write_text("New.")
    (folder / "refunds.md").unlink()
    report = await run(db, tenants.a, folder, embedder=embedder)
    assert (report.added, report.changed) == (("new.txt",), ("deep/long.markdown",))
    assert (report.unchanged, report.gone, report.removed) == (ALL[:1], ("refunds.md",), ())
    assert asked == ["# Short\n\nNow.", "New."]
    after = await stored(db, tenants.a)
    changed = after["deep/long.markdown"]
    assert (changed.id, changed.title) == (before["deep/long.markdown"].id, "Short")
    assert [each.content for each in await chunks(db, tenants.a, "deep/long.markdown")] == asked[:1]


async def test_another_embedder_embeds_everything(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """Vectors of two embedders cannot be compared, so none of the old ones stays."""
    await run(db, tenants.a, folder)
    assert (await run(db, tenants.a, folder, name="other:embedder")).changed == ALL


async def test_another_language_writes_everything(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """Documents and chunks get the language, and one that changed is no unchanged document."""
    await run(db, tenants.a, folder)
    assert {each.language for each in (await stored(db, tenants.a)).values()} == {"english"}
    assert (await run(db, tenants.a, folder, language="german")).changed == ALL
    assert {each.language for each in (await stored(db, tenants.a)).values()} == {"german"}
    assert {each.language for each in await chunks(db, tenants.a, ALL[1])} == {"german"}
    assert (await run(db, tenants.a, folder, language="german")).unchanged == ALL
    assert (await run(db, tenants.a, folder)).changed == ALL
    with pytest.raises(InvalidValueError, match=r"'klingon'; one of arabic,.* Use 'simple'"):
        await run(db, tenants.a, folder, language="klingon")


async def test_prune_removes_what_is_gone_and_nothing_else(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """Documents whose files are gone go; those that no import made, or another tenant's, stay."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(KnowledgeDocument(title="By hand", content="stays"))
        await add_document(tx, title="From elsewhere", content="stays too", source="crm:42")
    await run(db, tenants.a, folder)
    await run(db, tenants.b, folder)
    (folder / "refunds.md").unlink()
    report = await run(db, tenants.a, folder, prune=True)
    assert (report.removed, report.gone) == (("refunds.md",), ())
    assert set(await stored(db, tenants.a)) == {None, "crm:42", *ALL[:2]}
    assert "refunds.md" in await stored(db, tenants.b)


async def test_prune_keeps_what_the_application_has_replaced(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """A document with the application's text is none of an import's, file or no file."""
    await run(db, tenants.a, folder)
    refunds = (await stored(db, tenants.a))["refunds.md"]
    async with db.tenant(tenants.a.id) as tx:
        await replace_document(tx, refunds.id, title="Ours", content="ours")
    (folder / "refunds.md").unlink()
    report = await run(db, tenants.a, folder, prune=True)
    assert (report.removed, report.gone) == ((), ())
    assert (await stored(db, tenants.a))["refunds.md"].title == "Ours"


@pytest.mark.parametrize(
    "before",
    [
        "````\n```\n# inner\n```\n````\n",
        "```\n```python\n# inner\n```\n",
        "~~~\n```\n# inner\n~~~\n",
        "```code``` in a line\n",
    ],
)
async def test_title_is_no_line_of_code(
    db: Database, tenants: TenantPair, tmp_path: Path, before: str
) -> None:
    """A block of code ends at a fence of its own kind, at least as long, with nothing after it."""
    (tmp_path / "one.md").write_text(f"{before}# Heading\n")
    await run(db, tenants.a, tmp_path)
    assert (await stored(db, tenants.a))["one.md"].title == "Heading"


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("Refunds\n=======\n\n# Later\n", "Refunds"),
        ("A line.\n\n  Refunds  \n---\n", "Refunds"),
        ("---\n# no heading\ntags: a\n---\n\n# Refunds\n", "Refunds"),
        ("---\ntitle: no heading\n---\ntext\n", "one"),
        ("- a list\n---\n> a quote\n===\n    code\n===\n\n---\n", "one"),
        ("Two lines of text\nand a rule\n---\n", "one"),
        ("a | b\n---|---\n1 | 2\n", "one"),
    ],
)
async def test_title_is_the_first_heading(
    db: Database, tenants: TenantPair, tmp_path: Path, content: str, title: str
) -> None:
    """Underlined ones count, and what stands before the text of a file in YAML does not."""
    (tmp_path / "one.md").write_text(content)
    await run(db, tenants.a, tmp_path)
    assert (await stored(db, tenants.a))["one.md"].title == title


async def test_unreadable_files_are_reported_and_the_rest_goes_in(
    db: Database, tenants: TenantPair, folder: Path, tmp_path: Path
) -> None:
    """Each file that cannot be imported is named with its reason; all others are there."""
    (folder / "latin.md").write_bytes("Gr\xfc\xdfe".encode("latin-1"))
    (folder / "nul.txt").write_bytes(b"a\0b")
    (folder / "empty.md").write_text(" \n")
    (folder / "large.txt").write_bytes(b"x" * (CONTENT_MAX_BYTES + 1))
    (folder / "dir.md").mkdir()
    (folder / "dir.md" / "inner.md").write_text("# Inner")
    (folder / "nowhere.md").symlink_to(folder / "missing.md")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (tmp_path / "outside.md").write_text("# Outside")
    (folder / "escape.md").symlink_to(tmp_path / "outside.md")
    (folder / "up").symlink_to(tmp_path)
    (folder / "around").symlink_to(folder)
    os.mkfifo(folder / "pipe.md")
    (folder / (500 * "d")[:250]).mkdir()
    report = await asyncio.wait_for(run(db, tenants.a, folder), 60)
    reasons = dict(report.failed)
    expected = {
        "latin.md": "not UTF-8 at byte 2",
        "nul.txt": "contains NUL",
        "empty.md": "is empty",
        "large.txt": "larger than",
        "dir.md": "is a folder",
        "nowhere.md": "leads nowhere",
        "loop.md": "leads nowhere",
        "escape.md": "link out of the folder",
        "up/": "link out of the folder",
        "pipe.md": "not a regular file",
    }
    assert set(reasons) == set(expected)
    assert all(part in reasons[source] for source, part in expected.items()), reasons
    assert set(report.added) == {*ALL, "dir.md/inner.md"}


async def test_file_without_permission(
    db: Database, tenants: TenantPair, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may not be read, or vanished since it was listed, is reported too."""
    from tenantry.knowledge import folders

    real = folders._read

    def read(path: Path) -> bytes:
        if path.name == "refunds.md":
            raise PermissionError(13, "Permission denied")
        if path.name == "Hours.TXT":
            path.unlink()
        return real(path)

    monkeypatch.setattr(folders, "_read", read)
    report = await run(db, tenants.a, folder)
    assert report.failed == (
        ("deep/er/Hours.TXT", "No such file or directory"),
        ("refunds.md", "Permission denied"),
    )
    assert report.added == ("deep/long.markdown",)


async def test_what_became_unreadable_is_not_pruned(
    db: Database, tenants: TenantPair, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that cannot be read now is not gone, so its documents stay."""
    await run(db, tenants.a, folder)
    (folder / "refunds.md").write_bytes(b"\xff")
    real = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = await run(db, tenants.a, folder, prune=True)
    assert dict(report.failed).keys() == {"deep/", "refunds.md"}
    assert report.removed == ()
    assert set(await stored(db, tenants.a)) == set(ALL)


async def test_what_becomes_a_link_meanwhile_is_not_followed(
    db: Database, tenants: TenantPair, folder: Path, tmp_path: Path
) -> None:
    """An import takes minutes: what was a file at its beginning may lead out of the folder now."""
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "long.markdown").write_text("secret")

    def swap(at: ImportProgress) -> None:
        if at.done == 1:
            (folder / "deep").rename(tmp_path / "before")
            (folder / "deep").symlink_to(tmp_path)
            (folder / "refunds.md").unlink()
            (folder / "refunds.md").symlink_to(tmp_path / "secret.md")

    report = await import_folder(
        db,
        tenants.a.id,
        folder,
        embedder=hash_embedding,
        embedder_name=HASH_EMBEDDER,
        on_progress=swap,
    )
    assert report.added == ALL[:1]
    assert dict(report.failed) == dict.fromkeys(ALL[1:], "has become a link")


async def test_folders_deeper_than_the_stack(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """A tree that no file of could be named in 1,000 bytes ends no import."""
    before = Path.cwd()
    try:
        os.chdir(folder)
        for _ in range(1_100):
            Path("a").mkdir()
            os.chdir("a")
        Path("last.md").write_text("x")
    finally:
        os.chdir(before)
    try:
        report = await run(db, tenants.a, folder)
    finally:
        # rmtree, which pytest goes by, has a stack as well.
        removing = await asyncio.create_subprocess_exec("rm", "-r", folder / "a")
        assert await removing.wait() == 0
    assert report.added == ALL
    assert "1,000" in report.failed[0][1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"prune": "no"}, "prune is a str"), ({"name": None}, "embedder_name is a NoneType")],
)
async def test_options_of_another_type(
    db: Database, tenants: TenantPair, folder: Path, wrong: dict[str, Any], message: str
) -> None:
    """They are refused before anything is done: any text would be a yes to pruning."""
    with pytest.raises(InvalidValueError, match=message):
        await run(db, tenants.a, folder, **wrong)
    assert await stored(db, tenants.a) == {}


async def test_single_file(db: Database, tenants: TenantPair, folder: Path) -> None:
    """One file can be imported alone, and says nothing about the others."""
    await run(db, tenants.a, folder)
    (folder / "refunds.md").write_text("# Changed")
    report = await run(db, tenants.a, folder / "refunds.md", prune=True)
    assert (report.changed, report.gone, report.removed) == (("refunds.md",), (), ())
    assert set(await stored(db, tenants.a)) == set(ALL)


async def test_two_imports_at_once(db: Database, tenants: TenantPair, folder: Path) -> None:
    """Two imports of one folder at the same moment store each document once."""

    async def slow(texts: Sequence[str]) -> list[list[float]]:
        await asyncio.sleep(0.05)
        return hash_embedding(texts)

    first, second = await asyncio.gather(
        run(db, tenants.a, folder, embedder=slow), run(db, tenants.a, folder, embedder=slow)
    )
    assert sorted(first.added + second.added) == sorted(ALL)
    assert sorted(first.unchanged + second.unchanged) == sorted(ALL)
    async with db.tenant(tenants.a.id) as tx:
        total = await tx.scalar(select(func.count()).select_from(KnowledgeChunk))
    assert total == first.chunks + second.chunks


async def test_embedding_holds_no_transaction(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """While an embedder works, however long, no connection of the pool is in use."""
    busy: list[object] = []

    async def embedder(texts: Sequence[str]) -> list[list[float]]:
        async with db.operator(reason="test") as tx:
            others = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            )
            await tx.execute(text("RESET ROLE"))
            busy.append(await tx.scalar(others))
        return hash_embedding(texts)

    await run(db, tenants.a, folder, embedder=embedder)
    assert set(busy) == {0}


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0] * 384], "384 dimensions"),
        ([[float("nan")] * EMBEDDING_DIMENSIONS], "is nan"),
        ([[0.0] * EMBEDDING_DIMENSIONS], "length zero"),
        ([], "0 vectors for 1 texts"),
    ],
)
async def test_bad_embedder_ends_the_import(
    db: Database, tenants: TenantPair, folder: Path, vectors: list[list[float]], message: str
) -> None:
    """Vectors that cannot be stored are one clear error that names the embedder."""
    with pytest.raises(InvalidValueError, match=f"my:embedder.*{message}"):
        await run(db, tenants.a, folder, embedder=lambda _: vectors, name="my:embedder")
    assert await stored(db, tenants.a) == {}


async def test_failing_embedder_keeps_what_was_there(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """A document is replaced whole or not at all; those before it are in, the next run goes on."""
    await run(db, tenants.a, folder)
    for source in ALL:
        (folder / source).write_text("# Second\n\nversion")
    calls = 0

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TimeoutError("no answer")
        return hash_embedding(texts)

    with pytest.raises(ConfigurationError, match="TimeoutError: no answer"):
        await run(db, tenants.a, folder, embedder=embedder)
    assert len(await chunks(db, tenants.a, "deep/long.markdown")) > 3
    report = await run(db, tenants.a, folder)
    assert (report.unchanged, report.changed) == (ALL[:1], ALL[1:])


async def test_opposite_chunks_still_give_a_document_vector(
    db: Database, tenants: TenantPair, folder: Path
) -> None:
    """Vectors that cancel out leave the document with one for which a distance is defined."""

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        return [[(-1.0) ** n] + [0.0] * 1023 for n in range(len(texts))]

    (folder / "deep" / "long.markdown").write_text("a" * 1200 + "\n\n" + "b" * 1200)
    await run(db, tenants.a, folder / "deep" / "long.markdown", embedder=embedder)
    assert len(await chunks(db, tenants.a, "long.markdown")) == 2
    assert (await stored(db, tenants.a))["long.markdown"].embedding == [1.0] + [0.0] * 1023


async def test_nothing_to_import(db: Database, tenants: TenantPair, tmp_path: Path) -> None:
    """A path that is not there, a folder without texts and another kind of file are errors."""
    with pytest.raises(ConfigurationError, match="No such file"):
        await run(db, tenants.a, tmp_path / "missing")
    with pytest.raises(ConfigurationError, match=r"no \.markdown, \.md"):
        await run(db, tenants.a, tmp_path)
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    with pytest.raises(ConfigurationError, match="is not one of"):
        await run(db, tenants.a, tmp_path / "x.pdf")


async def test_unknown_tenant(db: Database, folder: Path) -> None:
    """A tenant that does not exist, or is no id at all, is refused before anything is embedded."""

    def embedder(texts: Sequence[str]) -> list[list[float]]:
        raise AssertionError

    for tenant_id, error in ((uuid4(), TenantUnknownError), ("acme", TenantRequiredError)):
        with pytest.raises(error):
            await import_folder(
                db, tenant_id, folder, embedder=embedder, embedder_name=HASH_EMBEDDER
            )
