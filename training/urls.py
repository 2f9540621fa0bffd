from django.urls import path

from training import views, views_preflight, views_writing

urlpatterns = [
    path("training/methods/", views.Methods.as_view(), name="training-methods"),
    path("training/new/", views.Launch.as_view(), name="training-new"),
    path("training/new/file/", views.LaunchFile.as_view(), name="training-file"),
    path(
        "jobs/<uuid:pk>/checkpoints/<int:step>/register/",
        views.RegisterCheckpoint.as_view(),
        name="checkpoint-register",
    ),
    path("preflights/new/", views_preflight.NewPreflight.as_view(), name="preflight-new"),
    path("preflights/<uuid:pk>/", views_preflight.PreflightPage.as_view(), name="preflight"),
    path("datasets/write/", views_writing.WriteData.as_view(), name="dataset-write"),
    path("evaluations/", views.Evaluations.as_view(), name="evaluations"),
    path("evaluations/new/", views.NewEvaluation.as_view(), name="evaluation-new"),
    path("evaluations/compare/", views.CompareEvaluations.as_view(), name="evaluation-compare"),
    path("evaluations/<uuid:pk>/", views.EvaluationPage.as_view(), name="evaluation"),
]
