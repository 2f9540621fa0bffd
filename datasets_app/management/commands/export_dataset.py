"""`manage.py export_dataset intents:3 --format openai --output rows.jsonl`"""

import os
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
        partial = target.with_name(f"{target.name}.partial")
        try:
            with partial.open("xb") as file:
                size = _copy(pieces, file)
            partial.rename(target)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise CommandError(f"{target} can't be written: {error.strerror}.") from None
        data = {"reference": str(version), "format": export.name, "rows": version.rows, "bytes": size, "file": target}
        self.out(data, f"{version}: {version.rows:,} rows as {export.label} in {target}, {size:,} bytes.")


def _copy(pieces: Any, file: BinaryIO) -> int:
    size = sum(file.write(piece) for piece in pieces)
    file.flush()
    os.fsync(file.fileno())
    return size
