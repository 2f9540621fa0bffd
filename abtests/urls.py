from django.urls import path

from abtests.views import ab_tests, answers, playground

urlpatterns = [
    path("playground/", playground.Playground.as_view(), name="playground"),
    path("feedback/", answers.Answers.as_view(), name="feedback"),
    path("feedback/numbers/", answers.FeedbackNumbers.as_view(), name="feedback-numbers"),
    path("answers/<str:pk>/", answers.AnswerPage.as_view(), name="answer"),
    path("abtests/", ab_tests.ABTests.as_view(), name="abtests"),
    path("abtests/new/", ab_tests.NewABTest.as_view(), name="abtest-new"),
    path("abtests/<uuid:pk>/", ab_tests.ABTestPage.as_view(), name="abtest"),
    path("abtests/<uuid:pk>/<slug:verb>/", ab_tests.StepABTest.as_view(), name="abtest-step"),
]
