"""Pages at `/`, the admin at `/admin/`, REST at `/api/v1/`. `/v1/` is answered before Django (project.asgi)."""

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from project.kernel.api.problems import api_not_found
from project.kernel.gallery import gallery
from project.pages import Home

urlpatterns: list[URLPattern | URLResolver] = [
    path("", Home.as_view(), name="home"),
    path("admin/", admin.site.urls),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="api-docs"),
    # The app that sees most comes first: training adds `create` to the jobs' address.
    path("api/v1/", include("abtests.api.urls")),
    path("api/v1/", include("training.api.urls")),
    path("api/v1/", include("registry.api.urls")),
    path("api/v1/", include("datasets_app.api.urls")),
    path("api/v1/", include("project.jobs.api.urls")),
    path("api/v1/", include("project.kernel.api.urls")),
    re_path(r"^api/", api_not_found),
    path("", include("abtests.urls")),
    path("", include("training.urls")),
    path("", include("registry.urls")),
    path("", include("datasets_app.urls")),
    path("", include("project.jobs.urls")),
    path("", include("project.kernel.urls")),
]
if settings.DEBUG:
    urlpatterns += [path("gallery/", gallery, name="gallery")]

handler400 = "project.kernel.views.bad_request"
handler403 = "project.kernel.views.permission_denied"
handler404 = "project.kernel.views.page_not_found"
handler500 = "project.kernel.views.server_error"
