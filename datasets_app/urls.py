from django.urls import path

from datasets_app import views

urlpatterns = [
    path("datasets/", views.Datasets.as_view(), name="datasets"),
    path("datasets/new/", views.NewDataset.as_view(), name="dataset-new"),
    path("datasets/<uuid:pk>/", views.DatasetPage.as_view(), name="dataset"),
    path("datasets/<uuid:pk>/upload/", views.NewVersion.as_view(), name="dataset-upload"),
    path("datasets/<uuid:pk>/delete/", views.DeleteDataset.as_view(), name="dataset-delete"),
    path("dataset-versions/<uuid:pk>/", views.VersionPage.as_view(), name="dataset-version"),
]
