from rest_framework.routers import SimpleRouter

from datasets_app.api import prepare, views

router = SimpleRouter()
router.register("datasets", views.DatasetViewSet, basename="api-dataset")
router.register("dataset-versions", views.DatasetVersionViewSet, basename="api-dataset-version")
router.register("dataset-steps", prepare.StepsViewSet, basename="api-dataset-step")
urlpatterns = router.urls
