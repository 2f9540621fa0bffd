"""What the page of a fine-tune's or an evaluation's job links to."""

from django.urls import reverse

from datasets_app.models import DatasetVersion
from project.jobs.models import Job
from project.jobs.subjects import Link
from registry.models import ModelVersion
from training.models import Evaluation, FineTune, Preflight


def of_fine_tune(job: Job) -> list[Link]:
    rows = FineTune.objects.filter(job=job).select_related(
        "base_version__model", "data_version__dataset", "validation_version__dataset", "held_out_version__dataset"
    )
    found = rows.first()
    if found is None:
        return []
    links = [_version("Base model", found.base_version), _data("Learns", found.data_version)]
    if found.validation_version:
        links.append(_data("Validated on", found.validation_version))
    if found.held_out_version:
        links.append(_data("Evaluated on", found.held_out_version))
    again = Link("Settings", "Start another one from these", f"{reverse('training-new')}?from={job.pk}")
    return [*links, Link("Becomes", f"a version of {found.model_name}"), again]


def of_evaluation(job: Job) -> list[Link]:
    rows = Evaluation.objects.filter(job=job).select_related("version__model", "data_version__dataset")
    found = rows.first()
    if found is None:
        return []
    return [
        Link("Evaluation", "Scores and answers", found.get_absolute_url()),
        _version("Version", found.version),
        _data("Asks", found.data_version),
    ]


def of_preflight(job: Job) -> list[Link]:
    found = Preflight.objects.filter(job=job).select_related("base_version__model", "data_version__dataset").first()
    if found is None:
        return []
    return [
        Link("Preflight", "What would be learned", found.get_absolute_url()),
        _version("Base model", found.base_version),
        _data("Rows of", found.data_version),
    ]


def _version(label: str, version: ModelVersion) -> Link:
    return Link(label, str(version), reverse("model-version", args=[version.pk]))


def _data(label: str, data: DatasetVersion) -> Link:
    return Link(label, str(data), reverse("dataset-version", args=[data.pk]))
