"""Names and messages that come from a database, made fit for a terminal and for JSON.

Whoever may create a table may call it anything: a name can hold escape sequences that move the
cursor over what was printed before, or marks that turn the direction of the text around.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Final

__all__ = ["UNSAFE", "json_text", "printable", "require_printable_stdout"]

# C0 and C1 control characters, DEL, the line and paragraph separators, and what changes the
# direction of text or is not seen at all (Unicode Technical Report 36, section 2).
_CLASS: Final = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-"
    r"\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
UNSAFE: Final = re.compile(f"[{_CLASS}]")
"""Every character that is not shown as it is; newline and tab are."""

_UNSAFE_IN_LINE: Final = re.compile(rf"[\t\n{_CLASS}]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return ``text`` with control characters written out, as in ``\x1b``.

    Args:
        text: What to show.
        lines: Let newlines and tabs stand, as in SQL of several lines.
    """
    return (UNSAFE if lines else _UNSAFE_IN_LINE).sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def json_text(value: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""Return ``value`` as JSON in which control characters are ``\u`` escapes.

    They can only be inside strings, so a reader gets exactly the text that the database has.
    """
    text = json.dumps(value, default=str, ensure_ascii=ascii_only, indent=indent)
    return UNSAFE.sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def require_printable_stdout() -> bool:
    """Make stdout take every character, and return whether it can show all of them.

    Where its encoding is not UTF-8, what it lacks is written out and does not end the program.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    if encoding.replace("-", "").startswith("utf"):
        return True
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return False
