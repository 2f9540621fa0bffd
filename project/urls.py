"""Pages at `/`, the admin at `/admin/`, REST at `/api/v1/`. `/v1/` is answered before Django (project.asgi)."""

from importlib.util import find_spec

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from project.kernel.api.problems import api_not_found
from project.kernel.gallery import gallery
from project.pages import Home

_APPS = ("project.kernel", "project.jobs", "datasets_app", "registry", "training", "abtests")


def _included(module: str, prefix: str) -> list[URLPattern | URLResolver]:
    return [path(prefix, include(module))] if find_spec(module) else []


urlpatterns: list[URLPattern | URLResolver] = [
    path("", Home.as_view(), name="home"),
    path("admin/", admin.site.urls),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="api-docs"),
]
for _app in reversed(_APPS):  # the app that sees most comes first: training adds `create` to the jobs' URL
    urlpatterns += _included(f"{_app}.api.urls", "api/v1/")
    urlpatterns += _included(f"{_app}.urls", "")
urlpatterns += [re_path(r"^api/", api_not_found)]
if settings.DEBUG:
    urlpatterns += [path("gallery/", gallery, name="gallery")]

handler400 = "project.kernel.views.bad_request"
handler403 = "project.kernel.views.permission_denied"
handler404 = "project.kernel.views.page_not_found"
handler500 = "project.kernel.views.server_error"
