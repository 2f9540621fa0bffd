"""Where rows can be imported from, as people write it: `dir:NAME`, `hub:org/name@revision`, `s3://bucket/key`. Pure."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote

from project.contracts.runs import UserError

Kind = Literal["dir", "hub", "s3"]
FORMS = {"dir": "dir:NAME", "hub": "hub:org/name@revision", "s3": "s3://bucket/key"}

_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PAGE = re.compile(r"https://(?:huggingface\.co|hf\.co)/datasets/([^?#]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Uri:
    """`name` is a folder below the operator's root, a repository of the Hub at `revision`, or bucket/key."""

    kind: Kind
    name: str
    revision: str = ""  # empty: main

    def __str__(self) -> str:
        if self.kind == "s3":
            return f"s3://{self.name}"
        return f"{self.kind}:{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def bucket(self) -> str:
        return self.name.partition("/")[0]

    @property
    def key(self) -> str:
        """Of an object, or what several begin with."""
        return self.name.partition("/")[2]


def looks_like_one(text: str) -> bool:
    """Is it meant as a URI, and not as a path?"""
    return text.partition(":")[0] in (*FORMS, "https", "http") and ":" in text


def parse(text: str) -> Uri:
    """Read a URI. Raises UserError that says which forms there are."""
    text = text.strip()
    if page := _PAGE.match(text):
        text = f"hub:{_of_page(page[1])}"
    kind, colon, name = text.partition(":")
    if not colon or kind not in FORMS:
        near = difflib.get_close_matches(kind, FORMS, n=1) if colon else []
        hint = f"Did you mean '{FORMS[near[0]]}'? " if near else ""
        raise unusable(f"'{text[:80]}' is no place that rows are imported from. {hint}Use {', '.join(FORMS.values())}.")
    if not name.isprintable() or len(text) > 1000:
        raise unusable("The name has characters that can't be shown, or more than 1,000.")
    if kind == "s3":
        return _s3(name)
    if kind == "dir":
        if not name.strip("/ "):
            raise unusable("Name the folder or file: dir:NAME.")
        return Uri("dir", name)
    name, _, revision = name.partition("@")
    wrong_revision = bool(revision) and not _REVISION.fullmatch(revision)
    if not _REPOSITORY.fullmatch(name) or wrong_revision or ".." in name + revision:
        raise unusable(f"'{text[:120]}' is not a repository of the Hub. Use {FORMS['hub']}.")
    return Uri(cast(Kind, kind), name, revision)


def _of_page(path: str) -> str:
    """'org/name@rev' of what follows /datasets/ in an address of the Hub."""
    pieces = unquote(path).strip("/").split("/")
    name = "/".join(pieces[:2])
    return f"{name}@{pieces[3]}" if len(pieces) > 3 and pieces[2] in ("tree", "blob", "resolve") else name


def _s3(name: str) -> Uri:
    bucket, _, key = name.removeprefix("//").partition("/")
    if not name.startswith("//") or not _BUCKET.fullmatch(bucket) or not key or ".." in key.split("/"):
        raise unusable(f"'s3:{name[:80]}' is not the address of an object. Use {FORMS['s3']}.")
    return Uri("s3", f"{bucket}/{key}")


def below(root: str, name: str) -> Path:
    """The file or folder `name` below the operator's `root`, links resolved. Raises UserError when it is not there."""
    if not root:
        raise unusable(
            "Importing folders of the server is switched off.",
            hint="An operator sets DATA_DIR_ROOT to the folder below which rows may be imported.",
        )
    top = Path(root).resolve()
    found = (top / name).resolve()
    if found == top or not found.is_relative_to(top):
        raise unusable(f"dir:{name[:80]} is not inside the folder that the operator allows.")
    if not found.exists():
        known = sorted(path.name for path in top.iterdir()) if top.is_dir() else []
        near = difflib.get_close_matches(name, known, n=1)
        raise unusable(f"There is no '{name[:80]}' to import." + (f" Did you mean '{near[0]}'?" if near else ""))
    return found


def unusable(message: str, *, hint: str = "") -> UserError:
    return UserError(message, hint=hint, field="source")
