"""A folder: what `datasets` saves to disk, or a repository's files. One split of it, file after file."""

import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_app.reading import FORMATS, BadLine, Guess, Head, Record, Source, detect_format, files_of
from datasets_app.unpacking import SUFFIXES as PACKED_SUFFIXES
from project.contracts.runs import UserError

name = "folder"
label = "a folder of them"
suffixes = ()
binary = True

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test",
           "evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation",
           "dev": "validation"}  # fmt: skip
_WORDS = re.compile(r"[^A-Za-z]+")
_LISTING_BYTES = 16 * 1024**2


def detect(head: Head) -> Guess | None:
    found = [one for one in head.names if is_data(one)]
    if not found:
        return None
    saved = any(one.rpartition("/")[2] in ("state.json", "dataset_dict.json") for one in head.names)
    what = "a data set saved to disk" if saved else "a folder"
    return Guess(1.0, f"{what} with {len(found)} file{'s' * (len(found) != 1)} of rows")


def read(source: Source) -> Iterator[Record | BadLine]:
    done = out = 0
    for path in chosen_files(source):
        part = source.part(path, unpacked=out)
        for record in _records(source, part):
            source.advance(done + part.position, out + part.unpacked)
            if isinstance(record, BadLine):
                yield BadLine(record.line, f"{path.name}: {record.reason}")
            else:
                yield Record(record.line, record.fields)
        done += part.size
        out += part.unpacked
    source.advance(source.size, out)


def _records(source: Source, part: Source) -> Iterator[Record | BadLine]:
    """What one file holds. A file that is small enough by itself may be the one with which the folder is too large."""
    try:
        yield from detect_format(part).format.read(part)
    except UserError as error:
        if part.limits == source.limits or "MAX_UNPACKED_BYTES" not in error.hint:
            raise
        most = f"{source.limits.unpacked_bytes:,} bytes"
        words = f"{source.name} unpacks to more than {most}: {part.name} is too much beside the files before it."
        raise UserError(words, hint=error.hint, field=error.field) from error


def chosen_files(source: Source) -> list[Path]:
    """The files of the split that is wanted, in the order of their names. Raises UserError that lists the splits."""
    splits = splits_of(source.path)
    if source.split:
        if source.split not in splits:
            raise UserError(
                f"{source.name} has no split '{source.split[:60]}'.", hint=f"It has {', '.join(splits)}.", field="split"
            )
        return splits[source.split]
    if len(splits) == 1 or "train" in splits:
        return splits.get("train") or next(iter(splits.values()))
    raise UserError(f"{source.name} has the splits {', '.join(splits)}.", hint="Say which one.", field="split")


def splits_of(folder: Path) -> dict[str, list[Path]]:
    """Name of a split -> its files."""
    listed = folder / "dataset_dict.json"
    if listed.is_file():
        names = [one for one in _list_in(listed, "splits") if _inside(folder, one).is_dir()]
        return {one: _saved(folder / one) or _data_files(folder / one) for one in names}
    if saved := _saved(folder):
        return {"train": saved}
    names = [path.relative_to(folder).as_posix() for path in _data_files(folder)]
    return {split: [folder / one for one in files] for split, files in named_splits(names).items()}


def named_splits(names: list[str], card: str = "") -> dict[str, list[str]]:
    """Splits by what the card (README.md) of a repository says of its default configuration, else by the names."""
    if declared := _declared(names, card):
        return declared
    found: dict[str, list[str]] = {}
    for one in sorted(names, key=_natural):
        if is_data(one):
            found.setdefault(_split_in(one), []).append(one)
    if len(found) > 1 and "" in found:
        found.setdefault("train", []).extend(found.pop(""))
    return {split or "train": files for split, files in found.items()}


def is_data(path: str) -> bool:
    """Is it, by its name, a file of rows?"""
    file = path.rpartition("/")[2].lower()
    if file in ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "config.json"):
        return False
    suffixes_of = Path(file).suffixes
    if suffixes_of and suffixes_of[-1] in PACKED_SUFFIXES:
        suffixes_of.pop()
    return bool(suffixes_of) and suffixes_of[-1] in {
        suffix for plugin in FORMATS.all() for suffix in plugin.suffixes if suffix != ".md"
    }


def _split_in(path: str) -> str:
    """'train' of data/train-00000-of-00002.parquet; '' where no split is named."""
    words = [_SPLITS[word] for word in _WORDS.split(path.lower()) if word in _SPLITS]
    return words[-1] if words else ""


def _declared(names: list[str], card: str) -> dict[str, list[str]]:
    """https://huggingface.co/docs/hub/datasets-manual-configuration"""
    configs = _front_matter(card).get("configs")
    if not isinstance(configs, list):
        return {}
    usable = [one for one in configs if isinstance(one, dict) and one.get("data_files")]
    default = next((one for one in usable if one.get("default") or one.get("config_name") == "default"), None)
    default = default or (usable[0] if usable else None)
    if default is None:
        return {}
    files = default["data_files"]
    if isinstance(files, str) or (isinstance(files, list) and all(isinstance(one, str) for one in files)):
        files = [{"split": "train", "path": files}]
    found: dict[str, list[str]] = {}
    for one in files if isinstance(files, list) else []:
        if isinstance(one, dict) and one.get("split") and one.get("path"):
            patterns = one["path"] if isinstance(one["path"], list) else [one["path"]]
            matching = [name for name in names if any(fnmatch.fnmatch(name, str(p)) for p in patterns)]
            if matching:
                found[str(one["split"])] = sorted(matching, key=_natural)
    return found


def _front_matter(card: str) -> dict[str, Any]:
    import yaml

    match = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _saved(folder: Path) -> list[Path]:
    """The files that `save_to_disk` lists in their order; none where it did not write the folder."""
    state = folder / "state.json"
    if not state.is_file():
        return []
    entries = _list_in(state, "_data_files")
    if not all(isinstance(entry, dict) for entry in entries):
        raise _damaged(state, "its _data_files are no objects")
    files = [_inside(folder, entry.get("filename")) for entry in entries]
    return [file for file in files if file.is_file()]


def _inside(folder: Path, name: Any) -> Path:
    """What a file of the folder names there. Raises UserError for a name that leads elsewhere, and for a link."""
    plain = isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}
    path = folder / name if plain else folder
    if not plain or path.is_symlink() or path.resolve().parent != folder.resolve():
        raise UserError(
            f"{folder.name} names '{str(name)[:60]}', which is not a file or folder in it.",
            hint="Save the data set again with save_to_disk, and give that folder.",
            field="file",
        )
    return path


def _data_files(folder: Path) -> list[Path]:
    return [path for path in files_of(folder) if is_data(path.relative_to(folder).as_posix())]


def _list_in(path: Path, key: str) -> list[Any]:
    """The list under a key of a small JSON file; empty where there is none. Raises UserError for a damaged file."""
    if path.is_symlink() or path.stat().st_size > _LISTING_BYTES:
        raise _damaged(path, f"it is a link, or larger than {_LISTING_BYTES:,} bytes")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _damaged(path, "it is not JSON") from None
    listed = found.get(key, []) if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise _damaged(path, f"it has no list '{key}'")
    return listed


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path.parent.name}/{path.name} is damaged: {why}.", hint="Copy or save the data set again.", field="file"
    )


def _natural(text: str) -> list[Any]:
    """part-2 before part-10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", text)]
