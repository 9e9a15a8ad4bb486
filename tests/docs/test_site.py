"""The documentation's site: complete, without a dead link, and without anybody else's servers."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hatchling.builders.wheel import WheelBuilder

import tenantry
from scripts import entity_diagram
from tenantry.ops.seed import load_corpus
from tests.docs.test_examples import PYTHON, ROOT

DOCS = ROOT / "docs"
# Used through the others, or by the commands.
INTERNAL = {"__main__", "asgi", "cli", "database", "ops", "tenancy"}


@dataclass
class Page(HTMLParser):
    """What a page can be linked to by, what it links to, and what a browser loads with it."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.classes |= set(given.get("class", "").split())
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The built site: its pages by their paths."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "src").symlink_to(ROOT / "src")
    for name in ("zensical.toml", "CHANGELOG.md"):  # beside which the site is built
        shutil.copy(ROOT / name, folder)
    shutil.copytree(DOCS, folder / "docs")
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "griffe:" not in built.stdout + built.stderr  # an argument that nothing takes
    found = {}
    for path in (folder / "site").rglob("*.html"):
        found[path] = Page()
        found[path].feed(path.read_text(encoding="utf-8"))
    assert len(found) > 30
    return found


def public() -> Iterator[str]:
    """Yield the modules that users import from."""
    yield "tenantry"
    for module in pkgutil.iter_modules(tenantry.__path__):
        if module.name not in INTERNAL:
            yield f"tenantry.{module.name}"


def test_every_public_name_is_in_the_reference(site: dict[Path, Page]) -> None:
    """What a package exports has a place in the reference; a new module needs a page there."""
    documented = set().union(*(page.ids for page in site.values()))
    missing = {
        f"{module}.{name}"
        for module in public()
        for name in importlib.import_module(module).__all__
    } - documented
    assert not missing, 'add "::: tenantry.…" to docs/reference and a line to zensical.toml'


def test_what_pages_import_is_in_the_reference(site: dict[Path, Page]) -> None:
    """What a page has its readers rely on is public."""
    names = set().union(*(page.ids for page in site.values()))
    documented = names | {each.rpartition(".")[0] for each in names}  # their modules
    imported = {
        f"{each.module}.{alias.name}"
        for block in PYTHON
        for each in ast.walk(ast.parse(block.code))
        if isinstance(each, ast.ImportFrom) and str(each.module).startswith("tenantry")
        for alias in each.names
    }
    assert imported <= documented


def test_the_changelog_is_a_page(site: dict[Path, Page]) -> None:
    """Who upgrades reads it where the rest is read."""
    (page,) = [each for path, each in site.items() if path.name == "changelog.html"]
    assert any("unreleased" in each for each in page.ids)


def test_no_link_of_the_site_is_dead(site: dict[Path, Page]) -> None:
    """Links within the site lead to a page and a place on it; those of the reference too."""
    dead = defaultdict(set)
    for path, page in site.items():
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            linked = linked / "index.html" if linked.is_dir() else linked
            anchor = unquote(parts.fragment)
            if not linked.is_file() or (anchor and anchor not in site[linked].ids):
                dead[path.name].add(target)
    assert not dead


def test_nobody_else_learns_who_reads(site: dict[Path, Page]) -> None:
    """A page loads from its own site only, and has nothing for which the theme asks a CDN."""
    for path, page in site.items():
        assert not [each for each in page.loads if urlsplit(each).netloc], path.name
        assert not page.classes & {"mermaid", "glightbox", "pyodide"}, path.name


def test_every_page_is_in_the_navigation() -> None:
    """A page is in the navigation once; what is there is a page."""

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for each in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(each)

    settings = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    there = sorted(str(each.relative_to(DOCS)) for each in DOCS.rglob("*.md"))
    assert sorted(pages(settings["project"]["nav"])) == there


def test_the_diagram_is_that_of_the_models() -> None:
    """Who changes a model draws it anew: ``python -m scripts.entity_diagram``."""
    assert entity_diagram.PICTURE.read_text(encoding="utf-8") == entity_diagram.draw()


def test_the_package_holds_the_pages_and_no_folder() -> None:
    """The seeds have the same pages in a checkout as in an installed package."""
    pages = sorted(DOCS.glob("*.md"))
    packed = [each.distribution_path for each in WheelBuilder(str(ROOT)).recurse_included_files()]
    place = "tenantry/ops/seed/documentation/"
    inside = sorted(each.removeprefix(place) for each in packed if each.startswith(place))
    assert inside == [page.name for page in pages]
    texts = {page.read_text(encoding="utf-8") for page in pages}
    assert {document.content for document in load_corpus().documents} == texts
