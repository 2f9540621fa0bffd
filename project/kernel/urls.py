from django.contrib.auth.views import LogoutView
from django.urls import path

from project.kernel import views, views_endpoints

urlpatterns = [
    path("sign-in/", views.SignIn.as_view(), name="sign-in"),
    path("sign-in/<str:secret>/", views.SignInByLink.as_view(), name="sign-in-link"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("workspaces/switch/", views.SwitchWorkspace.as_view(), name="switch-workspace"),
    path("workspaces/new/", views.NewWorkspace.as_view(), name="workspace-new"),
    path("members/", views.Members.as_view(), name="members"),
    path("members/<int:pk>/", views.ChangeMember.as_view(), name="member"),
    path("tokens/", views.Tokens.as_view(), name="tokens"),
    path("tokens/<uuid:pk>/revoke/", views.RevokeToken.as_view(), name="token-revoke"),
    path("endpoints/", views_endpoints.Endpoints.as_view(), name="endpoints"),
    path("endpoints/new/", views_endpoints.NewEndpoint.as_view(), name="endpoint-new"),
    path("endpoints/<uuid:pk>/", views_endpoints.EditEndpoint.as_view(), name="endpoint"),
    path("endpoints/<uuid:pk>/check/", views_endpoints.CheckEndpoint.as_view(), name="endpoint-check"),
    path("endpoints/<uuid:pk>/delete/", views_endpoints.DeleteEndpoint.as_view(), name="endpoint-delete"),
    path("docs/", views.Docs.as_view(), name="docs"),
    path("docs/<slug:name>/", views.Docs.as_view(), name="doc"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
