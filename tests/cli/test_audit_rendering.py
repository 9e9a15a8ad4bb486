"""How an audit's report is shown: on a terminal, as JSON, and as a page."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tenantry.cli.audit import report_json
from tenantry.cli.audit_matrix import matrix, passed, summary
from tenantry.cli.audit_page import page
from tenantry.cli.audit_text import print_report
from tenantry.cli.console import THEME
from tenantry.cli.escaping import json_text, printable
from tenantry.ops.audit.report import OPERATIONS, Attempt, AuditReport, Finding
from tests.cli.hostile import HOSTILE, KNOWN_TAGS, Reader

TABLES = ("public.users", "public.widgets")
CLEAN = AuditReport(
    database="db.example:5432/shop",
    server_version="18.6",
    app_role="shop_app",
    tables=TABLES,
    attempts=tuple(Attempt(table, each, "kept apart") for table in TABLES for each in OPERATIONS),
    findings=(),
    seconds=0.25,
    live=True,
)
FINDING = Finding(
    subject="table public.widgets",
    check="policy-missing",
    what="It has no policy for the application's role.",
    why="Every tenant reads every row.",
    mend="CREATE POLICY tenant_isolation ON public.widgets\n\tUSING (tenant_id = 1);",
    table="public.widgets",
)


def terminal(width: int = 100) -> tuple[Console, io.StringIO]:
    """A console as the commands use it, on a buffer."""
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, theme=THEME, highlight=False, soft_wrap=True, color_system=None
    )
    return console, buffer


def printed(report: AuditReport, *, width: int = 100, unicode: bool = True) -> str:
    console, buffer = terminal(width)
    print_report(report, console, unicode=unicode)
    return buffer.getvalue()


def hostile_report() -> AuditReport:
    """Everything in it is a name that was chosen to do harm."""
    return replace(
        CLEAN,
        database=HOSTILE[2],
        app_role=HOSTILE[0],
        tables=HOSTILE,
        attempts=tuple(Attempt(each, "read", "crossed", each) for each in HOSTILE[:4])
        + tuple(Attempt(each, "read", "not tried", each) for each in HOSTILE[4:]),
        findings=tuple(
            Finding(each, each, each, each, f'DROP "{each}";', each) for each in HOSTILE
        ),
        notes=HOSTILE,
    )


# The matrix


def test_a_finding_marks_its_table_and_decides() -> None:
    """A finding fails the audit and marks the catalog cell of its table; a crossing does too."""
    assert passed(CLEAN)
    found = replace(CLEAN, findings=(FINDING,))
    assert not passed(found)
    assert [row.table for row in matrix(found) if row.crossed] == ["public.widgets"]
    crossed = replace(CLEAN, attempts=(Attempt("public.users", "read", "crossed"),))
    assert not passed(crossed)


def test_the_worst_of_several_attempts_is_shown() -> None:
    """An attempt that was kept apart does not hide one that crossed, or one that was not made."""
    for order in (("kept apart", "crossed"), ("crossed", "kept apart")):
        attempts = tuple(Attempt("t", "probe", each) for each in order)
        (row,) = matrix(replace(CLEAN, tables=("t",), attempts=attempts))
        assert row.cells[OPERATIONS.index("probe")].outcome == "crossed"
    attempts = (Attempt("t", "probe", "not tried"), Attempt("t", "probe", "kept apart"))
    (row,) = matrix(replace(CLEAN, tables=("t",), attempts=attempts))
    assert row.cells[OPERATIONS.index("probe")].outcome == "not tried"


def test_what_was_not_tried_is_not_called_kept_apart() -> None:
    """A cell without an attempt, and a static audit, promise nothing about it."""
    (row,) = matrix(replace(CLEAN, tables=("t",), attempts=()))
    assert set(row.outcomes[1:]) == {"not tried"}
    nothing = tuple(Attempt(each, "catalog", "kept apart") for each in TABLES)
    for live in (True, False):
        report = replace(CLEAN, attempts=nothing, live=live)
        assert "nothing was tried live" in summary(report)
        assert "The walls stand" not in page(report)
    some = (*CLEAN.attempts, Attempt("t", "insert", "not tried"))
    assert "14 attempts kept apart, 1 not tried" in summary(replace(CLEAN, attempts=some))
    assert "The walls stand" in page(CLEAN)


# The terminal


def test_the_terminal_shows_the_matrix_and_how_to_mend() -> None:
    """Marks can be read without colour, and each finding has its SQL, exactly as it is."""
    text = printed(replace(CLEAN, findings=(FINDING,), notes=("RLS is new here",)))
    (users,) = [line for line in text.splitlines() if line.startswith("public.users")]
    (widgets,) = [line for line in text.splitlines() if line.startswith("public.widgets")]
    assert users.split()[1:] == ["✓"] * 8
    assert widgets.split()[1:] == ["✗"] + ["✓"] * 7
    assert f"\n\n{FINDING.mend}\n" in text
    assert FINDING.what in text
    assert FINDING.why in text
    assert "note: RLS is new here" in text
    assert text.splitlines()[-1].startswith("1 finding: 2 tables of db.example:5432/shop")


def test_without_unicode_there_are_words() -> None:
    """A terminal that cannot show the marks gets ASCII, and nothing but ASCII."""
    buffer = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # raises on anything else
    console = Console(file=buffer, width=100, theme=THEME, color_system=None, soft_wrap=True)
    print_report(replace(CLEAN, findings=(FINDING,)), console, unicode=False)
    buffer.seek(0)
    assert "NO" in buffer.read()


def test_sql_is_never_wrapped() -> None:
    """However narrow the terminal, a statement is copied as one."""
    sql = (
        "ALTER TABLE public.widgets " + ", ".join(f"DROP CONSTRAINT c{n}" for n in range(99)) + ";"
    )
    text = printed(replace(CLEAN, findings=(replace(FINDING, mend=sql),)), width=40)
    assert sql in text.splitlines()


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_narrow_terminals_lose_no_name_and_no_mark(width: int) -> None:
    """The matrix fits the width; a long name is folded, and a column is never dropped."""
    name = "public.a_rather_long_name_for_a_table_of_meetings"
    report = replace(CLEAN, tables=(name,), attempts=(Attempt(name, "read", "crossed"),))
    console, buffer = terminal(width)
    print_report(report, console)
    lines = buffer.getvalue().splitlines()
    body = lines[: next(at for at, line in enumerate(lines) if "kept apart" in line)]
    assert all(len(line) <= width for line in body)
    rows = [line for line in body if "✗" in line]
    assert len(rows) == 1
    assert len(re.findall("[✓✗-]", rows[0])) == 8
    letters = "".join(line.split()[0] for line in body[body.index(rows[0]) :])
    assert letters == name


def test_two_hundred_tables_in_order_are_one_line_and_the_faulty_are_listed() -> None:
    """Nobody scrolls past 199 good rows to find the bad one, and none is left out of the count."""
    tables = tuple(f"public.t{n}" for n in range(200))
    attempts = tuple(Attempt(table, each, "kept apart") for table in tables for each in OPERATIONS)
    crossed = Attempt("public.t77", "delete", "crossed")
    text = printed(replace(CLEAN, tables=tables, attempts=(*attempts, crossed)))
    assert next(line.split()[0] for line in text.splitlines() if "✗" in line) == "public.t77"
    assert "(199 more tables)" in text
    assert "public.t78" not in text
    untried = Attempt("public.t3", "insert", "not tried", "a column has no default")
    attempts = tuple(
        each for each in attempts if (each.table, each.operation) != ("public.t3", "insert")
    )
    text = printed(replace(CLEAN, tables=tables, attempts=(*attempts, untried)))
    assert "(199 tables)" in text
    assert "(1 table)" in text
    assert "not tried: public.t3 insert: a column has no default" in text


def test_hostile_names_reach_the_terminal_as_text() -> None:
    """No name is taken for markup, and none sends a control character."""
    text = printed(hostile_report(), width=200)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", text)
    assert "[bold red]x[/bold red]" in text
    assert r"a\x1b[2Jb" in text
    assert r"a\r" in text
    assert "Take the SQL from --json" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_json_gives_the_name_back_and_no_control_character(name: str) -> None:
    """A program reads exactly what the database has; a terminal that shows the JSON is safe."""
    text = json_text({"name": name})
    assert json.loads(text) == {"name": name}
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", text)
    assert json.loads(json_text(name, ascii_only=True)) == name


def test_text_that_people_use_is_left_alone() -> None:
    """Umlauts, Chinese and emoji are not control characters."""
    assert printable("größe 会议 🙂 שלום") == "größe 会议 🙂 שלום"


# JSON


def test_the_json_has_everything_under_the_documented_keys() -> None:
    """What docs/audit.md names is there, and nothing is renamed without this test knowing."""
    value = json.loads(json_text(report_json(replace(CLEAN, findings=(FINDING,)))))
    assert list(value) == [
        *("format", "passed", "database", "server_version", "app_role", "live", "seconds"),
        *("operations", "tables", "attempts", "findings", "notes"),
    ]
    assert value["format"] == 1
    assert value["passed"] is False
    assert len(value["attempts"]) == 16
    assert list(value["attempts"][0]) == ["table", "operation", "outcome", "detail"]
    assert list(value["findings"][0]) == ["subject", "check", "what", "why", "mend", "table"]


# The page


def test_the_page_is_whole_and_asks_nobody_for_anything() -> None:
    """It is well-formed, runs no script, and loads nothing; its links lead to its own findings."""
    text = page(replace(CLEAN, findings=(FINDING,)))
    reader = Reader(text)
    assert reader.open == []
    assert {tag for tag, _ in reader.tags} <= KNOWN_TAGS
    for _, attributes in reader.tags:
        assert not attributes.keys() & {"src", "srcset", "action", "onclick", "onload", "style"}
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"@import|url\(|https?://", text)
    assert "default-src 'none'" in text
    assert {"href": "#finding-1"} in [attributes for tag, attributes in reader.tags if tag == "a"]
    assert FINDING.mend in "".join(reader.text)


def test_hostile_names_stay_text_on_the_page() -> None:
    """A name can neither make an element nor leave its attribute."""
    reader = Reader(page(hostile_report()))
    assert reader.open == []
    assert {tag for tag, _ in reader.tags} <= KNOWN_TAGS
    for _, attributes in reader.tags:
        assert attributes.keys() <= {
            *("lang", "charset", "http-equiv", "content", "name", "class", "scope", "title"),
            *("href", "id", "aria-hidden"),
        }
    shown = "".join(reader.text)
    assert "<script>alert(1)</script>" in shown
    assert r"a\x1b[2Jb" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_can_be_read_in_light_and_dark_and_on_paper() -> None:
    """Every colour of text has a contrast of 4.5 to 1 at least with what it stands on."""
    blocks = re.findall(r":root \{(.*?)\}", page(CLEAN), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for name in ("text", "quiet", "kept", "crossed", "link"):
            for ground in ("page", "code"):
                bright, dim = sorted(
                    (luminance(colours[name]), luminance(colours[ground])), reverse=True
                )
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, ground)


def test_the_sql_of_one_cause_is_shown_once() -> None:
    """What the catalog and three crossings found is mended by one script, and JSON has it whole."""
    crossed = [replace(FINDING, check=f"live-{each}") for each in ("read", "update")]
    other = replace(FINDING, mend="ALTER TABLE public.widgets FORCE ROW LEVEL SECURITY;")
    report = replace(CLEAN, findings=(FINDING, *crossed, other))
    text, html = printed(report), page(report)
    assert text.count("CREATE POLICY") == html.count("CREATE POLICY") == 1
    assert text.count("The SQL of finding 1 mends it.") == 2
    assert html.count('The SQL of <a href="#finding-1">finding 1</a> mends it.') == 2
    assert text.count("FORCE ROW LEVEL SECURITY;") == html.count("FORCE ROW LEVEL SECURITY;") == 1
    assert [each["mend"] for each in report_json(report)["findings"]].count(FINDING.mend) == 3
