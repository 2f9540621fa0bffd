from django.urls import path

from registry import views

urlpatterns = [
    path("models/", views.Models.as_view(), name="models"),
    path("models/import/", views.ImportModel.as_view(), name="model-import"),
    path("models/compare/", views.Compare.as_view(), name="compare"),
    path("models/<uuid:pk>/", views.Model.as_view(), name="model"),
    path("models/<uuid:pk>/delete/", views.DeleteModel.as_view(), name="model-delete"),
    path("model-versions/<uuid:pk>/", views.Version.as_view(), name="model-version"),
    path("model-versions/<uuid:pk>/<slug:verb>/", views.StepVersion.as_view(), name="model-version-step"),
    path("deployments/<uuid:pk>/stop/", views.StopDeployment.as_view(), name="deployment-stop"),
]
