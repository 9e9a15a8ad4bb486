"""The page on ASVS: complete, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "asvs.md").read_text(encoding="utf-8")

# How many requirements each section of version 5.0 has.
SECTIONS = {
    "6.1": 3,
    "6.2": 12,
    "6.3": 8,
    "6.4": 6,
    "6.5": 8,
    "6.6": 4,
    "6.7": 2,
    "6.8": 4,
    "7.1": 3,
    "7.2": 4,
    "7.3": 2,
    "7.4": 5,
    "7.5": 3,
    "7.6": 2,
}
_ROW = re.compile(
    r"^\| (\d\.\d)\.(\d+)(?: to (\d\.\d)\.(\d+))? \| [123, ]+ \| .+? \| (.+) \|$", re.MULTILINE
)
_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_no_requirement_is_missing() -> None:
    """Each number of the two chapters stands once, in order."""
    found = [
        f"{section}.{number}"
        for section, first, _, last, _ in _ROW.findall(PAGE)
        for number in range(int(first), int(last or first) + 1)
    ]
    assert found == [f"{each}.{n + 1}" for each, count in SECTIONS.items() for n in range(count)]


def test_each_is_shown_or_given_away() -> None:
    """A test, another page, the product, or nothing here: no row only claims."""
    for section, number, *_, how in _ROW.findall(PAGE):
        ways = (_NAMED.search(how), "](" in how, "Product" in how, "Not here" in how)
        assert any(ways), f"{section}.{number}"


@pytest.mark.parametrize("named", sorted(set(_NAMED.findall(PAGE))), ids="::".join)
def test_each_named_test_is_there(named: tuple[str, str]) -> None:
    """A test that is renamed is renamed on the page."""
    file, name = named
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = {
        each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions
