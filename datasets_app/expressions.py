r"""A small language for conditions on rows: `length(answer) > 10 and not matches(prompt, "^\s*$")`. Pure and safe.

It compares, calls a fixed set of functions, and nothing else: no attributes, no loops, no names but those below. A
regular expression gets one second of computing per row. Mistakes in the text are `BadExpression` with their place;
what a row can't answer (a text compared with a number) is `BadValue`.

    expression = or;   or = and {"or" and};   and = not {"and" not};   not = "not" not | comparison
    comparison = sum [("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") sum]
    sum = product {("+" | "-") product};   product = unary {("*" | "/") unary};   unary = "-" unary | value
    value = number | "text" | true | false | null | [list] | name | meta.column | meta["column"] | function(…) | (or)
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

LONGEST = 2_000  # characters of an expression
LONGEST_PATTERN = 500  # characters of a regular expression
REGEX_SECONDS = 1.0  # of computing, for one search in one text
_DEEPEST = 40  # parentheses
_SHORT = 2_000  # characters of a text that a plain pattern is searched in without a clock

# name -> what it is, for help and errors. The values come from the row (`Values`).
NAMES: dict[str, str] = {
    "length": "characters of all texts of the row",
    "text": "all texts of the row, one below the other",
    "prompt": "what the model is given, without the system prompt",
    "answer": "what the model learns to say (of a conversation: the last answer; of a pair: the better one)",
    "completion": "another name for answer",
    "system": "the system prompt; empty where there is none",
    "chosen": "the better answer of a pair",
    "rejected": "the worse answer of a pair",
    "label": "true for a good answer, false for a bad one",
    "turns": "how many messages, or texts, the row has",
    "roles": "the roles of the messages, as a list",
    "number": "the row's number, from 1",
    "kind": "chat, completion, preference, unpaired, prompt or text",
    "synthetic": "true for a row that a model or a machine wrote",
    "meta": 'the other columns, as in meta.category or meta["customer id"]',
}
FUNCTIONS: dict[str, str] = {
    "length": "length(x): characters of a text, or entries of a list",
    "words": "words(x): how many words, separated by blanks",
    "lower": "lower(x): in small letters",
    "upper": "upper(x): in capitals",
    "strip": "strip(x): without blanks around it",
    "contains": "contains(x, y): is the text y somewhere in x?",
    "startswith": "startswith(x, y): does x begin with y?",
    "endswith": "endswith(x, y): does x end with y?",
    "matches": 'matches(x, "regular expression"): is it found somewhere in x?',
    "to_number": "to_number(x): a text as a number, null where it is none",
}


class BadExpression(ValueError):
    """The expression can't be understood. The message names the place, counted from 1."""


class BadValue(ValueError):
    """The expression can't be answered for one row."""


Values = Mapping[str, Any]
Evaluate = Callable[[Values], Any]


@dataclass(frozen=True)
class Expression:
    """A checked expression. `names` are the names it asks for, `meta` among them."""

    text: str
    names: frozenset[str]
    evaluate: Evaluate

    def holds(self, values: Values) -> bool:
        """Is it true? Raises BadValue for a row it can't be answered for, and when it gives neither true nor false."""
        result = self.evaluate(values)
        if isinstance(result, bool):
            return result
        raise BadValue(f"the condition gives {kind_of(result)}, not true or false. Compare it with something.")


def parse(text: str) -> Expression:
    """Raises BadExpression."""
    if not text.strip():
        raise BadExpression("Write a condition, as in: length > 10")
    if len(text) > LONGEST:
        raise BadExpression(f"It has {len(text):,} characters; at most {LONGEST:,} are read.")
    return _Parser(text).parse()


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
        case _:
            return "an object"


# --- reading


class _Token(NamedTuple):
    kind: str  # number text name sign end
    value: Any
    at: int


_TOKENS = re.compile(
    r"(?P<blank>\s+)|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w]))|(?P<name>[^\W\d]\w*)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')|(?P<sign>==|!=|<=|>=|&&|\|\||[<>()\[\],.+*/-])",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise BadExpression(_unreadable(text, at))
        kind, value = str(match.lastgroup), match.group()
        if kind == "number":
            yield _Token(kind, float(value) if re.search(r"[.eE]", value) else int(value), at)
        elif kind == "text":
            yield _Token(kind, _unescaped(value[1:-1]), at)
        elif kind != "blank":
            yield _Token(kind, value, at)
        at = match.end()
    yield _Token("end", "", len(text))


def _unescaped(text: str) -> str:
    r"""`\n`, `\t`, `\\` and quotes; any other backslash stays, because regular expressions are full of them."""
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), text, flags=re.DOTALL)


def _unreadable(text: str, at: int) -> str:
    if text[at] in "\"'":
        return f"The text that begins at character {at + 1} has no end."
    hint = {"=": " Use == to compare.", "&": " Use 'and'.", "|": " Use 'or'.", "!": " Use 'not'."}.get(text[at], "")
    return f"'{text[at]}' at character {at + 1} means nothing here.{hint}"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0
        self._names: set[str] = set()

    def parse(self) -> Expression:
        evaluate = self._or()
        if self._peek().kind != "end":
            raise self._unexpected("the end, or 'and', 'or'")
        return Expression(self._text, frozenset(self._names), evaluate)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _taken(self, *words: str) -> str:
        """The word, taken, if it is the next one; else an empty text."""
        token = self._peek()
        return str(self._take().value) if token.kind in ("sign", "name") and token.value in words else ""

    def _need(self, sign: str) -> None:
        if not self._taken(sign):
            raise self._unexpected(f"'{sign}'")

    def _unexpected(self, wanted: str) -> BadExpression:
        token = self._peek()
        if token.kind == "end":
            return BadExpression(f"It ends too early: expected {wanted}.")
        what = json.dumps(token.value, ensure_ascii=False) if token.kind == "text" else f"'{token.value}'"
        return BadExpression(f"Expected {wanted} at character {token.at + 1}, found {what}.")

    def _or(self) -> Evaluate:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise BadExpression(f"It is nested more than {_DEEPEST} levels deep.")
        found = [self._and()]
        while self._taken("or", "||"):
            found.append(self._and())
        self._depth -= 1
        return found[0] if len(found) == 1 else lambda v: any(_truth(part(v), "or") for part in found)

    def _and(self) -> Evaluate:
        found = [self._not()]
        while self._taken("and", "&&"):
            found.append(self._not())
        return found[0] if len(found) == 1 else lambda v: all(_truth(part(v), "and") for part in found)

    def _not(self) -> Evaluate:
        denials = 0
        while self._taken("not"):
            denials += 1
        inner = self._comparison()
        if not denials:
            return inner
        return lambda v: _truth(inner(v), "not") == (denials % 2 == 0)

    def _comparison(self) -> Evaluate:
        left = self._sum()
        sign = self._taken(*_COMPARE, "in")
        if not sign and self._taken("not"):
            self._need("in")
            sign = "not in"
        if not sign:
            return left
        right = self._sum()
        if self._peek().value in (*_COMPARE, "in") and self._peek().kind != "text":
            raise BadExpression(f"Compare two things at a time; use 'and' at character {self._peek().at + 1}.")
        if sign in _COMPARE:
            compare = _COMPARE[sign]
            return lambda v: compare(left(v), right(v))
        return lambda v: _is_in(left(v), right(v)) == (sign == "in")

    def _sum(self) -> Evaluate:
        return self._chain(self._product, ("+", "-"))

    def _product(self) -> Evaluate:
        return self._chain(self._unary, ("*", "/"))

    def _chain(self, part: Callable[[], Evaluate], signs: tuple[str, ...]) -> Evaluate:
        left = part()
        while sign := self._taken(*signs):
            left = _arithmetic(left, sign, part())
        return left

    def _unary(self) -> Evaluate:
        signs = 0
        while self._taken("-"):
            signs += 1
        value = self._value()
        if not signs:
            return value
        return lambda v: _number(value(v), "-") * (-1) ** signs

    def _value(self) -> Evaluate:
        token = self._take()
        if token.kind in ("number", "text"):
            return _constant(token.value)
        if token.kind == "name":
            return self._named(token)
        if token.value == "(":
            inner = self._or()
            self._need(")")
            return inner
        if token.value == "[":
            return self._list()
        self._next -= token.kind != "end"
        raise self._unexpected("a value")

    def _list(self) -> Evaluate:
        items: list[Evaluate] = []
        while not self._taken("]"):
            items.append(self._or())
            if not self._taken(","):
                self._need("]")
                break
        return lambda v: [item(v) for item in items]

    def _named(self, token: _Token) -> Evaluate:
        name = str(token.value)
        if name in _CONSTANTS:
            return _constant(_CONSTANTS[name])
        if self._peek().value == "(" and self._peek().kind == "sign":
            return self._call(name, token.at)
        if name == "meta":
            return self._meta()
        if name not in NAMES:
            raise BadExpression(_unknown("name", name, token.at, NAMES))
        self._names.add(name)
        return lambda v: v[name]

    def _meta(self) -> Evaluate:
        if self._taken("."):
            token = self._take()
            if token.kind != "name":
                self._next -= token.kind != "end"
                raise self._unexpected("a column's name after 'meta.'")
            column = str(token.value)
        else:
            self._need("[")
            token = self._take()
            if token.kind != "text":
                self._next -= token.kind != "end"
                raise self._unexpected('a column\'s name, as in meta["customer id"]')
            column = token.value
            self._need("]")
        self._names.add("meta")
        return lambda v: v["meta"].get(column)

    def _call(self, name: str, at: int) -> Evaluate:
        if name not in FUNCTIONS:
            raise BadExpression(_unknown("function", name, at, FUNCTIONS))
        self._need("(")
        arguments: list[Evaluate] = []
        while not self._taken(")"):
            arguments.append(self._or())
            if not self._taken(","):
                self._need(")")
                break
        function, count = _CALLS[name]
        if len(arguments) != count:
            raise BadExpression(f"{FUNCTIONS[name].partition(':')[0]} takes {count}, not {len(arguments)} values.")
        if name == "matches":
            return self._matches(arguments[0])
        if count == 1:
            only = arguments[0]
            return lambda v: function(only(v))
        left, right = arguments
        return lambda v: function(left(v), right(v))

    def _matches(self, subject: Evaluate) -> Evaluate:
        """The pattern has to be written out: it is checked now, not at row 700,000."""
        pattern = self._tokens[self._next - 2]
        if pattern.kind != "text" or self._tokens[self._next - 3].value != ",":
            raise BadExpression(f'matches: write the pattern as a "text" at character {pattern.at + 1}.')
        search = searcher(pattern.value)
        return lambda v: search(_text(subject(v), "matches"))


def _unknown(what: str, name: str, at: int, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
    return f"Unknown {what} '{name}' at character {at + 1}. {hint}"


# --- computing

_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


def searcher(pattern: str) -> Callable[[str], bool]:
    """Search for a regular expression, with a limit of time per text. Raises BadExpression for a wrong pattern."""
    compiled = compiled_pattern(pattern)
    plain = is_plain(pattern)

    def search(text: str) -> bool:
        if plain and len(text) <= _SHORT:
            return compiled.search(text) is not None
        try:
            return compiled.search(text, timeout=REGEX_SECONDS) is not None
        except TimeoutError:
            raise BadValue(too_slow(pattern)) from None

    return search


def is_plain(pattern: str) -> bool:
    """Is the time to search for it at most the square of the text's length? No group, at most one repetition.

    Asking the clock costs more than such a search, so that a short text is searched without.
    """
    repetitions = sum(pattern.count(sign) for sign in "*+?{")
    return repetitions <= 1 and "(" not in pattern and re.search(r"\\[\dgKGXR]", pattern) is None


def compiled_pattern(pattern: str) -> Any:
    """Raises BadExpression, with the place of the mistake."""
    import regex

    if len(pattern) > LONGEST_PATTERN:
        raise BadExpression(f"A regular expression may have {LONGEST_PATTERN} characters, this has {len(pattern):,}.")
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadExpression(f"The regular expression {_shown(pattern)} is wrong: {error}.") from None


def too_slow(pattern: str) -> str:
    return f"the regular expression {_shown(pattern)} takes longer than {REGEX_SECONDS:g} s. Make it simpler."


def _shown(pattern: str) -> str:
    return json.dumps(pattern[:60], ensure_ascii=False)


def _constant(value: Any) -> Evaluate:
    return lambda v: value


def _truth(value: Any, word: str) -> bool:
    if isinstance(value, bool):
        return value
    raise BadValue(f"'{word}' needs true or false, it got {kind_of(value)}.")


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:  # a column that this row does not have
        return ""
    raise BadValue(f"{where} needs a text, it got {kind_of(value)}.")


def _number(value: Any, where: str) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    hint = " Use to_number(…)." if isinstance(value, str) else ""
    raise BadValue(f"'{where}' needs numbers, it got {kind_of(value)}.{hint}")


def _arithmetic(left: Evaluate, sign: str, right: Evaluate) -> Evaluate:
    def evaluate(values: Values) -> int | float:
        a, b = _number(left(values), sign), _number(right(values), sign)
        if sign == "/" and not b:
            raise BadValue("division by zero.")
        try:
            return a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b
        except OverflowError:
            raise BadValue("a number is too large.") from None

    return evaluate


def _equal(a: Any, b: Any) -> bool:
    """Texts equal texts, numbers numbers: true is not 1, and "1" is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _ordered(sign: str, compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def check(a: Any, b: Any) -> bool:
        if a is None or b is None:  # a column that this row does not have is neither more nor less
            return False
        if kind_of(a) == kind_of(b) and isinstance(a, int | float | str) and not isinstance(a, bool):
            return compare(a, b)
        hint = " Use to_number(…)." if "a number" in (kind_of(a), kind_of(b)) and isinstance(a, str) else ""
        raise BadValue(f"'{sign}' can't compare {kind_of(a)} with {kind_of(b)}.{hint}")

    return check


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": lambda a, b: not _equal(a, b),
    "<": _ordered("<", lambda a, b: a < b),
    "<=": _ordered("<=", lambda a, b: a <= b),
    ">": _ordered(">", lambda a, b: a > b),
    ">=": _ordered(">=", lambda a, b: a >= b),
}


def _is_in(a: Any, b: Any) -> bool:
    if isinstance(b, str):
        return isinstance(a, str) and a in b
    if isinstance(b, Sequence):
        return any(_equal(a, item) for item in b)
    raise BadValue(f"'in' needs a list or a text on its right, it got {kind_of(b)}.")


def _length(value: Any) -> int:
    if isinstance(value, list | tuple):
        return len(value)
    return len(_text(value, "length"))


def _to_number(value: Any) -> int | float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        number = float(value) if isinstance(value, str) and len(value) < 400 else None
    except ValueError:
        return None
    return number if number is None or abs(number) < float("inf") else None


_CALLS: dict[str, tuple[Callable[..., Any], int]] = {
    "length": (_length, 1),
    "words": (lambda x: len(_text(x, "words").split()), 1),
    "lower": (lambda x: _text(x, "lower").lower(), 1),
    "upper": (lambda x: _text(x, "upper").upper(), 1),
    "strip": (lambda x: _text(x, "strip").strip(), 1),
    "contains": (lambda x, y: _text(y, "contains") in _text(x, "contains"), 2),
    "startswith": (lambda x, y: _text(x, "startswith").startswith(_text(y, "startswith")), 2),
    "endswith": (lambda x, y: _text(x, "endswith").endswith(_text(y, "endswith")), 2),
    "matches": (bool, 2),
    "to_number": (_to_number, 1),
}
