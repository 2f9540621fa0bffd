from django.urls import path
from rest_framework.routers import SimpleRouter

from training.api import views

router = SimpleRouter()
router.register("evaluations", views.EvaluationViewSet, basename="api-evaluation")
urlpatterns = [
    path("jobs/", views.JobViewSet.as_view({"get": "list", "post": "create"}), name="job-list"),
    path(
        "jobs/<uuid:pk>/checkpoints/<int:step>/register/",
        views.JobViewSet.as_view({"post": "register_checkpoint"}),
        name="api-checkpoint-register",
    ),
    *router.urls,
]
