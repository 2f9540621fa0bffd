from rest_framework.routers import SimpleRouter

from abtests.api import views

router = SimpleRouter()
router.register("answers", views.AnswerViewSet, basename="answer")
router.register("feedback", views.FeedbackViewSet, basename="feedback")
router.register("ab-tests", views.ABTestViewSet, basename="ab-test")
urlpatterns = router.urls
