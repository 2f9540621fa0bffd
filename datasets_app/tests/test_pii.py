"""Personal data: what is found, what is not, and that looking costs little where there is nothing."""

import subprocess
import sys

import pytest

from datasets_app.pii import KINDS, Detector, Found

EXAMPLES = {
    "email": "write to anna.meier+work@mail.example.com today",
    "phone": "call +49 30 1234567 today",
    "credit_card": "card 4111 1111 1111 1111 today",
    "iban": "to DE89 3704 0044 0532 0130 00 today",
    "ip": "from 192.168.1.10 today",
    "mac": "device 00:1B:44:11:3A:B7 today",
    "ssn": "number 536-90-4399 today",
    "crypto": "send to 1BoatSLRHtKNngkdXEeobR76b53LETtpyT today",
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_kind_is_found_exactly(kind: str) -> None:
    text = EXAMPLES[kind]
    found = Detector().find(text)
    assert [piece.kind for piece in found] == [kind]
    assert text[found[0].start : found[0].end] == text.split(" ", 1)[1].removesuffix(" today").removeprefix("to ")
    assert Detector([kind]).find(text) == found
    assert Detector([other for other in KINDS if other != kind]).find(text) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("call (415) 555-2671 now", "(415) 555-2671"),
        ("call 415.555.2671 now", "415.555.2671"),
        ("Tel. 030 1234567.", "030 1234567"),
        ("ring 020 7946 0958, please", "020 7946 0958"),
        ("ring 0044 20 7946 0958, please", "0044 20 7946 0958"),
        ("ring +44 20 7946 0958 2024", "+44 20 7946 0958"),
        ("電話は+81 3-1234-5678です", "+81 3-1234-5678"),
    ],
)
def test_phone_numbers_as_people_write_them(text: str, number: str) -> None:
    assert [text[piece.start : piece.end] for piece in Detector().find(text)] == [number]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Where is my card?",
        "on 2024-01-02 at 12:30:45, order 123456789, 3.14159265358979",
        "card 4111 1111 1111 1112",  # a wrong checksum
        "DE89 3704 0044 0532 0130 01",
        "a@b, user@host, 5 @ 3.50 each, @mention",
        "version 1.2.3.4567, room 0.12345678 0.2345678",
        "in 1990 2000 2010 and 1,000,000 rows",
        "999-99-9999",
        "std::vector<int>",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert Detector().find(text) == []


def test_redaction_replaces_all_of_it_and_says_what() -> None:
    text, found = Detector().redact("anna@example.com or bob@example.org, +49 30 1234567")
    assert text == "[EMAIL] or [EMAIL], [PHONE]"
    assert [piece.kind for piece in found] == ["email", "email", "phone"]
    assert Detector(["email"]).redact("anna@example.com", "***") == ("***", [Found("email", 0, 16)])


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'e-mail'\. Known: email, phone"):
        Detector(["e-mail"])


@pytest.mark.full
def test_nothing_heavy_is_imported_before_there_is_something_to_judge_and_no_torch_at_all() -> None:
    code = (
        "import sys\n"
        "from datasets_app.pii import Detector\n"
        "Detector().find('nothing here, 12 or 13')\n"
        "assert 'presidio_analyzer' not in sys.modules\n"
        "assert Detector().find('anna@example.com')\n"
        "assert 'presidio_analyzer' in sys.modules and 'torch' not in sys.modules\n"
        "import torch\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_look_over_the_json_of_a_row_misses_nothing() -> None:
    """Whatever the detectors find in a text, the expression over the stored JSON of its row points to."""
    import random

    from datasets_app import credentials
    from datasets_app.importing import Entry
    from datasets_app.looking import matching
    from datasets_app.pii import WORTH_A_LOOK
    from project.contracts.rows import TextRow, row_bytes

    chance = random.Random(3)
    pieces = [
        *("ann@example.com", "+49 30 1234567", "(212) 555-0187", "4111 1111 1111 1111", "DE89370400440532013000"),
        *("10.0.0.1", "fe80::1", "2001:db8:0:1:1:1:1:1", "00:1a:2b:3c:4d:5e", "001a.2b3c.4d5e", "536-90-4399"),
        *("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "AKIAIOSFODNN7EXAMPLE", "٠١٢٣٤٥٦٧٨٩", "ünïcode@exämple.de"),
        *("sk_live_abcdefghijklmnopqrstuvwx", "nothing", "12:30", "3.5", "@", "a\\b"),
    ]
    detector = Detector()
    texts = [
        chance.choice(["", "\n", "\t", '"', "\\", "\x00", "x ", "ü", "‏"])
        + chance.choice(["", " ", "\n", '"', ", "]).join(chance.choices(pieces, k=chance.randint(1, 3)))
        + chance.choice(["", "\n", '"', "\\", ".", "\x1f"])
        for _ in range(600)
    ]
    entries = [
        Entry(n, n, None, None, row_bytes(TextRow(text=text)).decode(), "{}", "") for n, text in enumerate(texts)
    ]
    personal = {entry.number for entry in matching(entries, WORTH_A_LOOK)}
    secret = {entry.number for entry in matching(entries, credentials.WORTH_A_LOOK)}
    found = {n for n, text in enumerate(texts) if detector.find(text)}
    held = {n for n, text in enumerate(texts) if credentials.find(text)}
    assert len(found) > 100 and len(held) > 20
    assert found <= personal and held <= secret
    assert len(personal) < len(texts) and len(secret) < len(texts)
