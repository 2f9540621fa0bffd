"""Data that a model writes: who writes it, from what. Here because both registry and data are seen from here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from datasets_app.actions import synthesis
from datasets_app.models import DatasetVersion
from datasets_app.recipes import augment as augment_recipe
from datasets_app.recipes import synthesize as synthesize_recipe
from project.jobs.actions.jobs import Input
from project.jobs.models.job import Queue
from project.kernel import access
from project.kernel.access import Actor
from project.kernel.errors import Invalid, NotFound, invalid
from project.kernel.models import Endpoint
from training.planning import files_of, find_data, find_version, found_at

CONFIG = (  # what `generation_config` may hold
    *("num_samples", "temperature", "max_tokens", "quality_filter", "seed", "concurrency", "batch_size"),
    *("pairs", "chunk_characters", "min_characters", "similarity", "grounded"),
)


@dataclass(frozen=True)
class Writer:
    """Who writes: the inputs of the job, the queue it waits in, and its name for people."""

    inputs: Mapping[str, Input]
    queue: str
    label: str


def writer_of(*, model: str, endpoint: str, by: Actor) -> Writer:
    """The registered version or the endpoint; exactly one of them is named. Raises Invalid at its field."""
    if bool(model) == bool(endpoint):
        raise invalid("model", "Name a model or an endpoint that writes, not both.")
    if endpoint:
        found = found_at("endpoint", lambda: find_endpoint(endpoint, by=by))
        access.require(by, "endpoint.use", found)
        return Writer({"writer": found}, Queue.CPU, f"{found.name} ({found.model})")
    version = found_at("model", lambda: find_version(model, workspace=by.workspace))
    inputs: dict[str, Input] = {"base": version.foundation.artifact}
    if version.is_adapter:
        inputs["adapter"] = version.artifact
    return Writer(inputs, Queue.GPU, version.reference)


def find_endpoint(reference: str, *, by: Actor) -> Endpoint:
    """An endpoint by id or name. Raises NotFound."""
    rows = access.visible(Endpoint.objects.all(), by)
    try:
        found = rows.filter(pk=UUID(reference)).first()
    except ValueError:
        found = rows.filter(name=reference.strip()).first()
    if found is None:
        raise NotFound(f"There is no endpoint '{reference[:80]}'.")
    return found


def synthesize(
    *,
    to: str,
    by: Actor,
    model: str = "",
    endpoint: str = "",
    template_prompts: Sequence[str] = (),
    values: Mapping[str, Sequence[str]] | None = None,
    documents: str = "",
    seeds: str = "",
    system: str = "",
    instructions: str = "",
    output_format: str = "chat",
    generation_config: Mapping[str, Any] | None = None,
) -> DatasetVersion:
    """Let a model write the next version of the data set `to`; `version.job_id` is the job that does it.

    From `template_prompts` with `values` for their placeholders, from the rows of `documents`, or after those of
    `seeds`: exactly one of them. Raises Invalid with fields as in 'generation_config.num_samples'.
    """
    given = {"templates": template_prompts, "documents": documents, "seeds": seeds}
    kinds = [kind for kind, value in given.items() if value]
    if len(kinds) != 1:
        raise invalid("template_prompts", "Give one of template_prompts, documents and seeds.")
    (kind,) = kinds
    config = dict(generation_config or {})
    if unknown := [name for name in config if name not in CONFIG]:
        raise invalid(f"generation_config.{unknown[0]}", f"Unknown field. Known: {', '.join(CONFIG)}.")
    writer = writer_of(model=model, endpoint=endpoint, by=by)
    source = _source(documents or seeds, kind, by=by) if kind != "templates" else None
    params = {
        **config,
        "kind": kind,
        "template_prompts": list(template_prompts),
        "values": {name: list(words) for name, words in (values or {}).items()},
        "system": system,
        "instructions": instructions,
        "output_format": output_format,
        "writer": writer.label,
        "source_name": str(source or ""),
    }
    with _fields("generation_config", {"params": "template_prompts"}):
        return synthesis.launch(
            synthesize_recipe.name,
            params,
            to=to,
            workspace=by.workspace,
            by=by,
            inputs=writer.inputs,
            queue=writer.queue,
            source=source,
        )


def augment(
    *,
    dataset: str,
    by: Actor,
    to: str = "",
    model: str = "",
    endpoint: str = "",
    method: str = "paraphrase",
    through: str = "German",
    part: str = "prompt",
    share: float = 1.0,
    copies: int = 1,
    generation_config: Mapping[str, Any] | None = None,
) -> DatasetVersion:
    """The rows of `dataset` with copies in other words, as the next version of `to` (its own data set where empty).

    Raises Invalid, also for a part of a split that is held out.
    """
    config = dict(generation_config or {})
    known = [name for name in CONFIG if name in augment_recipe.Params.model_fields]
    if unknown := [name for name in config if name not in known]:
        raise invalid(f"generation_config.{unknown[0]}", f"Unknown field. Known: {', '.join(known)}.")
    writer = writer_of(model=model, endpoint=endpoint, by=by)
    source = _source(dataset, "dataset", by=by)
    params = {
        **config,
        **{"manner": method, "through": through, "part": part, "share": share, "copies": copies},
        "writer": writer.label,
        "source_name": str(source),
    }
    with _fields("generation_config", {"manner": "method"}):
        return synthesis.launch(
            augment_recipe.name,
            params,
            to=to or source.dataset.name,
            workspace=by.workspace,
            by=by,
            inputs=writer.inputs,
            queue=writer.queue,
            source=source,
            is_parent=True,
        )


def _source(reference: str, field: str, *, by: Actor) -> DatasetVersion:
    version = found_at(field, lambda: find_data(reference, workspace=by.workspace))
    files_of(version)
    synthesis.require_not_held_out(version, field=field)
    return version


@contextmanager
def _fields(prefix: str, others: Mapping[str, str]) -> Iterator[None]:
    """Name the recipe's parameters as the caller wrote them."""
    try:
        yield
    except Invalid as problem:
        renamed = {}
        for field, messages in problem.errors.items():
            name = others.get(field, f"{prefix}.{field}" if field.partition(".")[0] in CONFIG else field)
            renamed[name] = [message.removeprefix("Value error, ") for message in messages]
        raise Invalid(errors=renamed) if renamed else problem from None
