from django.urls import path

from datasets_app import views, views_edit, views_prepare, views_rows, views_uploads

urlpatterns = [
    path("datasets/", views.Datasets.as_view(), name="datasets"),
    path("datasets/uploads/", views_uploads.Begin.as_view(), name="upload-begin"),
    path("datasets/uploads/chunk/", views_uploads.Chunk.as_view(), name="upload-chunk"),
    path("datasets/new/", views.NewDataset.as_view(), name="dataset-new"),
    path("datasets/<uuid:pk>/", views.DatasetPage.as_view(), name="dataset"),
    path("datasets/<uuid:pk>/upload/", views.NewVersion.as_view(), name="dataset-upload"),
    path("datasets/<uuid:pk>/delete/", views.DeleteDataset.as_view(), name="dataset-delete"),
    path("dataset-versions/<uuid:pk>/", views_rows.VersionPage.as_view(), name="dataset-version"),
    path("dataset-versions/<uuid:pk>/rows/", views_rows.RowsPage.as_view(), name="dataset-rows"),
    path("dataset-versions/<uuid:pk>/rows/<int:number>/edit/", views_edit.EditRow.as_view(), name="dataset-row-edit"),
    path("dataset-versions/<uuid:pk>/corrections/", views_edit.SaveCorrections.as_view(), name="dataset-corrections"),
    path("dataset-versions/<uuid:pk>/compare/", views_rows.ComparePage.as_view(), name="dataset-compare"),
    path("dataset-versions/<uuid:pk>/export/", views_rows.Export.as_view(), name="dataset-export"),
    path("dataset-versions/<uuid:pk>/lift-block/", views_rows.LiftBlock.as_view(), name="dataset-lift-block"),
    path("dataset-versions/<uuid:pk>/prepare/", views_prepare.PreparePage.as_view(), name="dataset-prepare"),
]
