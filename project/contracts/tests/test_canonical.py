"""Canonical JSON: the examples of RFC 8785, and that the digests of existing rows stay."""

import json
import random
import struct

import pytest

from project.contracts.canonical import canonical_json, number_text
from project.contracts.chat import FunctionCall, Message, ToolCall
from project.contracts.rows import ROW, ChatRow, CompletionRow, row_bytes, row_hash

# RFC 8785, appendix B: IEEE 754 in hexadecimal -> JSON
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "expected"), NUMBERS.items())
def test_numbers_are_written_as_ecmascript_does(bits: str, expected: str) -> None:
    assert number_text(struct.unpack(">d", bytes.fromhex(bits))[0]) == expected


def test_every_number_reads_back_as_itself() -> None:
    chance = random.Random(7)
    for _ in range(20_000):
        value = struct.unpack(">d", chance.randbytes(8))[0]
        if value == value and abs(value) != float("inf"):
            assert float(number_text(value)) == value
    assert [number_text(n) for n in (10, -10, 10**20, 10**22, 2**53)] == [
        "10", "-10", "100000000000000000000", "1e+22", "9007199254740992"]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2**53 + 1])
def test_what_no_double_holds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"JSON|double"):
        canonical_json({"a": [value]})


def test_the_example_of_section_3_2_2() -> None:
    value = json.loads(
        '{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        '"string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals": [null, true, false]}'
    )
    assert canonical_json(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_keys_are_sorted_by_their_utf16_code_units() -> None:
    """Section 3.2.3: the emoji (a surrogate pair, D83D) comes before U+FB33, though its code point is larger."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    expected = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical_json(dict.fromkeys(keys, 0)))) == expected
    assert sorted(keys) != expected


def test_empty_and_nested_values() -> None:
    value = {"b": [], "a": {"é": {}, "z": [1.5, [None, {"k": True}]]}}
    assert canonical_json(value).decode() == '{"a":{"z":[1.5,[null,{"k":true}]],"é":{}},"b":[]}'


def test_half_a_character_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        canonical_json({"a": "\ud83d"})


def test_the_hashes_of_rows_that_exist_stay() -> None:
    assert (
        row_hash(CompletionRow(prompt="a", completion="b"))
        == "e13516d2c63b3e1ded71af2fb5ed8ed09b0ef9d0244ab03f3df2be2b819b070e"
    )
    messages = (Message(role="user", content="q"), Message(role="assistant", content="a", weight=0))
    assert row_bytes(ChatRow(messages=messages)) == (
        b'{"kind":"chat","messages":[{"content":"q","role":"user"},{"content":"a","role":"assistant","weight":0}]}'
    )


def test_a_row_with_tools_comes_back_as_it_was() -> None:
    call = ToolCall(id="c1", function=FunctionCall(name="weather", arguments='{"city": "Oslo"}'))
    row = ChatRow(
        messages=(
            Message(role="user", content="Rain?"),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content="no", tool_call_id="c1"),
        ),
        tools=({"type": "function", "function": {"name": "weather", "default": None, "maximum": 1.50}},),
    )
    data = row_bytes(row)
    assert data.startswith(b'{"kind":"chat","messages":[') and b'"default":null,"maximum":1.5,' in data
    assert ROW.validate_json(data) == row
    assert row_bytes(ROW.validate_json(data)) == data
