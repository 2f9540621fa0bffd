"""The recipe `import-from`: fetch rows from the Hub or from a bucket, then import them as an upload is."""

from collections.abc import Callable
from dataclasses import replace

from pydantic import Field, field_validator

from datasets_app import sources
from datasets_app.reading import size_of
from datasets_app.recipes import import_rows
from datasets_app.sources import hub, s3
from project.contracts.rows import RowKind
from project.contracts.runs import RunContext, UserError

name = "import-from"
label = "Import rows from elsewhere"
eats: tuple[RowKind, ...] = ()
needs = "cpu"
network = True
secrets = ("HUGGINGFACE_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Params(import_rows.Params):
    """Where from, and how to read it. The keys come separately."""

    uri: str = Field(max_length=1000, description="hub:org/name@revision or s3://bucket/key")
    s3_endpoint: str = Field(default="", description="the store's address; empty for Amazon's")
    s3_region: str = Field(default="")

    @field_validator("uri")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            return str(sources.parse(value))
        except UserError as error:
            raise ValueError(str(error)) from None


def run(params: Params, ctx: RunContext) -> None:
    uri = sources.parse(params.uri)
    target = ctx.folder / "tmp" / "fetched"
    target.mkdir(parents=True, exist_ok=True)
    tick = _ticker(ctx)
    options = params.options()
    if uri.kind == "hub":
        limit = params.max_bytes
        sha = hub.fetch(uri, params.split, target, max_bytes=limit, tick=tick, check_stop=ctx.check_stop)
        uri, path = sources.Uri("hub", uri.name, sha), target
        options = replace(options, split="")  # only that split was fetched
    else:
        path = s3.fetch(
            uri,
            target,
            endpoint=params.s3_endpoint,
            region=params.s3_region,
            max_bytes=params.max_bytes,
            tick=tick,
            check_stop=ctx.check_stop,
        )
    ctx.log(f"Fetched {uri}: {size_of(path):,} bytes")
    import_rows.import_path(
        path,
        options,
        ctx,
        name=params.source_name or uri.name,
        source_uri=str(uri),
        source_bytes=size_of(path),
    )


def _ticker(ctx: RunContext) -> Callable[[int, int], None]:
    def tick(done: int, total: int) -> None:
        ctx.progress(done, total, unit="byte", phase="Fetching")

    return tick
