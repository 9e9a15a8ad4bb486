"""The tutorial shows the example as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "support_desk"
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")

_CUT = re.compile(
    r"^<!-- from: (?P<file>\S+) -->\n```\w+\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^```(?P<language>\w+)\n", re.MULTILINE)
CUTS = [(found["file"], found["code"]) for found in _CUT.finditer(PAGE)]


@pytest.mark.parametrize(("file", "code"), CUTS, ids=[file for file, _ in CUTS])
def test_code_is_cut_out_of_the_example(file: str, code: str) -> None:
    """Word for word, whole lines."""
    assert "\n" + code in "\n" + (EXAMPLE / file).read_text(encoding="utf-8")


def test_no_code_stands_there_alone() -> None:
    """What is Python or HTML comes from the example, and so does the project's file."""
    fenced = [found["language"] for found in _FENCE.finditer(PAGE)]
    assert fenced.count("python") + fenced.count("html") == len(CUTS)
    assert (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8") in PAGE


def test_its_pictures_are_there() -> None:
    """All of those that are made, and no other."""
    shown = set(re.findall(r"\]\(images/([\w-]+\.png)\)", PAGE))
    assert shown == {picture.name for picture in (ROOT / "docs" / "images").glob("*.png")}
