"""The recipe `import`: an uploaded file becomes `rows.parquet` and `report.json`, in the memory of a few rows."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datasets_app.checking import validation
from datasets_app.importing import Importing, Options
from datasets_app.reading import Limits, excerpt
from datasets_app.shapes import PARTS
from datasets_app.storage import FILE, RowsFile
from project.contracts.rows import RowKind
from project.contracts.runs import RunContext

name = "import"
label = "Import rows"
eats: tuple[RowKind, ...] = ()
needs = "cpu"

SOURCE = "source"  # the file's name within an upload's folder
_LOOK_EVERY = 256  # rows between two looks at the stop flag


class Params(BaseModel):
    """How to read the file. Limits are in bytes of the file as uploaded, and of what it unpacks to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(default="auto", description="auto, or the name of a format")
    columns: dict[str, str] = Field(default={}, description=f"part -> column; parts: {', '.join(PARTS)}")
    skip_bad_lines: bool = Field(default=False, description="import the rest and report the bad lines")
    encoding: str = Field(default="auto", max_length=40, description="auto, or the encoding of the text")
    split: str = Field(default="", max_length=100, description="which part of a folder that has several")
    source_name: str = Field(default="", max_length=255, description="the file's name where it came from")
    max_bytes: int = Field(default=Limits.bytes, ge=1)
    max_rows: int = Field(default=Limits.rows, ge=1)
    max_line_bytes: int = Field(default=Limits.line_bytes, ge=1024)
    max_unpacked_bytes: int = Field(default=Limits.unpacked_bytes, ge=1)

    def options(self) -> Options:
        limits = Limits(self.max_bytes, self.max_rows, self.max_line_bytes, self.max_unpacked_bytes)
        return Options(self.format, self.columns, self.skip_bad_lines, limits, self.encoding, self.split)


def run(params: Params, ctx: RunContext) -> None:
    source = ctx.input("source")
    if source.is_dir() and (source / SOURCE).exists():  # uploads are kept as folders
        source = source / SOURCE
    import_path(source, params.options(), ctx, name=params.source_name)


def import_path(path: Path, options: Options, ctx: RunContext, *, name: str, **facts: Any) -> None:
    """Import the file or folder; `facts` join the result."""
    importing = Importing(path, options, name=name)
    ctx.log(f"{importing.detected.format.label}: {importing.detected.evidence}; {importing.mapped.shape.label}")
    with validation(importing.source.size) as checks:
        with RowsFile(ctx.artifact / FILE) as file:
            for entry in importing.rows():
                file.add(entry)
                checks.see(entry)
                if file.rows % _LOOK_EVERY == 0:
                    ctx.check_stop()
                    ctx.progress(importing.source.position, importing.source.size, unit="byte", phase="Reading")
        ctx.progress(importing.source.size, importing.source.size, unit="byte", phase="Reading")
        report = checks.report(
            importing.bad.first,
            importing.bad.count,
            format={"name": importing.detected.format.name, "evidence": importing.detected.evidence},
            shape={
                "name": importing.mapped.shape.name,
                "label": importing.mapped.shape.label,
                "evidence": importing.mapped.evidence,
            },
            columns={
                "found": [excerpt(column, 80) for column in importing.columns[:200]],
                "mapped": {part: excerpt(column, 80) for part, column in importing.mapped.columns.items()},
            },
        )
    (ctx.artifact / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=1))
    ctx.done(
        artifact=True,
        **file.facts(),
        row_kind=importing.kind.value,
        format=importing.detected.format.name,
        bad_lines=importing.bad.count,
        **facts,
    )
