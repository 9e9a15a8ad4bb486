"""Names that were chosen to do harm, and a reader that sees what a browser would make of them."""

from __future__ import annotations

from html.parser import HTMLParser

# What somebody may call a table: Rich's markup, HTML, and what moves a terminal's cursor or turns
# the direction of its text.
HOSTILE = (
    "[bold red]x[/bold red]",
    "[/]",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a\x1b[2Jb",
    "a\x9b2Jb",
    "a\rb\nc\x08\x07",
    "a\u202eb\u2066c\u200bd",
    "&amp;' --",
)


class Reader(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


KNOWN_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "div", "a"),
    *("table", "thead", "tbody", "tr", "th", "td", "span", "ul", "li", "section", "pre", "code"),
}
