"""`manage.py export_dataset intents:3 --format openai --output rows.jsonl`"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import CommandError, CommandParser

from datasets_app import exporting
from datasets_app.actions import datasets
from datasets_app.downloads import chosen
from project.kernel import access, artifacts
from project.kernel.commands import TuneloopCommand


class Command(TuneloopCommand):
    help = "Write all rows of a data set version to a file."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="name (its newest ready version), name:3 or an id")
        parser.add_argument("--format", default="jsonl", help=", ".join(exporting.EXPORTS))
        parser.add_argument("--output", type=Path, required=True, help="the file; - is standard output")

    def run(self, **options: Any) -> None:
        version = datasets.resolve(self.workspace, options["reference"], field="reference")
        access.require(self.actor, "workspace.read", version)
        export = chosen(version, options["format"])
        folder = artifacts.local_path(version.artifact)  # type: ignore[arg-type]  # it is ready
        pieces = exporting.write(folder, export.name)
        if str(options["output"]) == "-":
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            return
        target: Path = options["output"]
        try:
            size = _write(pieces, target)
        except OSError as error:
            raise CommandError(f"{target} can't be written: {error.strerror}.") from None
        data = {"reference": str(version), "format": export.name, "rows": version.rows, "bytes": size, "file": target}
        self.out(data, f"{version}: {version.rows:,} rows as {export.label} in {target}, {size:,} bytes.")


def _write(pieces: Any, target: Path) -> int:
    """Write all or nothing, and return the bytes. Of two runs at once each has its own unfinished file."""
    partial = target.with_name(f"{target.name[:200]}.{secrets.token_hex(8)}.partial")
    with partial.open("xb") as file:
        try:
            size = _copy(pieces, file)
            partial.rename(target)
        except BaseException:  # Ctrl-C too
            with suppress(OSError):
                partial.unlink()
            raise
    return size


def _copy(pieces: Any, file: BinaryIO) -> int:
    size = sum(file.write(piece) for piece in pieces)
    file.flush()
    os.fsync(file.fileno())
    return size
