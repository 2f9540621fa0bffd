from django.contrib.auth.views import LogoutView
from django.urls import path

from project.kernel import views

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
    path("docs/", views.Docs.as_view(), name="docs"),
    path("docs/<slug:name>/", views.Docs.as_view(), name="doc"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
