"""Characters nobody sees, and texts whose encoding was guessed wrong somewhere on the way."""

import re
from collections.abc import Iterable

from datasets_app.importing import Entry
from datasets_app.validation import Check as BaseCheck
from datasets_app.validation import Examples, Finding

name = "characters"
label = "Characters"

# Not the joiners U+200C and U+200D (Persian, emoji), nor the marks of direction U+200E and U+200F (Arabic, Hebrew).
_INVISIBLE = re.compile("[\u200b\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
_BROKEN = re.compile("\ufffd|Ã[\u0080-\u00bf©¨¤¶¼Ÿ]|â€[™œ\u009d“”¦]|ï»¿")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_SUSPECT = re.compile(f"[{_INVISIBLE.pattern[1:-1]}{_CONTROL.pattern[1:-1]}\ufffdÃâï]")


class Check(BaseCheck):
    def __init__(self) -> None:
        self._invisible, self._broken, self._control = Examples(), Examples(), Examples()

    def see(self, entry: Entry) -> None:
        if entry.data.isascii() and "\\u00" not in entry.data and "\x7f" not in entry.data:
            return  # what JSON would have escaped is not there either
        for part in entry.texts:
            if _SUSPECT.search(part.text):
                self._judge(entry, part.where, part.text)
                break

    def _judge(self, entry: Entry, where: str, text: str) -> None:
        if match := _BROKEN.search(text):
            around = text[max(match.start() - 15, 0) : match.end() + 15]
            self._broken.add(entry, f"'{around}' in the {where}")
        elif match := _CONTROL.search(text):
            self._control.add(entry, f"U+{ord(match.group()):04X} in the {where}")
        elif match := _INVISIBLE.search(text):
            self._invisible.add(entry, f"U+{ord(match.group()):04X} in the {where}")

    def findings(self) -> Iterable[Finding]:
        fix = ({"type": "transform", "operation": "normalize"},)
        for found, what, advice in (
            (self._broken, "texts whose characters were broken on the way", "They were read in the wrong encoding "
             "before they came here. Export them again as UTF-8."),
            (self._control, "control characters", "No chat has them; the model would learn to write them."),
            (self._invisible, "invisible characters", "To a tokenizer a word with one inside is another word."),
        ):  # fmt: skip
            if found.count:
                title = f"{found.count:,} rows have {what}" if found.count > 1 else f"One row has {what}"
                steps = () if found is self._broken else fix
                yield Finding(name, "warning", title, found.count, advice, tuple(found.kept), steps)
