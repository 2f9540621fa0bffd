"""Token ids of rows that were rendered before: the same rows, tokenizer and length need no second rendering.

An entry's name is a digest of everything it depends on, so it is never wrong, only gone: the folder holds at most
MOST_BYTES, and what was used longest ago goes first.
"""

import hashlib
import json
import os
import sys
import zipfile
from array import array
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from project.contracts import chat
from project.contracts import rows as contract
from project.contracts.runs import RunContext
from project.modeling import render
from project.modeling.data import content_digest, iter_texts
from training.engine.components import readings
from training.engine.components import rows as components
from training.engine.components.readings import ANSWERS, Reading
from training.engine.components.rows import RenderedRows, TokenRows, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_BYTES = 4 * 2**30
_COUNTS = ("read", "truncated", "dropped_tokens", "unlearnable")


def token_rows(
    data: Path,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    ctx: RunContext,
    reading: Reading = ANSWERS,
) -> TokenRows:
    """`tokenise` for the rows of `data`, or what it gave for the same rows before. Raises as it does."""
    entry = _entry(data, tokenizer, max_length, ctx, reading)
    found = _load(entry) if entry else None
    if found is not None:
        ctx.log(f"{found.read} rows were tokenised for an earlier run; that is used again.")
        return found
    found = tokenise(iter_texts(data), tokenizer, max_length, ctx, reading)
    if entry:
        with suppress(OSError, MemoryError):  # then the next run renders again
            entry.parent.mkdir(parents=True, exist_ok=True)
            _make_room(entry.parent)
            _store(entry, found)
    return found


def _entry(
    data: Path, tokenizer: "PreTrainedTokenizerBase", max_length: int, ctx: RunContext, reading: Reading
) -> Path | None:
    """Where these rows are or would be; None where nothing is kept or the tokenizer can't be told from another."""
    digest = content_digest(data)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if ctx.spec.cache is None or digest is None or backend is None:
        return None
    if "strftime_now" in str(tokenizer.chat_template):  # it writes today's date
        return None
    import tokenizers
    import transformers

    identity = {
        "rows": digest,
        "tokenizer": hashlib.sha256(backend.to_str().encode()).hexdigest(),
        "template": tokenizer.chat_template,
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "split_special": bool(getattr(tokenizer, "split_special_tokens", False)),
        "max_length": max_length,
        "reading": reading.name,
        "libraries": [transformers.__version__, tokenizers.__version__, version("jinja2")],
        "code": [_source(module) for module in (render, chat, contract, components, readings, sys.modules[__name__])],
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Path(ctx.spec.cache) / "tokens" / f"{name}.npz"


def _source(module: Any) -> str:
    return hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


def _store(entry: Path, found: TokenRows) -> None:
    import numpy as np

    partial = entry.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                ids=np.frombuffer(found.rows.ids, dtype=np.int32),
                mask=np.frombuffer(found.rows.mask, dtype=np.uint8),
                ends=np.frombuffer(found.rows.ends, dtype=np.int64),
                dropped=np.frombuffer(found.rows.dropped, dtype=np.int64),
                numbers=np.frombuffer(found.numbers, dtype=np.int64),
                tags=np.frombuffer(found.rows.tags, dtype=np.int8),
                width=np.array([found.rows.width]),
                counts=np.array([getattr(found, name) for name in _COUNTS], dtype=np.int64),
                digest=np.frombuffer(bytes.fromhex(found.digest), dtype=np.uint8),
            )
        partial.rename(entry)
    finally:
        partial.unlink(missing_ok=True)


def _load(entry: Path) -> TokenRows | None:
    """None for one that is not there, or damaged: the archive's checksums tell."""
    import numpy as np

    try:
        with np.load(entry, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, MemoryError):  # not there, or not to be read now
        return None
    except (ValueError, EOFError, zipfile.BadZipFile):
        with suppress(OSError):
            entry.unlink(missing_ok=True)
        return None
    with suppress(OSError):  # somebody else's file
        os.utime(entry)
    rows, numbers = RenderedRows(width=int(found["width"][0])), array("q")
    rows.mask += found["mask"].tobytes()
    rows.ends.pop()
    columns = {name: getattr(rows, name) for name in ("ids", "ends", "dropped", "tags")} | {"numbers": numbers}
    for name, column in columns.items():
        column.frombytes(found[name].tobytes())
    counts = dict(zip(_COUNTS, found["counts"].tolist(), strict=True))
    return TokenRows(rows=rows, numbers=numbers, digest=found["digest"].tobytes().hex(), **counts)


def _make_room(folder: Path) -> None:
    """Remove what was used longest ago until the rest is within MOST_BYTES. Several runs may do so at once."""
    entries = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            facts = path.stat()
            entries.append((facts.st_mtime, facts.st_size, path))
    held = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if held <= MOST_BYTES:
            return
        with suppress(OSError):
            path.unlink(missing_ok=True)
        held -= size
