"""What people do to make better rows from those they have: look at the effect of steps, and run them."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from datasets_app import previewing
from datasets_app.actions import datasets, endings
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.preparing import Step, StepError, StepErrors, parse, parts_of
from datasets_app.previewing import ROWS, Answer, PreviewFailed
from datasets_app.recipes import prepare as recipe
from project.contracts.runs import UserError
from project.jobs.actions import jobs
from project.jobs.models import Job
from project.kernel import access, artifacts, audit, edges
from project.kernel.access import Actor
from project.kernel.errors import Invalid, Problem, Unavailable, invalid
from project.kernel.models import Artifact, Workspace
from project.kernel.references import check_name

SEEDS = range(2**53)
KEPT_OUT = "kept out of"  # the edge from a version whose rows are not in the result
_PREVIEWS = threading.BoundedSemaphore(2)  # processes of this web process at a time
_QUEUE = 10.0  # seconds to wait for one of them


@dataclass(frozen=True)
class Plan:
    """Checked steps over a ready version. `others` are the versions of other data sets they read, by 'name:3'."""

    source: DatasetVersion
    steps: Sequence[Step]
    seed: int
    others: Mapping[str, DatasetVersion]

    @property
    def parts(self) -> list[str]:
        return parts_of(self.steps)

    def as_json(self) -> list[dict[str, Any]]:
        return [step.as_json() for step in self.steps]


def plan(source: DatasetVersion, steps: Any, *, by: Actor, seed: int = 0) -> Plan:
    """Check everything that can be checked without a row. Raises Invalid with 'steps.1.condition', NotReady."""
    access.require(by, "dataset.create", source)
    datasets.require_ready(source)
    if isinstance(seed, bool) or seed not in SEEDS:
        raise invalid("seed", "Use a whole number from 0.")
    try:
        checked = parse(steps)
    except UserError as error:
        raise _invalid(error) from None
    others: dict[str, DatasetVersion] = {}
    exact = [_with_exact_references(step, source.workspace, others) for step in checked]
    return Plan(source, exact, seed, others)


def _with_exact_references(step: Step, workspace: Workspace, others: dict[str, DatasetVersion]) -> Step:
    names: dict[str, str] = {}
    for reference in step.references():
        try:
            version = datasets.resolve(workspace, reference)
        except Problem as problem:
            raise _invalid(StepError(step.number, step.type, problem.detail, field="data")) from None
        names[reference] = str(version)
        others[str(version)] = version
    if len(set(names.values())) < len(names):
        raise _invalid(StepError(step.number, step.type, "Two of these are the same version.", field="data"))
    return step.with_references(names)


def _invalid(error: UserError) -> Invalid:
    if isinstance(error, StepErrors):
        return Invalid(errors=error.by_field())
    return Invalid(errors={error.field or "steps": [f"{error} {error.hint}".strip()]})


# --- looking


def preview(
    source: DatasetVersion, steps: Any, *, by: Actor, seed: int = 0, start: int = 0, rows: int = ROWS
) -> Answer:
    """What the steps do to some rows, from `start` (counted from 0). Raises Invalid, NotReady, Unavailable."""
    found = _preview(plan(source, steps, by=by, seed=seed), start=start, rows=rows)
    if found.error:
        raise Invalid(errors={found.field or "steps": [f"{found.error} {found.hint}".strip()]})
    return found


def _preview(planned: Plan, *, start: int = 0, rows: int = ROWS) -> Answer:
    request = previewing.Request(
        folder=_folder(planned.source),
        steps=planned.as_json(),
        start=start,
        rows=rows,
        seed=planned.seed,
        others={name: _folder(version) for name, version in planned.others.items()},
    )
    with _turn():
        try:
            return previewing.preview_apart(request)
        except PreviewFailed as error:
            raise Unavailable(str(error)) from None


@contextmanager
def _turn() -> Iterator[None]:
    if not _PREVIEWS.acquire(timeout=_QUEUE):
        raise Unavailable("Other previews are being made. Try again in a moment.")
    try:
        yield
    finally:
        _PREVIEWS.release()


def _folder(version: DatasetVersion) -> str:
    assert version.artifact  # noqa: S101  (a ready version has one)
    return str(artifacts.local_path(version.artifact))


# --- running


def prepare(source: DatasetVersion, steps: Any, *, by: Actor, to: str = "", seed: int = 0) -> list[DatasetVersion]:
    """Run the steps: the next version of the data set `to` (of its own where that is empty, made where it is new).

    Steps that split give one version per part, of `<to>-<part>`. Each is made by a job of its own (`version.job_id`).
    The steps are tried on the first rows before anything is written. Raises Invalid with the field, NotReady.
    """
    planned = plan(source, steps, by=by, seed=seed)
    name = check_name(to, field="to") if to else source.dataset.name
    names = {part: check_name(f"{name}-{part}", field="to") for part in planned.parts} or {"": name}
    _try(planned)
    with transaction.atomic():
        return [_launch(planned, dataset_name, part, by=by) for part, dataset_name in names.items()]


def _try(planned: Plan) -> None:
    """What fails on the first rows is said now, not by a job."""
    try:
        found = _preview(planned)
    except Unavailable:  # too slow for an answer now: the job has the time
        return
    if found.error:
        raise Invalid(errors={found.field or "steps": [f"{found.error} {found.hint}".strip()]})


def _launch(planned: Plan, name: str, part: str, *, by: Actor) -> DatasetVersion:
    source = planned.source
    dataset = source.dataset if name == source.dataset.name else named(source.workspace, name, by=by)
    version = DatasetVersion.objects.create(
        workspace=source.workspace,
        created_by=by.label,
        dataset=dataset,
        number=dataset.next_number(),
        operation=recipe.name,
        parent=source,
        steps=planned.as_json(),
        part=part,
    )
    others = {f"other-{number}": other for number, other in enumerate(planned.others.values(), 1)}
    inputs = {"source": source.artifact, **{name: other.artifact for name, other in others.items()}}
    params = recipe.Params(
        steps=planned.as_json(),
        seed=planned.seed,
        part=part,
        inputs={str(other): name for name, other in others.items()},
        source_name=str(source)[:255],
        max_rows=settings.MAX_DATASET_ROWS,
    )
    job = jobs.launch(
        recipe.name,
        params,
        workspace=source.workspace,
        by=by,
        title=f"Prepare {version} from {source}",
        inputs={name: artifact for name, artifact in inputs.items() if artifact is not None},
        subject=version,
        verb="dataset.create",
    )
    version.job_id = job.pk
    version.save(update_fields=["job_id"])
    Dataset.objects.filter(pk=dataset.pk).update(updated_at=timezone.now())
    audit.record("dataset.version_added", version, by=by, source=str(source), steps=len(planned.steps))
    mixed = {name for step in planned.steps if step.takes_rows() for name in step.references()}
    for name, other in planned.others.items():
        relation = "mixed into" if name in mixed else KEPT_OUT
        edges.link(other, relation, version, workspace=version.workspace)
    edges.link(source, "prepared", version, workspace=version.workspace)
    endings.tell(version)
    return version


def named(workspace: Workspace, name: str, *, by: Actor) -> Dataset:
    """The data set of this name, made where there is none."""
    found = Dataset.objects.filter(workspace=workspace, name=name).first()
    if found is not None:
        return found
    try:
        with transaction.atomic():
            made = Dataset.objects.create(workspace=workspace, created_by=by.label, name=name)
            audit.record("dataset.created", made, by=by)
            return made
    except IntegrityError:  # somebody made it at this moment
        return Dataset.objects.get(workspace=workspace, name=name)


# --- how the job ends


def prepared(job: Job, result: dict[str, Any], artifact: Artifact | None) -> dict[str, Any]:
    """The rows are stored: the version is ready. Runs in the transaction that writes *succeeded*."""
    return endings.ready(job, result, artifact, relation="prepared")


def not_prepared(job: Job) -> None:
    """The job failed or was cancelled: say why."""
    endings.failed(job, otherwise="The preparation was cancelled.")


def tried_again(old: Job, new: Job) -> None:
    """A person's retry. Raises Conflict when there is nothing left to try."""
    endings.again(old, new, gone="Rows that it was made from have been deleted. Prepare a new version.")
