"""What the README and the documentation show: their Python compiles, and what is marked runs."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tenantry.cli.main import app
from tenantry.settings import url_text
from tests.conftest import TenantPair, Urls
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_BLOCK = re.compile(
    r"^(?:<!-- runnable: (?P<file>[\w.]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"tenantry(?P<words>(?: [a-z][a-z-]*)+)(?P<rest>.*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    file: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> list[Block]:
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["code"],
            found["file"],
        )
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for found in _BLOCK.finditer(text)
    ]


PYTHON = [block for block in blocks() if block.language == "python"]
# What needs more than two tenants has a test of its own, where that is made.
PREPARED = {"move_users.py"}
RUNNABLE = [block for block in PYTHON if block.file and block.file not in PREPARED]


def run(folder: Path, urls: Urls, *arguments: str) -> str:
    """Run a program of a user's as a user would, and return what it prints."""
    environment = {
        **os.environ,
        "TENANTRY_DATABASE_URL": url_text(urls.app),
        "TENANTRY_ADMIN_URL": url_text(urls.admin),
    }
    result = Forked(*arguments, environment=environment, folder=folder).result()
    assert result.code == 0, result.err
    return result.out


async def test_the_readme_and_the_guides_have_an_example_that_runs() -> None:
    """Nobody removes the mark by which the next test finds them."""
    pages = ["README.md", "background-jobs.md", "background-jobs.md", "fastapi.md", "knowledge.md"]
    pages += ["search.md", "signing-in.md"]
    assert [block.page.name for block in RUNNABLE] == pages


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_examples_compile(block: Block) -> None:
    """Every Python block is Python; ``await`` and ``async with`` may stand at its top."""
    compile(block.code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", RUNNABLE, ids=str)
async def test_marked_examples_print_what_the_page_says(
    block: Block, urls: Urls, tenants: TenantPair, tmp_path: Path
) -> None:
    """Pushed and run as the page says, as the application's role, it prints what the page shows."""
    assert block.file is not None
    assert [tenant.slug for tenant in tenants] == ["acme", "globex"]
    (tmp_path / block.file).write_text(block.code, encoding="utf-8")
    if "__tablename__" in block.code:
        pushed = run(tmp_path, urls, "-m", "tenantry", "db", "push", "--models", block.file)
        assert "FORCE ROW LEVEL SECURITY" in pushed
    printed = run(tmp_path, urls, block.file)
    page = block.page.read_text(encoding="utf-8")
    after = page[page.index(block.code) + len(block.code) :]
    expected = re.search(r"^```text\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)
    assert expected is not None
    assert printed == expected[1]


def anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links, pictures too, name a file that is there, and a heading that is in it."""
    for target in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


@cache
def commands() -> dict[str, set[str]]:
    """Return the long options of every command, by its words."""
    found: dict[str, set[str]] = {}

    def walk(words: tuple[str, ...], command: Any) -> None:
        children: dict[str, Any] = getattr(command, "commands", {})
        for name, child in children.items():
            walk((*words, name), child)
        if not children:
            options = {
                option for each in command.params for option in (*each.opts, *each.secondary_opts)
            }
            found[" ".join(words)] = {each for each in options if each.startswith("--")}

    walk((), typer.main.get_command(app))
    return found


def test_every_command_and_option_is_documented() -> None:
    """The page on the command line names all of them."""
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    for words, options in commands().items():
        assert f"tenantry {words}" in page
        documented = page[page.index(f"tenantry {words}") :]
        missing = {each for each in options - {"--help"} if each not in documented}
        assert not missing, f"tenantry {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_exist(page: Path) -> None:
    """No page shows a command or an option that is not there."""
    known = commands()
    text = page.read_text(encoding="utf-8")
    shell = [line for each in blocks() if each.page == page for line in each.code.splitlines()]
    for found in filter(None, map(_COMMAND.match, [*_INLINE.findall(text), *shell])):
        shown = found["words"].split()
        fitting = [words for words in known if shown[: len(words.split())] == words.split()]
        group = any(words.split()[: len(shown)] == shown for words in known)
        assert fitting or group, f"{page.name}: {found[0]}"
        if fitting:
            options = set(re.findall(r"--[a-z][a-z-]*", found["rest"]))
            assert options <= known[fitting[0]], f"{page.name}: {found[0]}"
