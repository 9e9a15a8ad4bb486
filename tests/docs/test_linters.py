"""The page on linters answers each finding, also what later migrations have added."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "linters.md").read_text(encoding="utf-8")
# What the lints of these numbers report on a database that nobody has queried yet.
FOUND = {
    "0005": """
        SELECT indexrelid::regclass::text FROM pg_index
        JOIN pg_class ON pg_class.oid = indrelid
        WHERE relnamespace = 'public'::regnamespace AND NOT indisunique
    """,
    "0011": """
        SELECT proname FROM pg_proc WHERE pronamespace = 'tenantry'::regnamespace
        AND NOT coalesce(array_to_string(proconfig, ' '), '') LIKE '%search_path=%'
    """,
    "0014": """
        SELECT extname FROM pg_extension WHERE extnamespace = 'public'::regnamespace
    """,
    "0028": """
        SELECT proname FROM pg_proc WHERE pronamespace = 'tenantry'::regnamespace
        AND prosecdef AND has_function_privilege('tenantry_app', oid, 'EXECUTE')
    """,
}


@pytest.mark.parametrize("lint", FOUND)
async def test_each_finding_is_answered(lint: str, admin: asyncpg.Connection) -> None:
    """Its number is in the table, and all that it is about is named below its heading."""
    found = {row[0] for row in await admin.fetch(FOUND[lint])}
    assert found
    counted = re.search(rf"^\| {lint} \w+ \| (\d+) \|$", PAGE, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) == len(found)
    answer = re.split(r"^##+ ", PAGE.partition(f"### {lint} ")[2], flags=re.MULTILINE)[0]
    named = re.findall(r"`(?:tenantry\.)?(\w+)`", answer)
    assert found <= set(named)


async def test_each_index_has_its_purpose_on_the_page_of_tables(admin: asyncpg.Connection) -> None:
    """What the answer to 0005 refers to is there."""
    purposes = (DOCS / "tables.md").read_text(encoding="utf-8").partition("## Indexes")[2]
    named = set(re.findall(r"`(\w+_idx)`", purposes))
    assert {row[0] for row in await admin.fetch(FOUND["0005"])} <= named
