"""One way to name a version, everywhere: an id, `name`, `name@stage`, `name@alias` or `name:3`."""

import re
from dataclasses import dataclass
from uuid import UUID

from project.kernel.errors import invalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Reference:
    """Exactly one of `id` and `name` is set; `number` and `label` never both."""

    id: UUID | None = None
    name: str = ""
    number: int | None = None
    label: str = ""


def parse(text: str, *, field: str = "reference") -> Reference:
    """Read a reference. Raises Invalid, naming `field`."""
    text = text.strip()
    try:
        return Reference(id=UUID(text))
    except ValueError:
        pass
    name, colon, number = text.partition(":")
    name, at, label = name.partition("@")
    wrong = (
        not _NAME.fullmatch(name)
        or (bool(colon) and (not number.isdecimal() or len(number) > 9))
        or (bool(at) and not _NAME.fullmatch(label))
        or (colon and at)
    )
    if wrong:
        raise invalid(field, f"'{text[:80]}' is not a reference. Use an id, name, name@stage or name:3.")
    return Reference(name=name, number=int(number) if number else None, label=label)


def check_name(name: str, *, field: str = "name") -> str:
    """A name that can be used in references and URLs. Raises Invalid."""
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise invalid(
            field,
            f"'{name[:80]}' is not a usable name. Use up to 100 letters, digits, '.', '_' and '-', "
            "starting with a letter or digit.",
        )
    return name
