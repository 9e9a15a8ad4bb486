"""Markdown and text files of a folder: which there are, and what is in them.

A folder may hold anything: links in circles or to ``/etc``, pipes, other encodings. What cannot
be imported is named with its reason; it never ends the import, and never leads out of the folder.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from tenantry.errors import ConfigurationError, InvalidValueError
from tenantry.schema.types import CONTENT_MAX_BYTES, check_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Folder", "SourceText", "list_folder", "read_text"]

MARKDOWN_SUFFIXES: Final = frozenset({".md", ".markdown"})
TEXT_SUFFIXES: Final = frozenset({".txt", ".text"})

_SOURCE_MAX_BYTES: Final = 1000
_TITLE_MAX_CHARACTERS: Final = 200
_FENCE: Final = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$")
_HEADING: Final = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE: Final = re.compile(r"^ {0,3}(=+|-+)[ \t]*$")
_UNDERLINED: Final = re.compile(r"^ {0,3}(?![-*+>|#=`~]|\d+[.)])\S")
_FRONT_MATTER: Final = re.compile(
    r"\A---[ \t]*\n.*?^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Folder:
    """What was found in a folder.

    Args:
        files: Path of each file by its source, the name under which it is stored; sorted.
        failed: Source and reason of what cannot be imported; a folder's source ends in ``/``.
        whole: False when a single file was given: then nothing follows about other files.
    """

    files: dict[str, Path]
    failed: tuple[tuple[str, str], ...]
    whole: bool

    def hides(self, source: str) -> bool:
        """Return whether ``source`` may be there still, behind something unreadable."""
        return any(
            source == name or (name.endswith("/") and source.startswith(name))
            for name, _ in self.failed
        )


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text of one file."""

    title: str
    content: str
    markdown: bool


def list_folder(path: Path) -> Folder:
    """Return the Markdown and text files in ``path``, a folder or one file.

    Hidden files and folders are left out. Linked folders are not entered: those inside the folder
    are read where they are, those outside are none of its business.

    Raises:
        ConfigurationError: There is no such path, or no Markdown or text file in it.
    """
    try:
        root = path.resolve(strict=True)
        if not root.is_dir():
            return _single(path, root)
        # Listed here, so that an unreadable folder is an error and not an empty one.
        os.scandir(root).close()
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            f"Cannot read {path}: {_reason(error)}. Give the path of a folder of {_wanted()} "
            "files, or of one such file."
        ) from error
    files: dict[str, Path] = {}
    failed: list[tuple[str, str]] = []
    for source, found in _walk(root):
        if isinstance(found, Path):
            files[source] = found
        else:
            failed.append((source, found))
    if not files and not failed:
        raise ConfigurationError(f"There are no {_wanted()} files in {path}.")
    return Folder(dict(sorted(files.items())), tuple(sorted(failed)), whole=True)


def _single(path: Path, file: Path) -> Folder:
    if _suffix(path.name) not in MARKDOWN_SUFFIXES | TEXT_SUFFIXES:
        raise ConfigurationError(f"{path} is not one of the {_wanted()} files that are imported.")
    return Folder({path.name: file}, (), whole=False)


def _walk(root: Path) -> Iterator[tuple[str, Path | str]]:
    """Yield the source of each entry, with its path or with the reason why it has none."""
    folders = [root]  # a tree may be deeper than the stack
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            yield f"{_source(root, folder)}/", _reason(error)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            wanted = _suffix(entry.name) in MARKDOWN_SUFFIXES | TEXT_SUFFIXES
            if not entry.is_symlink() and entry.is_dir():
                folders.append(path)
            yield from _entry(root, path, entry, wanted=wanted)


def _entry(
    root: Path, path: Path, entry: os.DirEntry[str], *, wanted: bool
) -> Iterator[tuple[str, Path | str]]:
    source = _source(root, path)
    if entry.is_symlink():
        yield from _follow(root, path, source, wanted=wanted)
    elif not wanted:
        return
    elif entry.is_dir():
        yield source, "is a folder, not a file; the files in it were looked at"
    else:
        yield _checked(source, path)


def _follow(
    root: Path, path: Path, source: str, *, wanted: bool
) -> Iterator[tuple[str, Path | str]]:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        if wanted:
            yield source, f"is a link that leads nowhere: {_reason(error)}"
        return
    is_folder = target.is_dir()
    if not target.is_relative_to(root):
        if wanted or is_folder:
            yield f"{source}/" if is_folder else source, "is a link out of the folder"
    elif wanted and not is_folder:
        yield _checked(source, target)


def _checked(source: str, path: Path) -> tuple[str, Path | str]:
    try:
        return check_text(source, max_bytes=_SOURCE_MAX_BYTES, where="its name"), path
    except InvalidValueError as error:
        return source.encode(errors="replace").decode()[:_SOURCE_MAX_BYTES], str(error)


def read_text(path: Path, *, source: str) -> SourceText:
    """Return the text of a file, its lines ended by a line feed.

    The title is the first heading of a Markdown file, else the file's name without its suffix.

    Raises:
        InvalidValueError: It is not a regular file, cannot be read, is too large or empty, is not
            UTF-8, or holds NUL.
    """
    try:
        content = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        ) from error
    except OSError as error:
        raise InvalidValueError(_reason(error)) from error
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    check_text(content, max_bytes=CONTENT_MAX_BYTES, where="its text")
    if not content.strip():
        raise InvalidValueError("is empty")
    markdown = _suffix(source) in MARKDOWN_SUFFIXES
    name = PurePosixPath(source).stem
    title = (_first_heading(content) if markdown else None) or name
    return SourceText(title[:_TITLE_MAX_CHARACTERS], content, markdown)


def _read(path: Path) -> bytes:
    # Without blocking: a pipe that got this name would keep the import waiting for ever.
    # Without links: it had none when it was listed, and the folder may be another by now.
    if path.resolve() != path:
        raise InvalidValueError("has become a link")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidValueError("is not a regular file")
        data = file.read(CONTENT_MAX_BYTES + 1)
    if len(data) > CONTENT_MAX_BYTES:
        raise InvalidValueError(f"is larger than {CONTENT_MAX_BYTES:,} bytes; split it")
    return data


def _first_heading(content: str) -> str | None:
    fence: str | None = None
    before = last = ""
    for line in _FRONT_MATTER.sub("", content).split("\n"):
        if mark := _FENCE.match(line):
            if fence is None:
                fence = mark[1]
            elif mark[1].startswith(fence) and not mark[2].strip():
                fence = None
        elif fence is None and (heading := _HEADING.match(line)) and heading[1].strip("# \t"):
            return heading[1]
        elif fence is None and not before and _UNDERLINE.match(line) and _UNDERLINED.match(last):
            return last.strip()
        before, last = last.strip(), line
    return None


def _source(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _wanted() -> str:
    return ", ".join(sorted(MARKDOWN_SUFFIXES | TEXT_SUFFIXES))
