"""Typed readers for environment variables. A bad value stops start-up with a sentence that names the variable.

`NAME_FILE` may hold the path of a file with the value instead (Docker and Kubernetes secrets).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

T = TypeVar("T", int, float)


class BadSetting(SystemExit):
    """Stops the program: the setting is named, with what it should look like."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"Setting {name}: {problem}")


def text(name: str, default: str = "") -> str:
    """The value of `name`, or the content of the file that `name`_FILE names, or `default`."""
    file_name = os.environ.get(f"{name}_FILE")
    if file_name:
        try:
            return Path(file_name).read_text().strip()
        except OSError as error:
            raise BadSetting(f"{name}_FILE", f"cannot read {file_name}: {error.strerror}") from None
    return os.environ.get(name, "").strip() or default


def flag(name: str, default: bool = False) -> bool:
    value = text(name).lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    if value:
        raise BadSetting(name, f"'{value}' is neither true nor false")
    return default


def choice(name: str, options: tuple[str, ...]) -> str:
    """One of `options`; the first is the default."""
    value = text(name, options[0])
    if value not in options:
        raise BadSetting(name, f"'{value}' is none of {', '.join(options)}")
    return value


def integer(name: str, default: int, *, least: int | None = None, most: int | None = None) -> int:
    return _number(name, default, int, "a whole number", least, most)


def decimal(name: str, default: float, *, least: float | None = None, most: float | None = None) -> float:
    return _number(name, default, float, "a number", least, most)


def _number(name: str, default: T, convert: Callable[[str], T], what: str, least: T | None, most: T | None) -> T:
    value = text(name)
    if not value:
        return default
    try:
        number = convert(value)
    except ValueError:
        raise BadSetting(name, f"'{value}' is not {what}") from None
    if least is not None and number < least:
        raise BadSetting(name, f"{value} is less than {least}")
    if most is not None and number > most:
        raise BadSetting(name, f"{value} is more than {most}")
    return number


def words(name: str, default: tuple[str, ...] = ()) -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in text(name).split(",") if word.strip()] or list(default)


def folder(name: str, default: Path) -> Path:
    """An absolute path. Not created here."""
    return Path(text(name) or default).expanduser().resolve()


def database(name: str, default: dict[str, object]) -> dict[str, object]:
    """A Django database from a URL: postgres://user:password@host:port/name?option=value or sqlite:///path."""
    value = text(name)
    if not value:
        return default
    url = urlsplit(value)
    if url.scheme == "sqlite":
        return {**default, "NAME": unquote(url.path)}
    if url.scheme not in ("postgres", "postgresql"):
        raise BadSetting(name, f"'{url.scheme}' is not a supported database; use postgres://… or sqlite:///…")
    options = dict(parse_qsl(url.query))
    host = options.pop("host", "") or unquote(url.hostname or "")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.lstrip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": host,
        "PORT": str(url.port or ""),
        "CONN_HEALTH_CHECKS": True,
        "CONN_MAX_AGE": 60,
        "OPTIONS": options,
    }
