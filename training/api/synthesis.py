"""`/api/v1/synthetic-data/`: rows that a model writes, as a job."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app.models import DatasetVersion
from project.kernel.api.base import WorkspaceViewSet
from training.actions import synthesis
from training.api import serializers as shapes


class SyntheticDataViewSet(WorkspaceViewSet):
    """The answer names the version, which becomes ready when its `job` has ended."""

    queryset = DatasetVersion.objects.select_related("dataset")
    serializer_class = shapes.WrittenVersion

    @extend_schema(request=shapes.NewSyntheticData, responses={201: shapes.WrittenVersion})
    def create(self, request: Request) -> Response:
        """Let a model write rows: from templates, about documents, or after examples."""
        return self.reply(synthesis.synthesize(**self.read_body(shapes.NewSyntheticData), by=self.actor), created=True)

    @extend_schema(request=shapes.NewAugmentation, responses={201: shapes.WrittenVersion})
    def augment(self, request: Request) -> Response:
        """Let a model put rows in other words: the rows, and their copies marked as synthetic."""
        return self.reply(synthesis.augment(**self.read_body(shapes.NewAugmentation), by=self.actor), created=True)
