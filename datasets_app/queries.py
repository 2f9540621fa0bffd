"""Which rows: data sets and versions with everything that showing them needs, in a fixed number of queries."""

from django.db.models import Count, OuterRef, Prefetch, QuerySet, Subquery

from datasets_app.models import Dataset, DatasetVersion, VersionState


def versions_with_all() -> QuerySet[DatasetVersion]:
    """Versions with their data set and artifact, without their (long) report."""
    return DatasetVersion.objects.select_related("dataset", "artifact").defer("report")


def datasets_with_versions() -> QuerySet[Dataset]:
    """Data sets with `version_count`, `ready_list` (the newest ready version) and `newest_list` (the newest)."""
    mine = DatasetVersion.objects.filter(dataset=OuterRef("dataset_id")).order_by("-number").values("pk")
    briefs = versions_with_all()
    ready = mine.filter(state=VersionState.READY)[:1]
    return Dataset.objects.annotate(version_count=Count("versions")).prefetch_related(
        Prefetch("versions", briefs.filter(pk=Subquery(ready)), to_attr="ready_list"),
        Prefetch("versions", briefs.filter(pk=Subquery(mine[:1])), to_attr="newest_list"),
    )
