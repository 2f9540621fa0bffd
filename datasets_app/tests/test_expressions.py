"""The language of conditions: what it understands, how it refuses, and that nothing else can be reached with it."""

from typing import Any

import pytest

from datasets_app.editing import values_of
from datasets_app.expressions import FUNCTIONS, NAMES, BadExpression, BadValue, is_plain, parse
from datasets_app.tests.test_steps import KINDS, entry

VALUES: dict[str, Any] = {
    "length": 12,
    "text": "Hello there",
    "prompt": "Hello",
    "answer": "card_arrival",
    "label": True,
    "roles": ["user", "assistant"],
    "meta": {"a": 1, "b": "2", "customer id": None, "tags": ["x"]},
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("length > 10", True),
        ("length > 10 and length < 12", False),
        ("length > 10 && (length < 5 || label)", True),
        ("not label or false", False),
        ("not not label", True),
        ("not length == 3", True),
        ("length(answer) - 2 * 6 == 0", True),
        ("10 - 4 - 3 == 3 and 8 / 4 / 2 == 1", True),
        ("-length < -3 and 1.5e1 == 15", True),
        ("meta.a in [1, 2]", True),
        ("meta.b in [1, 2]", False),
        ("'Hell' in text and \"x\" not in text", True),
        ("'user' in roles and 'tool' not in roles", True),
        ('meta["customer id"] == null', True),
        ("meta.unknown > 3 or meta.unknown < 3", False),
        ("meta.unknown != null", False),
        ("contains(meta.unknown, 'x')", False),
        ("to_number(meta.b) >= 2 and to_number(answer) == null", True),
        ("label == 1", False),
        ("meta.b == 2", False),
        (r"matches(text, '^H\w+ there$') and not matches(text, '\d')", True),
        (r"text == 'Hello\nthere' or text == 'Hello there'", True),
        ("startswith(lower(text), 'hello') and endswith(upper(strip(text)), 'THERE')", True),
        ("words(text) == 2 and length(roles) == 2 and length(meta.tags) == 1", True),
        ("length(\n  answer\n) > 3", True),
    ],
)
def test_it_computes(text: str, result: bool) -> None:
    assert parse(text).holds(VALUES) is result


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Write a condition"),
        ("length = 3", "'=' at character 8 means nothing here. Use == to compare."),
        ("lenght > 3", "Unknown name 'lenght' at character 1. Did you mean 'length'?"),
        ("len(text) > 3", "Did you mean 'length'?"),
        ("length >", "It ends too early: expected a value."),
        ("length > 3 4", "Expected the end, or 'and', 'or' at character 12, found '4'."),
        ("(length > 3", "expected ')'"),
        ("text == 'abc", "begins at character 9 has no end"),
        ("1 < 2 < 3", "Compare two things at a time"),
        ("length(1, 2) > 1", "takes 1, not 2 values"),
        ("matches(text, prompt)", 'write the pattern as a "text"'),
        ("matches(text, '(')", "The regular expression"),
        ("matches(text, '" + "a" * 600 + "')", "500 characters"),
        ("meta > 3", "'['"),
        ("meta.", "column's name"),
        ("text.__class__ == 1", "'.'"),
        ("__import__('os') == 1", "Unknown function '__import__'"),
        ("text[0] == 'H'", "'['"),
        ("lambda: 1", "':' at character 7 means nothing here"),
        ("(" * 50 + "true" + ")" * 50, "nested more than 40"),
        ("length > 1 " * 300, "at most 2,000"),
    ],
)
def test_what_it_does_not_understand_is_said_with_the_place(text: str, words: str) -> None:
    with pytest.raises(BadExpression) as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("meta.b > 1", "'>' can't compare a text with a number. Use to_number(…)."),
        ("length", "gives a number, not true or false"),
        ("length and label", "'and' needs true or false, it got a number"),
        ("meta.b + 1 == 3", "'+' needs numbers, it got a text. Use to_number(…)."),
        ("length / 0 == 1", "division by zero"),
        ("1 in 2", "'in' needs a list or a text"),
        ("lower(length) == ''", "lower needs a text, it got a number"),
        ("label > false", "can't compare"),
    ],
)
def test_what_a_row_can_not_answer_is_said(text: str, words: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse(text).holds(VALUES)
    assert words in str(caught.value)


def test_a_slow_regular_expression_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_app.expressions.REGEX_SECONDS", 0.05)
    with pytest.raises(BadValue, match="takes longer than"):
        parse("matches(text, '^(a|a)*$')").holds({"text": "a" * 60 + "!"})


@pytest.mark.parametrize("pattern", ["^(a|a)*$", "a*a*a*a*a*a*a*b", "(a?){30}b", "(a|a)(a|a)b", r"(.)\1"])
def test_only_patterns_that_can_not_be_slow_go_without_a_clock(pattern: str) -> None:
    assert not is_plain(pattern)
    assert is_plain("fee$") and is_plain("https?://") and is_plain(r"^\s*$") and is_plain("a|b")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(NAMES))
def test_every_name_is_answered_by_every_kind_of_row_or_refused_in_words(name: str, kind: str) -> None:
    values = values_of(entry(KINDS[kind], 1, {"a": 1}))
    assert set(values) == set(NAMES)
    allowed = {"chosen": "preference", "rejected": "preference", "label": "unpaired"}.get(name, kind)
    if allowed != kind:
        with pytest.raises(BadValue, match=f"a {kind} row has no '{name}'"):
            values[name]
    else:
        assert values[name] is not None


def test_the_names_say_what_they_are() -> None:
    values = values_of(entry(KINDS["chat"], 5, {"synthetic": {"by": "typos"}}))
    assert values["system"] == "Be kind" and values["prompt"] == "Hello, I am anna@example.com"
    assert values["answer"] == values["completion"] == "Hi Anna" and values["roles"] == ["system", "user", "assistant"]
    assert (values["number"], values["turns"], values["synthetic"], values["length"]) == (5, 3, True, 42)
    assert all(name.isidentifier() for name in (*NAMES, *FUNCTIONS))
