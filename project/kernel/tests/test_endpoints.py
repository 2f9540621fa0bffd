"""Endpoints and their tokens: who may write them, what a check says, and that no token ever comes out again."""

import base64
import json
import logging
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from project.kernel import vault
from project.kernel.actions import endpoints
from project.kernel.errors import Problem
from project.kernel.models import AuditEntry, Endpoint, Secret
from project.modeling.tests.chat_server import ChatServer, chat_server
from project.testing import Cast, run_manage

TOKEN = "sk-quite-secret-0123456789"


def make(cast: Cast, server: ChatServer, *, name: str = "lab", token: str = TOKEN, model: str = "tiny") -> Endpoint:
    return endpoints.create(name=name, url=server.url, model=model, token=token, by=cast.actor("operator"))


@pytest.fixture
def allowed(settings: Any) -> None:
    settings.OUTGOING_ALLOW = ["127.0.0.1"]


BODY = {"name": "lab", "url": "https://api.example.com/v1/", "model": "m", "token": TOKEN}


def test_operators_write_editors_use_viewers_look_strangers_see_nothing(cast: Cast) -> None:
    made = cast.api("operator").post("/api/v1/endpoints/", BODY)
    assert made.status_code == 201, made.content
    path = f"/api/v1/endpoints/{made.json()['id']}/"
    assert made.json()["url"] == "https://api.example.com/v1"
    assert made.json()["has_token"] is True
    for name in ("teammate", "viewer"):
        assert cast.api(name).post("/api/v1/endpoints/", {**BODY, "name": "other"}).status_code == 403
        assert cast.api(name).patch(path, {"model": "x"}).status_code == 403
        assert cast.api(name).delete(path).status_code == 403
        assert cast.api(name).get(path).status_code == 200
    assert cast.api("viewer").post(f"{path}check/").status_code == 403
    stranger = cast.api("stranger")
    for answer in (stranger.get(path), stranger.delete(path), stranger.post(f"{path}check/")):
        assert answer.status_code == 404
    assert cast.api("owner").delete(path).status_code == 204
    assert not Secret.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "http://localhost:8000/v1"}, "url"),
        ({"url": "ftp://example.com"}, "url"),
        ({"url": "https://me:pass@example.com/v1"}, "url"),
        ({"name": "a b"}, "name"),
        ({"model": " "}, "model"),
        ({"token": "two words"}, "token"),
        ({"token": "schlüssel"}, "token"),
        ({"tokn": "x"}, "tokn"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(cast: Cast, change: dict[str, str], field: str) -> None:
    answer = cast.api("operator").post("/api/v1/endpoints/", {**BODY, **change})
    assert answer.status_code == 400
    assert field in answer.json()["errors"]
    assert not Endpoint.objects.exists()
    assert not Secret.objects.exists()


def test_a_token_does_not_go_to_another_server_than_it_was_entered_for(cast: Cast) -> None:
    operator = cast.api("operator")
    path = f"/api/v1/endpoints/{operator.post('/api/v1/endpoints/', BODY).json()['id']}/"
    moved = operator.patch(path, {"url": "https://evil.example.com/v1"})
    assert moved.status_code == 400
    assert "token" in moved.json()["errors"]
    assert operator.patch(path, {"url": "https://api.example.com/v2"}).status_code == 200
    assert operator.patch(path, {"url": "https://evil.example.com/v1", "token": "another"}).status_code == 200
    assert endpoints.callable_endpoint(Endpoint.objects.get()).token.get_secret_value() == "another"
    # Not even for somebody who can write to the database.
    Secret.objects.update(origin="https://api.example.com")
    Endpoint.objects.update(url="https://api.example.com/v1")
    with pytest.raises(vault.NoKey):
        endpoints.callable_endpoint(Endpoint.objects.get())


def test_a_token_can_be_taken_away(cast: Cast) -> None:
    operator = cast.api("operator")
    path = f"/api/v1/endpoints/{operator.post('/api/v1/endpoints/', BODY).json()['id']}/"
    assert operator.patch(path, {"token": ""}).json()["has_token"] is False
    assert not Secret.objects.exists()


@pytest.mark.usefixtures("allowed")
def test_check_calls_the_server_and_says_what_is_wrong(cast: Cast) -> None:
    with chat_server(token=TOKEN) as server:
        api = cast.api("teammate")

        def check(**change: str) -> dict[str, object]:
            name = f"e{Endpoint.objects.count()}"
            endpoint = endpoints.create(
                **{"name": name, "url": server.url, "model": "tiny", "token": TOKEN, **change},
                by=cast.actor("operator"),
            )
            answer = api.post(f"/api/v1/endpoints/{endpoint.pk}/check/")
            assert answer.status_code == 200, answer.content
            kept = Endpoint.objects.get(pk=endpoint.pk)
            assert kept.check_ok is answer.json()["ok"]
            return dict(answer.json())

        assert check()["detail"] == "It answers, and has the model."
        wrong = check(token="sk-wrong-0987654321")
        assert wrong["ok"] is False
        assert "refuses the token" in str(wrong["detail"])
        assert "sk-wrong" not in json.dumps(wrong)
        assert "knows no model 'huge'" in str(check(model="huge")["detail"])
        server.lists_models = False
        assert check()["detail"] == "It answers ('yes')."
        assert server.bodies[-1]["max_tokens"] == 1
        server.failures = [(503, {}, "loading the model")]
        assert "loading the model" in str(check()["detail"])
        again = api.post(f"/api/v1/endpoints/{Endpoint.objects.latest('created_at').pk}/check/")
        assert again.status_code == 429
    gone = check()
    assert gone["ok"] is False
    assert "could not be reached" in str(gone["detail"])


def test_a_name_that_leads_inside_is_refused_when_it_is_called(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [place])
    endpoint = endpoints.create(
        name="x", url="http://metadata.example/v1", model="m", token=TOKEN, by=cast.actor("operator")
    )
    found = endpoints.check(endpoint, by=cast.actor("teammate"))
    assert not found.ok
    assert "OUTGOING_ALLOW" in found.detail


@pytest.mark.usefixtures("allowed")
def test_nothing_shows_a_token(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    """Pages, API, admin, audit, logs, errors, the database's own file: it is in none of them."""
    seen: list[bytes] = []
    caplog.set_level(logging.DEBUG)
    cast.owner.is_staff = cast.owner.is_superuser = True
    cast.owner.save()
    with chat_server(token=TOKEN) as server:
        page, api = cast.page("owner"), cast.api("owner")
        fields = {"name": "lab", "url": server.url, "model": "tiny", "token": TOKEN}
        seen.append(page.post("/endpoints/new/", {**fields, "url": "nonsense"}).content)  # the form comes back
        assert page.post("/endpoints/new/", fields).status_code == 302
        endpoint = Endpoint.objects.get()
        seen.append(api.post("/api/v1/endpoints/", {**fields, "name": "second"}).content)
        seen += [api.get(f"/api/v1/{path}").content for path in (f"endpoints/{endpoint.pk}/", "endpoints/", "audit/")]
        seen.append(api.post(f"/api/v1/endpoints/{endpoint.pk}/check/").content)
        server.token = "changed"
        Endpoint.objects.update(checked_at=None)
        seen.append(api.post(f"/api/v1/endpoints/{endpoint.pk}/check/").content)  # the server echoes what it got
        seen += [page.get(path).content for path in ("/endpoints/", f"/endpoints/{endpoint.pk}/")]
        secret = Secret.objects.first()
        assert secret is not None
        for path in ("endpoint/", f"endpoint/{endpoint.pk}/change/", "secret/", f"secret/{secret.pk}/change/"):
            answer = page.get(f"/admin/kernel/{path}")
            assert answer.status_code == 200
            seen.append(answer.content)
    seen.append(repr([Endpoint.objects.values(), Secret.objects.values(), AuditEntry.objects.values()]).encode())
    seen += [caplog.text.encode(), repr(endpoints.callable_endpoint(endpoint)).encode(), "\n".join(os.environ).encode()]
    seen.append(repr(dict(os.environ)).encode())
    with connection.cursor() as cursor:
        cursor.execute("SELECT ciphertext FROM kernel_secret")
        seen.append(repr(cursor.fetchall()).encode())
    for found in seen:
        assert TOKEN.encode() not in found
        assert base64.b64encode(TOKEN.encode())[:-2] not in found
    assert secret.unseal() == TOKEN


def test_the_key_is_a_file_that_one_account_reads(settings: Any, tmp_path: Path) -> None:
    settings.SECRETS_PATH = tmp_path
    sealed = vault.seal("value", context="here")
    assert vault.unseal(sealed, context="here") == "value"
    assert vault.seal("value", context="here").text != sealed.text
    assert (tmp_path / "vault_key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["vault_key"]
    with pytest.raises(vault.NoKey):
        vault.unseal(sealed, context="elsewhere")
    (tmp_path / "vault_key").unlink()
    with pytest.raises(vault.NoKey, match=sealed.key_id):
        vault.unseal(sealed, context="here")


def test_keys_are_rotated(cast: Cast, settings: Any, tmp_path: Path) -> None:
    settings.SECRETS_PATH = tmp_path
    endpoint = endpoints.create(**BODY, by=cast.actor("operator"))
    assert endpoint.secret
    before = endpoint.secret.key_id
    out = StringIO()
    call_command("rotate_vault_key", stdout=out)
    secret = Secret.objects.get()
    assert secret.key_id != before
    assert secret.unseal() == TOKEN
    assert "1 secrets" in out.getvalue()
    assert len((tmp_path / "vault_key").read_text().split()) == 1
    assert (tmp_path / "vault_key").stat().st_mode & 0o777 == 0o600


def test_keys_from_the_environment(settings: Any, tmp_path: Path) -> None:
    settings.SECRETS_PATH = tmp_path
    old, new = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    settings.VAULT_KEY = old
    sealed = vault.seal("value", context="c")
    settings.VAULT_KEY = f"{new},{old}"
    assert vault.unseal(sealed, context="c") == "value"
    assert vault.seal("value", context="c").key_id != sealed.key_id
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.parametrize(("name", "value"), [("VAULT_KEY", "short-and-secret"), ("OUTGOING_ALLOW", "10.0.0.1/8")])
def test_a_bad_setting_stops_the_start_by_name(name: str, value: str) -> None:
    started = run_manage("check", env={name: value})
    assert started.returncode == 1
    assert f"Setting {name}:" in started.stderr
    assert "short-and-secret" not in started.stderr


def test_the_pages_write_change_and_delete(cast: Cast) -> None:
    page = cast.page("operator")
    assert b"No endpoints yet" in page.get("/endpoints/").content
    page.post("/endpoints/new/", BODY)
    endpoint = Endpoint.objects.get()
    taken = page.post("/endpoints/new/", BODY)
    assert taken.status_code == 400
    assert b"There is an endpoint" in taken.content
    assert b"Enter it once more" in taken.content and TOKEN.encode() not in taken.content
    assert taken.content.count(b"another look") == 1
    changed = {"name": "lab2", "url": endpoint.url, "model": "m2", "token": ""}
    assert page.post(f"/endpoints/{endpoint.pk}/", changed).status_code == 302
    endpoint.refresh_from_db()
    assert (endpoint.name, endpoint.model) == ("lab2", "m2")
    assert endpoints.callable_endpoint(endpoint).token.get_secret_value() == TOKEN
    page.post(f"/endpoints/{endpoint.pk}/", {**changed, "remove_token": "on"})
    assert not Secret.objects.exists()
    assert cast.page("teammate").get(f"/endpoints/{endpoint.pk}/").status_code == 403
    assert b"lab2" in cast.page("teammate").get("/endpoints/").content
    page.post(f"/endpoints/{endpoint.pk}/delete/")
    assert not Endpoint.objects.exists()


def test_two_endpoints_never_share_a_secret_by_name(cast: Cast) -> None:
    operator = cast.actor("operator")
    first = endpoints.create(**BODY, by=operator)
    endpoints.change(first, name="moved", by=operator)
    second = endpoints.create(**{**BODY, "token": "other"}, by=operator)
    assert endpoints.callable_endpoint(first).token.get_secret_value() == TOKEN
    assert endpoints.callable_endpoint(second).token.get_secret_value() == "other"
    with pytest.raises(Problem):
        endpoints.create(**BODY, by=operator)
