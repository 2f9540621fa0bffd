"""Which rows: models and versions with everything that showing them needs, in a fixed number of queries."""

from django.db.models import Count, OuterRef, Prefetch, QuerySet, Subquery

from registry.models import Deployment, ModelVersion, RegisteredModel, Stage


def versions_with_all() -> QuerySet[ModelVersion]:
    """Versions with their model, artifact and base."""
    return ModelVersion.objects.select_related("model", "artifact", "base__model", "base__artifact")


def models_with_versions() -> QuerySet[RegisteredModel]:
    """Models with `version_count`, `production_list` and `newest_list` (each empty or one version).

    A version in production brings `wanted_list`: its deployment, if it has one.
    """
    newest = ModelVersion.objects.filter(model=OuterRef("model_id")).order_by("-number").values("pk")[:1]
    briefs = ModelVersion.objects.select_related("model", "base__model")
    wanted = Prefetch("deployments", Deployment.objects.filter(wanted=True), to_attr="wanted_list")
    production = briefs.filter(stage=Stage.PRODUCTION).prefetch_related(wanted)
    return RegisteredModel.objects.annotate(version_count=Count("versions")).prefetch_related(
        Prefetch("versions", production, to_attr="production_list"),
        Prefetch("versions", briefs.filter(pk=Subquery(newest)), to_attr="newest_list"),
    )
