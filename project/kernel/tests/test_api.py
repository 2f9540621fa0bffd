"""The API's promises that hold for every resource: tokens, problems, strictness, idempotency, lists."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone
from rest_framework.test import APIClient

from project.kernel.api.problems import _flatten
from project.kernel.models import ApiToken, AuditEntry
from project.testing import Cast


def test_no_token_is_a_401_problem(client: APIClient, db: None) -> None:
    response = client.get("/api/v1/tokens/")
    assert response.status_code == 401
    assert response["Content-Type"] == "application/problem+json"
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_a_token_made_by_api_works_and_a_revoked_one_stops(cast: Cast) -> None:
    owner = cast.api("owner")
    made = owner.post("/api/v1/tokens/", {"name": "bot", "role": "viewer"}).json()
    bot = APIClient()
    bot.credentials(HTTP_AUTHORIZATION=f"Bearer {made['secret']}")
    assert bot.get("/api/v1/workspaces/").json()["results"][0]["slug"] == "acme"
    assert owner.delete(f"/api/v1/tokens/{made['id']}/").status_code == 204
    refused = bot.get("/api/v1/workspaces/")
    assert refused.status_code == 401
    assert "revoked" in refused.json()["detail"]


def test_an_expired_token_says_so(cast: Cast) -> None:
    api = cast.api("owner")
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert "expired" in api.get("/api/v1/tokens/").json()["detail"]


def test_unknown_fields_are_refused_with_the_nearest_name(cast: Cast) -> None:
    response = cast.api("owner").post("/api/v1/tokens/", {"name": "bot", "rol": "viewer"})
    assert response.status_code == 400
    assert response.json()["errors"]["rol"] == ["Unknown field. Did you mean 'role'?"]


def test_a_strangers_object_is_not_found(cast: Cast) -> None:
    token = cast.api("owner").post("/api/v1/tokens/", {"name": "bot"}).json()
    assert cast.api("stranger").get(f"/api/v1/tokens/{token['id']}/").status_code == 404
    assert cast.api("stranger").delete(f"/api/v1/tokens/{token['id']}/").status_code == 404


@pytest.mark.parametrize("bad", ["not-an-id", "00000000-0000-0000-0000-000000000000", "%00", "1" * 300])
def test_a_malformed_id_is_not_found(cast: Cast, bad: str) -> None:
    response = cast.api("owner").get(f"/api/v1/tokens/{bad}/")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"


def test_an_unknown_path_is_a_problem_too(cast: Cast) -> None:
    response = cast.api("owner").get("/api/v1/nothing/")
    assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")


def test_an_idempotency_key_creates_once(cast: Cast) -> None:
    owner = cast.api("owner")
    first = owner.post("/api/v1/tokens/", {"name": "bot"}, HTTP_IDEMPOTENCY_KEY="k1")
    again = owner.post("/api/v1/tokens/", {"name": "bot"}, HTTP_IDEMPOTENCY_KEY="k1")
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]
    assert again["Idempotent-Replayed"] == "true"
    assert ApiToken.objects.filter(name="bot").count() == 1


def test_a_failed_request_may_be_repeated_with_its_key(cast: Cast) -> None:
    owner = cast.api("owner")
    assert owner.post("/api/v1/tokens/", {"name": ""}, HTTP_IDEMPOTENCY_KEY="k2").status_code == 400
    assert owner.post("/api/v1/tokens/", {"name": "bot"}, HTTP_IDEMPOTENCY_KEY="k2").status_code == 201


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=100000", "offset=-1", "ordering=secret_hash"])
def test_bad_list_parameters_name_themselves(cast: Cast, query: str) -> None:
    response = cast.api("owner").get(f"/api/v1/tokens/?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["errors"]


def test_broken_json_is_a_400(cast: Cast) -> None:
    response = cast.api("owner").post("/api/v1/tokens/", data="{", content_type="application/json")
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"


def test_a_workspace_keeps_an_owner(cast: Cast) -> None:
    owner = cast.api("owner")
    members = owner.get("/api/v1/members/").json()["results"]
    mine = next(member for member in members if member["user"] == "owner")
    assert owner.delete(f"/api/v1/members/{mine['id']}/").status_code == 409
    assert owner.patch(f"/api/v1/members/{mine['id']}/", {"role": "viewer"}).status_code == 409


def test_removing_a_member_ends_their_tokens(cast: Cast) -> None:
    teammate = cast.api("teammate")
    owner = cast.api("owner")
    members = owner.get("/api/v1/members/").json()["results"]
    member = next(row for row in members if row["user"] == "teammate")
    assert owner.delete(f"/api/v1/members/{member['id']}/").status_code == 204
    assert teammate.get("/api/v1/workspaces/").status_code == 401


def test_viewers_may_not_read_the_audit_and_operators_may(cast: Cast) -> None:
    cast.api("owner")
    assert cast.api("viewer").get("/api/v1/audit/").status_code == 403
    entries = cast.api("operator").get("/api/v1/audit/?verb=token.created").json()
    assert entries["count"] == AuditEntry.objects.filter(verb="token.created").count()


def test_nested_errors_are_named_by_their_field() -> None:
    detail = {
        "name": ["a"],
        "arms": {"non_field_errors": ["b"]},
        "rows": [{}, {"text": ["c"]}],
        "non_field_errors": ["d"],
    }
    assert _flatten(detail) == {"name": ["a"], "arms": ["b"], "rows[1].text": ["c"], "non_field_errors": ["d"]}


def test_the_schema_needs_no_guess() -> None:
    """Every warning is something a client generator would get wrong: a field without a type, a name made up."""
    out = StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    assert "scheme: bearer" in out.getvalue()


def test_the_schema_describes_every_path(cast: Cast) -> None:
    response = cast.api("owner").get("/api/schema/")
    assert response.status_code == 200
    assert b"/api/v1/tokens/" in response.content
