from rest_framework.routers import SimpleRouter

from project.kernel.api import views

router = SimpleRouter()
router.register("tokens", views.TokenViewSet, basename="token")
router.register("workspaces", views.WorkspaceViewSetOfMine, basename="workspace")
router.register("members", views.MemberViewSet, basename="member")
router.register("endpoints", views.EndpointViewSet, basename="api-endpoint")
router.register("audit", views.AuditViewSet, basename="audit")
urlpatterns = router.urls
