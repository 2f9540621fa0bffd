"""Rows of a data set on the Hugging Face Hub: the files of one split, of one commit."""

import json
from collections.abc import Callable
from pathlib import Path

from datasets_app.formats.folder import named_splits
from datasets_app.sources import Uri, unusable
from project.contracts.runs import UserError
from project.modeling import hub

_WITHOUT_NETWORK = "download the files elsewhere, and upload them or put them below DATA_DIR_ROOT for dir:NAME."
_CARD = "README.md"


def fetch(
    uri: Uri,
    split: str,
    target: Path,
    *,
    max_bytes: int,
    tick: Callable[[int, int], None],
    check_stop: Callable[[], None],
) -> str:
    """Download the split into `target`, a folder that `formats.folder` reads in order; returns the commit's sha.

    Raises UserError when there is no such data set, commit or split, when it is too large, or has no files of rows.
    """
    repository = hub.look_up("dataset", uri.name, uri.revision, path=_WITHOUT_NETWORK)
    names = _files_of(repository, split, _card(repository, target, check_stop))
    total = sum(repository.files[name] for name in names)
    if total > max_bytes:
        raise UserError(
            f"{uri.name} has {total:,} bytes in this split; at most {max_bytes:,} are taken.",
            hint="Import a smaller split, or ask the operator to raise MAX_UPLOAD_BYTES.",
            field="source",
        )
    hub.fetch(repository, names, target, tick=tick, check_stop=check_stop, path=_WITHOUT_NETWORK)
    _flatten(names, target)
    return repository.sha


def _card(repository: hub.Repository, target: Path, check_stop: Callable[[], None]) -> str:
    """The repository's README, which may say which files are which split."""
    if not 0 < repository.files.get(_CARD, 0) < 1024**2:
        return ""
    hub.fetch(repository, [_CARD], target, tick=lambda done, total: None, check_stop=check_stop, path=_WITHOUT_NETWORK)
    return (target / _CARD).read_text(encoding="utf-8", errors="replace")


def _files_of(repository: hub.Repository, split: str, card: str) -> list[str]:
    splits = named_splits(list(repository.files), card)
    if not splits:
        scripts = [name for name in repository.files if name.endswith(".py")]
        why = " It makes them with a script, which is not run." if scripts else ""
        raise unusable(
            f"{repository.name} has no files of rows.{why}",
            hint="Ask its owner for Parquet, or convert it elsewhere: load it there and save it to disk.",
        )
    if not split and (len(splits) == 1 or "train" in splits):
        return splits.get("train") or next(iter(splits.values()))
    if split not in splits:
        what = f"has no split '{split[:60]}'" if split else "has several splits"
        raise UserError(f"{repository.name} {what}.", hint=f"It has {', '.join(splits)}.", field="split")
    return splits[split]


def _flatten(names: list[str], target: Path) -> None:
    """Put the files beside each other, with a list of their order, as `save_to_disk` leaves them."""
    kept = []
    for number, name in enumerate(names):
        flat = f"{number:05}-{name.rpartition('/')[2]}"
        (target / name).rename(target / flat)
        kept.append({"filename": flat})
    (target / "state.json").write_text(json.dumps({"_data_files": kept}))
