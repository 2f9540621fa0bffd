from rest_framework.routers import SimpleRouter

from registry.api import views

router = SimpleRouter()
router.register("models", views.ModelViewSet, basename="api-model")
router.register("model-versions", views.VersionViewSet, basename="api-model-version")
router.register("deployments", views.DeploymentViewSet, basename="api-deployment")
urlpatterns = router.urls
