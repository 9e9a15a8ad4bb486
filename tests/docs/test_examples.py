"""What the README and the documentation show: their Python runs, and what they name is there."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tenantry.cli.main import app
from tenantry.ops import embedded
from tenantry.schema.base import SCHEMA_REVISION
from tenantry.settings import url_text
from tests.conftest import TenantPair, Urls
from tests.docs.around import AROUND, PAGE
from tests.docs.reading import Step
from tests.forked import Forked
from tests.places import scratch

pytestmark = pytest.mark.untraced

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
# Their Python is files, which test_tutorial.py and test_quickstart.py see to.
FILES = {"tutorial.md", "quickstart.md"}
PREPARED_BLOCKS = [block for block in PYTHON if block.file in PREPARED]
READ = {block.page: None for block in PYTHON if not block.file and block.page.name not in FILES}
# What stands for the reader's own database and folder.
APP = "postgresql://tenantry_app@db.example.com/shop"
ADMIN = re.compile("postgresql://(admin@localhost/shop|postgres@localhost/app)")
FOLDER = "/tmp/scratch"


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
    pages += ["search.md", "signing-in.md", "tenants.md"]
    assert [block.page.name for block in RUNNABLE] == pages


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


@pytest.mark.parametrize("block", [*RUNNABLE, *PREPARED_BLOCKS], ids=str)
def test_marked_examples_come_with_the_tenants_that_they_need(block: Block) -> None:
    """A database has no tenant at first, so the page has the command that makes one."""
    page = block.page.read_text(encoding="utf-8")
    assert "tenantry tenant create Acme" in page or "tenantry demo" in page


def steps(page: Path) -> list[Step]:
    """Return a page's blocks, with what stands around them, in the order in which they run."""
    code = [(page.name, each.line, each.code) for each in PYTHON if each.page == page]
    before, *between, after = AROUND.get(page.name, PAGE).split(PAGE)
    ordered: list[Step] = [("", 0, before)]
    for own in between:
        ordered += [code.pop(0), ("", 0, own)]
    return [*ordered, *code, ("", 0, after)]


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
async def test_who_types_in_the_examples_of_a_page_gets_no_error(
    page: Path, urls: Urls, tenants: TenantPair
) -> None:
    """Each block runs after those above it, and does what the page says."""
    assert [tenant.slug for tenant in tenants] == ["acme", "globex"]
    folder = scratch("page-")  # a block's own server has to get in, also as root
    program = ADMIN.sub(url_text(urls.admin), json.dumps(steps(page)))
    program = program.replace(APP, url_text(urls.app)).replace(FOLDER, f"{folder}/server")
    try:
        (folder / "steps").write_text(program, encoding="utf-8")
        run(folder, urls, str(Path(__file__).with_name("reading.py")), "steps")
    finally:
        for file in folder.rglob("postmaster.pid"):  # of a block that was not followed to its end
            embedded.stop(file.parents[1])
        shutil.rmtree(folder)


def test_nothing_stands_around_a_page_without_examples() -> None:
    """A page that is renamed keeps what its examples are tried with."""
    assert AROUND.keys() <= {page.name for page in READ}


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


@pytest.mark.parametrize("page", [*PAGES, ROOT / "examples/support_desk/README.md"], ids=str)
def test_what_pages_install_can_be_installed(page: Path) -> None:
    """Nothing of the name is on PyPI, or it is somebody else's: it is the checkout's folder."""
    text = page.read_text(encoding="utf-8")
    wanted = [each for each in re.findall(r"pip install ([^`\n]+)", text) if "tenantry" in each]
    assert all("'/path/to/tenantry" in each for each in wanted)


def test_the_doctor_is_shown_at_the_newest_version() -> None:
    """The sample of the page does not make a reader look for a migration that failed."""
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert set(re.findall(r"tenantry_\d{4}", page)) == {SCHEMA_REVISION}
