from django.urls import path

from project.jobs import views

urlpatterns = [
    path("jobs/", views.Jobs.as_view(), name="jobs"),
    path("jobs/<uuid:pk>/", views.JobPage.as_view(), name="job"),
    path("jobs/<uuid:pk>/log/", views.JobLog.as_view(), name="job-log"),
    path("jobs/<uuid:pk>/<slug:verb>/", views.JobVerb.as_view(), name="job-verb"),
]
