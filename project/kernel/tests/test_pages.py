"""Signing in, workspaces, members and tokens, as a person meets them."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from project.kernel.actions import people
from project.kernel.models import ApiToken, Membership, SignInLink, User, Workspace
from project.testing import Cast


def test_every_page_asks_who_you_are(client: Client, db: None) -> None:
    for path in ("/tokens/", "/members/", "/workspaces/new/"):
        response = client.get(path)
        assert response.status_code == 302
        assert response["Location"].startswith("/sign-in/")


def test_signing_in_with_a_password_and_out_again(client: Client, db: None) -> None:
    User.objects.create_user("ada", password="correct horse battery")
    assert client.post("/sign-in/", {"username": "ada", "password": "wrong"}).status_code == 200
    assert "_auth_user_id" not in client.session
    assert client.post("/sign-in/", {"username": "ada", "password": "correct horse battery"}).status_code == 302
    assert "_auth_user_id" in client.session
    client.post("/sign-out/")
    assert "_auth_user_id" not in client.session


def test_a_link_signs_in_once_and_only_by_a_click(client: Client, cast: Cast) -> None:
    secret = people.sign_in_link(cast.viewer)
    assert client.get(f"/sign-in/{secret}/").status_code == 200  # a mail scanner opens links
    assert "_auth_user_id" not in client.session
    assert client.post(f"/sign-in/{secret}/").status_code == 302
    assert Client().post(f"/sign-in/{secret}/").status_code == 404


def test_an_old_link_is_refused(client: Client, cast: Cast) -> None:
    secret = people.sign_in_link(cast.viewer)
    SignInLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.post(f"/sign-in/{secret}/").status_code == 404


def test_a_switched_off_account_cannot_come_in_by_link(client: Client, cast: Cast) -> None:
    secret = people.sign_in_link(cast.viewer)
    User.objects.filter(pk=cast.viewer.pk).update(is_active=False)
    assert client.post(f"/sign-in/{secret}/").status_code == 404


def test_switching_only_to_a_workspace_of_ones_own(cast: Cast) -> None:
    page = cast.page("owner")
    assert page.post("/workspaces/switch/", {"workspace": str(cast.elsewhere.pk)}).status_code == 404
    Membership.objects.create(workspace=cast.elsewhere, user=cast.owner, role="viewer")
    page.post("/workspaces/switch/", {"workspace": str(cast.elsewhere.pk), "next": "https://example.com/"})
    assert b"Elsewhere" in page.get("/members/").content


def test_a_new_workspace_belongs_to_its_maker_and_is_entered(cast: Cast) -> None:
    page = cast.page("viewer")
    assert page.post("/workspaces/new/", {"name": "Acme"}).status_code == 302
    made = Workspace.objects.exclude(pk=cast.workspace.pk).get(name="Acme")
    assert made.slug == "acme-2"
    assert Membership.objects.get(workspace=made).role == "owner"
    assert page.session["workspace"] == str(made.pk)


def test_a_token_is_shown_once(cast: Cast) -> None:
    page = cast.page("teammate")
    shown = page.post("/tokens/", {"name": "bot", "role": "viewer", "scopes": ["infer"]})
    secret = shown.context["secret"]
    assert secret in shown.content.decode()
    assert shown["Cache-Control"] == "no-store"
    assert secret not in page.get("/tokens/").content.decode()


def test_people_see_their_own_tokens_and_owners_all(cast: Cast) -> None:
    cast.page("teammate").post("/tokens/", {"name": "the-bot-of-a-teammate", "role": "viewer"})
    assert b"the-bot-of-a-teammate" in cast.page("owner").get("/tokens/").content
    assert b"the-bot-of-a-teammate" not in cast.page("viewer").get("/tokens/").content


@pytest.mark.parametrize(
    ("field", "value"), [("name", ""), ("role", "emperor"), ("scopes", ["all"]), ("expires_in_days", "-1")]
)
def test_a_bad_token_form_says_which_field(cast: Cast, field: str, value: object) -> None:
    body = {"name": "bot", "role": "viewer", field: value}
    response = cast.page("owner").post("/tokens/", body)
    assert response.status_code == 400
    assert field in response.context["form"].errors
    assert ApiToken.objects.count() == 0


def test_revoking_from_the_page(cast: Cast) -> None:
    cast.page("teammate").post("/tokens/", {"name": "bot", "role": "viewer"})
    token = ApiToken.objects.get(name="bot")
    assert cast.page("stranger").post(f"/tokens/{token.pk}/revoke/").status_code == 404
    cast.page("viewer").post(f"/tokens/{token.pk}/revoke/")
    assert ApiToken.objects.get(pk=token.pk).is_active()
    cast.page("owner").post(f"/tokens/{token.pk}/revoke/")
    assert not ApiToken.objects.get(pk=token.pk).is_active()


def test_an_owner_invites_somebody_new_and_hands_over_the_link(cast: Cast) -> None:
    page = cast.page("owner")
    response = page.post("/members/", {"who": "grace@example.com", "role": "editor"}, follow=True)
    link = response.context["link"]
    assert link in response.content.decode()
    newcomer = Client()
    assert newcomer.post(link.removeprefix("http://testserver")).status_code == 302
    assert b"Acme" in newcomer.get("/tokens/").content


def test_only_owners_change_members(cast: Cast) -> None:
    member = Membership.objects.get(user=cast.viewer)
    cast.page("operator").post(f"/members/{member.pk}/", {"role": "owner"})
    assert Membership.objects.get(pk=member.pk).role == "viewer"
    assert cast.page("operator").post("/members/", {"who": "stranger", "role": "viewer"}).status_code == 400
    cast.page("owner").post(f"/members/{member.pk}/", {"role": "editor"})
    assert Membership.objects.get(pk=member.pk).role == "editor"
    cast.page("owner").post(f"/members/{member.pk}/", {"remove": "1"})
    assert not Membership.objects.filter(pk=member.pk).exists()


def test_the_documentation_is_public_and_every_link_in_it_leads_somewhere(client: Client, db: None) -> None:
    import re

    index = client.get("/docs/")
    assert index.status_code == 200
    for name in set(re.findall(r'href="/docs/([a-z0-9-]+)/?["#]', index.content.decode())):
        page = client.get(f"/docs/{name}/")
        assert page.status_code == 200, name
        for other in set(re.findall(r'href="/docs/([a-z0-9-]+)/?["#]', page.content.decode())):
            assert client.get(f"/docs/{other}/").status_code == 200, f"{name} links to {other}"


@pytest.mark.parametrize("bad", ["..%2Fsettings", "nothing", "Index"])
def test_there_is_no_way_out_of_the_documentation(client: Client, db: None, bad: str) -> None:
    assert client.get(f"/docs/{bad}/").status_code == 404


def test_health_needs_no_token_and_tells_nothing(client: Client, db: None) -> None:
    for path in ("/healthz", "/readyz"):
        response = client.get(path)
        assert (response.status_code, response.content) == (200, b"ok\n")


def test_pages_forbid_foreign_scripts(client: Client, db: None) -> None:
    policy = client.get("/sign-in/")["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe-eval" not in policy


def test_a_missing_page_is_a_page(cast: Cast) -> None:
    response = cast.page("owner").get("/nothing/")
    assert response.status_code == 404
    assert b"</html>" in response.content


def test_the_admin_is_for_staff(cast: Cast) -> None:
    assert cast.page("owner").get("/admin/").status_code == 302
    User.objects.filter(pk=cast.owner.pk).update(is_staff=True, is_superuser=True)
    page = cast.page("owner")
    for path in ("user", "workspace", "apitoken", "auditentry", "artifact", "edge"):
        assert page.get(f"/admin/kernel/{path}/").status_code == 200, path
