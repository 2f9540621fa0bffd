from django.urls import path
from rest_framework.routers import SimpleRouter

from training.api import preflights, synthesis, views

router = SimpleRouter()
router.register("preflights", preflights.PreflightViewSet, basename="api-preflight")
router.register("evaluations", views.EvaluationViewSet, basename="api-evaluation")
urlpatterns = [
    path("jobs/", views.JobViewSet.as_view({"get": "list", "post": "create"}), name="job-list"),
    path("jobs/methods/", views.JobViewSet.as_view({"get": "methods"}), name="api-methods"),
    path(
        "jobs/<uuid:pk>/checkpoints/<int:step>/register/",
        views.JobViewSet.as_view({"post": "register_checkpoint"}),
        name="api-checkpoint-register",
    ),
    path(
        "dataset-versions/<str:pk>/preflight/",
        preflights.PreflightViewSet.as_view({"get": "of_data", "post": "of_data"}),
        name="api-dataset-version-preflight",
    ),
    path("synthetic-data/", synthesis.SyntheticDataViewSet.as_view({"post": "create"}), name="api-synthetic-data"),
    path("synthetic-data/augment/", synthesis.SyntheticDataViewSet.as_view({"post": "augment"}), name="api-augment"),
    *router.urls,
]
