from django.urls import path

from training import views

urlpatterns = [
    path("training/new/", views.Launch.as_view(), name="training-new"),
    path("training/new/file/", views.LaunchFile.as_view(), name="training-file"),
    path(
        "jobs/<uuid:pk>/checkpoints/<int:step>/register/",
        views.RegisterCheckpoint.as_view(),
        name="checkpoint-register",
    ),
    path("evaluations/", views.Evaluations.as_view(), name="evaluations"),
    path("evaluations/new/", views.NewEvaluation.as_view(), name="evaluation-new"),
    path("evaluations/compare/", views.CompareEvaluations.as_view(), name="evaluation-compare"),
    path("evaluations/<uuid:pk>/", views.EvaluationPage.as_view(), name="evaluation"),
]
