"""Which encoding a text has, with the evidence, and reading it as UTF-8. Pure.

Formats see UTF-8 only. A byte that its encoding does not have stays a byte that is not UTF-8, so that the line it is
in is a bad line, and no other.
"""

import codecs
import io
import re
import unicodedata
from typing import Any, BinaryIO, NamedTuple

from project.contracts.runs import UserError

SAMPLE_BYTES = 4 * 1024**2  # what is looked at to find out
_BAD_BYTE = "tuneloop_bad_byte"
_CHUNK = 256 * 1024

# What can be declared: Python's name -> what people call it.
KNOWN: dict[str, str] = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16, little-endian",
    "utf-16-be": "UTF-16, big-endian",
    "utf-32": "UTF-32",
    "cp1252": "Windows-1252 (Western Europe)",
    "iso8859-1": "ISO 8859-1, Latin-1",
    "iso8859-15": "ISO 8859-15, Latin-9",
    "mac-roman": "Mac Roman",
    "cp437": "DOS 437",
    "cp850": "DOS 850",
    "cp1250": "Windows-1250 (Central Europe)",
    "iso8859-2": "ISO 8859-2, Latin-2",
    "cp1251": "Windows-1251 (Cyrillic)",
    "koi8-r": "KOI8-R (Cyrillic)",
    "cp866": "DOS 866 (Cyrillic)",
    "cp1253": "Windows-1253 (Greek)",
    "cp1254": "Windows-1254 (Turkish)",
    "cp1255": "Windows-1255 (Hebrew)",
    "cp1256": "Windows-1256 (Arabic)",
    "cp1257": "Windows-1257 (Baltic)",
    "cp1258": "Windows-1258 (Vietnamese)",
    "cp874": "Windows-874 (Thai)",
    "cp932": "Shift-JIS (Japanese)",
    "euc_jp": "EUC-JP (Japanese)",
    "iso2022_jp": "ISO-2022-JP (Japanese)",
    "gb18030": "GB18030, GBK (Chinese)",
    "big5hkscs": "Big5 (Chinese)",
    "cp949": "EUC-KR, CP949 (Korean)",
}
# A name that is a part of another one's: the larger reads what the smaller wrote, and what Windows adds to it.
_LARGER = {"shift_jis": "cp932", "gbk": "gb18030", "gb2312": "gb18030", "euc_kr": "cp949", "big5": "big5hkscs",
           "cp950": "big5hkscs", "ascii": "utf-8", "utf-8-sig": "utf-8", "utf_8_sig": "utf-8"}  # fmt: skip
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
          (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))  # fmt: skip
_GUESSED = ("cp1251", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "cp949", "koi8_r", "cp874")
_LATIN = {
    "cp1252": "éèêëàâäáåãæçñöôóòõøüûùúíìîïßœÉÈÀÂÄÁÅÆÇÑÖÓØÜÚÍ€–—‘’“”•…«»°£§·¿¡",
    "cp1250": "ąćęłńóśźżáčďéěíňřšťúůýžäöüőűăâîşţĄĆĘŁŃÓŚŹŻÁČÉŘŠŽÖÜŐ€–—‘’“”„…",
    "cp1254": "çğıöşüâîûÇĞİÖŞÜ€–—‘’“”…",
}
_RUN = re.compile(rb"[\x80-\xff]{3,}")
_WORD = re.compile(r"[^\W\d_]+")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class Found(NamedTuple):
    """An encoding (Python's name), how many bytes of mark precede the text, and why we think so."""

    name: str
    mark: int
    evidence: str


def declared(name: str) -> str:
    """Python's name of an encoding as people write it. Raises UserError for one that is not offered."""
    try:
        python = codecs.lookup(name.strip()).name
    except (LookupError, ValueError):
        python = ""
    python = _LARGER.get(python, python)
    if python.startswith(("utf-16", "utf-32")):
        return python
    if python not in {codecs.lookup(known).name for known in KNOWN}:
        raise UserError(
            f"'{name[:40]}' is no encoding that is read.",
            hint="Known: auto, utf-8, utf-16, cp1252, iso-8859-1, cp1250, cp1251, shift_jis, euc-jp, gb18030, big5, "
            "euc-kr, cp1256 and their kin.",
            field="encoding",
        )
    return python


def label(name: str) -> str:
    """What people call an encoding."""
    return KNOWN.get(name, name)


def find(sample: bytes, wanted: str = "auto", *, complete: bool) -> Found:
    """The encoding of a file by its first bytes. `wanted` is what the user said; a byte order mark must agree."""
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            if wanted != "auto" and not declared(wanted).startswith(encoding[:6]):
                raise UserError(
                    f"It begins with the byte order mark of {encoding[:6].upper()}, so it is not {wanted}.",
                    hint="Leave the encoding out.",
                    field="encoding",
                )
            return Found(encoding, len(mark), f"{encoding[:6].upper()} by its byte order mark")
    if wanted != "auto":
        python = declared(wanted)
        python = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(python, python)
        return Found(python, 0, f"{label(python)}, as you said")
    if wide := _wide(sample):
        return Found(wide, 0, f"{wide.upper()} by its zero bytes")
    if sample.isascii():
        if b"\x1b$" in sample:
            return Found("iso2022_jp", 0, "ISO-2022-JP by its escapes")
        return Found("utf-8", 0, "UTF-8")
    return _by_its_bytes(sample, complete)


def _wide(sample: bytes) -> str:
    """UTF-16 without a mark: nearly every second byte of a text with ASCII in it is zero."""
    head = sample[:4096]
    half = len(head) // 2
    zeros = [sum(byte == 0 for byte in head[start::2]) for start in (0, 1)]
    if half >= 4 and zeros[1] > 0.4 * half and not zeros[0]:
        return "utf-16-le"
    if half >= 4 and zeros[0] > 0.4 * half and not zeros[1]:
        return "utf-16-be"
    return ""


def _by_its_bytes(sample: bytes, complete: bool) -> Found:
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    if not complete and len(lines) > 1 and not sample.endswith(b"\n"):
        last = sample[sample.rfind(b"\n") + 1 :]
        lines = lines if last.isascii() else lines[:-1]  # it may be cut within a character
    wrong = [line for line in lines if not _is_utf8(line)]
    right = len(lines) - len(wrong)
    if len(wrong) <= right or (not complete and len(lines) == 1 and _is_utf8(sample[:-3])):
        evidence = f"UTF-8, but for {len(wrong)} lines" if wrong and right else "UTF-8"
        return Found("utf-8", 0, evidence)
    text = b"\n".join(wrong)[: 64 * 1024]
    latin = _latin(text)
    name = latin or _likeliest(text)
    if not name:
        return Found("utf-8", 0, "UTF-8, though it has bytes that are not")
    lines_are = "one line is" if len(wrong) == 1 else f"{len(wrong):,} lines are"
    return Found(name, 0, f"{label(name)}, as {lines_are} not UTF-8")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _latin(text: bytes) -> str:
    """Letters with accents stand among plain ones in Latin scripts; elsewhere they come in runs."""
    marked = len(_NOT_ASCII.findall(text))
    if sum(len(run) for run in _RUN.findall(text)) > 0.7 * marked:
        return ""
    scores = {}
    for encoding, usual in _LATIN.items():
        wide = text.decode(encoding, errors="replace")
        scores[encoding] = sum(character in usual for character in wide if not character.isascii())
    best = max(scores, key=lambda encoding: scores[encoding])  # the first of equals, which is the commonest
    return best if scores[best] > 0.5 * marked else ""


def _likeliest(text: bytes) -> str:
    """Of the encodings that charset-normalizer finds equally clean, the one with the fewest breaks within words."""
    from charset_normalizer import from_bytes

    matches = list(from_bytes(text, cp_isolation=list(_GUESSED), threshold=0.3))
    if not matches:
        return ""
    clean = [match.encoding for match in matches if match.chaos <= matches[0].chaos + 0.01]
    best = min(clean, key=lambda encoding: _breaks(text.decode(encoding, errors="replace")[:4096]))
    return _LARGER.get(best, codecs.lookup(best).name)


def _breaks(text: str) -> int:
    """Words with letters of different scripts, or with capitals and small letters mixed: there are few."""
    return sum(
        len({_script(letter) for letter in word}) > 1 or (word[1:] != word[1:].lower() and not word.isupper())
        for word in _WORD.findall(text)
    )


def _script(letter: str) -> str:
    """'LATIN', 'ARABIC', ...; Japanese mixes three, which count as one."""
    word = unicodedata.name(letter, "").partition(" ")[0]
    return "CJK" if word in ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA", "HALFWIDTH") else word


# --- reading


def _bad_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # noqa: S101
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_BAD_BYTE, _bad_byte)


class AsUtf8(io.RawIOBase):
    """A stream in another encoding as UTF-8. Bytes it does not have become half characters, which are not UTF-8.

    A lone carriage return, which ended lines on old Macs, becomes a line feed when `carriage_returns`.
    """

    def __init__(self, source: BinaryIO, encoding: str, *, carriage_returns: bool = False) -> None:
        self._source, self._returns = source, carriage_returns
        self._decoder = codecs.getincrementaldecoder(encoding)(_BAD_BYTE)
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            data = self._source.read(_CHUNK)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            if self._returns:
                text = text.replace("\r", "\n")
            self._ready = memoryview(text.encode("utf-8", "surrogatepass"))
        size = min(len(self._ready), len(buffer))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()
