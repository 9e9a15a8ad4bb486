from __future__ import annotations

import pytest

from tenantry.ops.audit.static.expressions import parse


@pytest.mark.parametrize(
    ("declared", "printed"),
    [
        ("tenant_id=tenantry.current_tenant()", "(tenant_id = tenantry.current_tenant())"),
        ("a = 1 OR b = 2 AND NOT c", "((a = 1) OR ((b = 2) AND (NOT c)))"),
        ("a = 1 AND b = 2 AND c IS NULL", "((a = 1) AND (b = 2) AND (c IS NULL))"),
        ("a IS NOT NULL", "(a IS NOT NULL)"),
        ("a != 'x'", "(a <> 'x'::text)"),
        ("length(body)<10", "(length(body) < 10)"),
        (
            "id = nullif(pg_catalog.current_setting('a.b', true), '')::uuid",
            "(id = (NULLIF(current_setting('a.b'::text, true), ''::text))::uuid)",
        ),
        ("a::character varying(3) = 'x'", "((a)::character varying(3) = 'x'::text)"),
        ("TRUE", "true"),
        ("a + b * c > 0", "((a + (b * c)) > 0)"),
    ],
)
def test_the_same_in_other_words_is_the_same(declared: str, printed: str) -> None:
    """How PostgreSQL prints an expression makes no difference."""
    assert parse(declared) == parse(printed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(a = 1 OR b = 2) AND c", "a = 1 OR (b = 2 AND c)"),
        ("NOT (a AND b)", "(NOT a) AND b"),
        ("a = 'x'", "a = 'X'"),
        ('"A" = 1', "a = 1"),
        ("a IS NULL", "a IS NOT NULL"),
        ("a = (SELECT 1)", "a = (SELECT 2)"),
        ("f(a, b)", "f(b, a)"),
        ("a::text = b", "a = b"),
        ("public.f()", "tenantry.f()"),
    ],
)
def test_what_means_something_else_is_not_the_same(one: str, other: str) -> None:
    """Brackets, case and casts count where they change the meaning."""
    assert parse(one) != parse(other)


def test_what_cannot_be_read_is_a_leaf() -> None:
    """A sub-select in one condition does not hide the others."""
    tree = parse("((tenant_id = f()) AND (EXISTS ( SELECT 1 FROM (x) WHERE (y = 'a)'::text))))")
    assert tree is not None
    assert tree.kind == "AND"
    assert [part.kind for part in tree.parts] == ["=", "words"]


@pytest.mark.parametrize("broken", ["(", "a = ", ")", "a b", "'x", "", "f(a", "a = (b"])
def test_nonsense_is_no_error(broken: str) -> None:
    """Whatever a catalog prints, there is a tree."""
    tree = parse(broken)
    assert tree is not None
    assert tree.kind == "words"
