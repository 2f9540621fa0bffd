"""Problems a person can do something about. Actions raise them; API, pages and commands say them."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

Errors = Mapping[str, Sequence[str]]


class Problem(Exception):
    """Base of all. `errors` maps a field's name to what is wrong with it."""

    status: ClassVar[int] = 400
    title: ClassVar[str] = "Bad request"

    def __init__(self, detail: str = "", *, errors: Errors | None = None) -> None:
        self.errors: dict[str, list[str]] = {field: list(messages) for field, messages in (errors or {}).items()}
        self.detail = detail or "; ".join(f"{field}: {' '.join(m)}" for field, m in self.errors.items()) or self.title
        super().__init__(self.detail)

    @property
    def slug(self) -> str:
        return self.title.lower().replace(" ", "-")


class Invalid(Problem):
    status, title = 400, "Invalid input"


class NotSignedIn(Problem):
    status, title = 401, "Not signed in"


class Forbidden(Problem):
    status, title = 403, "Not allowed"


class NotFound(Problem):
    status, title = 404, "Not found"


class Conflict(Problem):
    status, title = 409, "Conflict"


class NotReady(Problem):
    """Something has to happen first; the detail says what."""

    status, title = 409, "Not ready"


class TooLarge(Problem):
    status, title = 413, "Too large"


class TooMany(Problem):
    status, title = 429, "Too many requests"


class Unavailable(Problem):
    status, title = 503, "Unavailable"


def invalid(field: str, message: str) -> Invalid:
    """Shorthand for one wrong field."""
    return Invalid(errors={field: [message]})
