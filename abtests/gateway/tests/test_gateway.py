"""The official client through the gateway to a real engine: answers, walls, errors and rows."""

import concurrent.futures
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone

from abtests.gateway.app import Gateway
from abtests.gateway.tests.conftest import Served, running
from abtests.identity import keyed_hash
from abtests.models import ABTest, Answer
from project.kernel.models import ApiToken
from registry.models import Deployment, DeploymentState, Engine, EngineState, RegisteredModel, Stage

pytestmark = pytest.mark.django_db(transaction=True)
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "What did it find? 世界"}], "temperature": 0}
Eventually = Callable[[Callable[[], bool]], None]


def test_an_answer_in_one_piece_and_its_row(served: Served) -> None:
    answer = served.client().chat.completions.create(model="intents", **ASK, max_tokens=10, user="ada")
    assert answer.id.startswith("chatcmpl-") and answer.model == "intents"
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 10
    row = Answer.objects.get(pk=answer.id)
    assert row.text == answer.choices[0].message.content
    assert (row.workspace, row.version, row.model.name) == (served.workspace, served.one, "intents")
    assert (row.prompt_tokens, row.completion_tokens) == (answer.usage.prompt_tokens, 10)
    assert row.messages == ASK["messages"] and row.params["max_tokens"] == 10 and row.token_label == "token owner's"
    assert row.unit_hash == keyed_hash(served.workspace.hash_key, "user", "ada")
    assert (row.test_id, row.error, row.finish_reason) == (None, "", "length") and row.latency_ms > 0


def test_a_stream_is_the_same_text_and_its_row_is_there_when_it_ends(served: Served) -> None:
    client = served.client()
    whole = client.chat.completions.create(model="intents", **ASK, max_tokens=30)
    chunks = list(client.chat.completions.create(model="intents", **ASK, max_tokens=30, stream=True))
    row = Answer.objects.get(pk=chunks[0].id)  # at once: feedback may come now
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content == row.text
    assert {chunk.id for chunk in chunks} == {row.pk} and {chunk.model for chunk in chunks} == {"intents"}
    assert all(chunk.usage is None for chunk in chunks)  # it was not asked for, but the row has it
    assert (row.completion_tokens, row.prompt_tokens) == (30, whole.usage.prompt_tokens)
    assert row.first_token_ms is not None and 0 < row.first_token_ms <= row.latency_ms
    usage = {"include_usage": True}
    asked = list(client.chat.completions.create(model="tiny", **ASK, max_tokens=3, stream=True, stream_options=usage))
    assert asked[-1].usage.completion_tokens == 3 and not asked[-1].choices


def test_every_way_to_name_a_model(served: Served) -> None:
    client = served.client()

    def ask(model: str) -> tuple[str, str]:
        answer = client.chat.completions.create(model=model, **ASK, max_tokens=8)
        assert answer.model == model
        return answer.choices[0].message.content, Answer.objects.get(pk=answer.id).version_id

    assert ask("intents") == ask("intents:1") == ask("intents@production") == ask(str(served.one.pk))
    assert ask("intents:2") == ask("intents@staging") == ask(str(served.two.pk))
    assert ask("intents")[1] == served.one.pk and ask("intents:2")[1] == served.two.pk
    assert len({ask(model)[0] for model in ("tiny", "intents:1", "intents:2")}) == 3


def test_models_are_listed_and_shown(served: Served) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["intents", "tiny"]
    shown = client.models.retrieve("intents")
    assert (shown.id, shown.owned_by, shown.object) == ("intents", "acme", "model")
    assert client.models.retrieve("intents:2").id == "intents:2"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("intent", "Did you mean 'intents'?"),
        ("intents:9", "no version 9"),
        ("intents@archived", "no version in stage 'archived'"),
        ("no such thing!", "is not a reference"),
        ("01900000-0000-7000-8000-00000000dead", "no model or version"),
    ],
)
def test_an_unknown_model_is_a_404_with_advice(served: Served, model: str, words: str) -> None:
    with pytest.raises(openai.NotFoundError, match=words) as refused:
        served.client().chat.completions.create(model=model, **ASK)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_model_of_another_workspace_does_not_exist(served: Served) -> None:
    stranger = served.client(served.token("stranger"))
    assert list(stranger.models.list()) == []
    for reference in ("intents", "intents:1", str(served.one.pk)):
        with pytest.raises(openai.NotFoundError) as refused:
            stranger.chat.completions.create(model=reference, **ASK)
        assert "Did you mean" not in str(refused.value)
    assert not Answer.objects.exists()


def test_tokens_work_at_once_and_stop_soon(served: Served) -> None:
    served.client().models.list()  # the gateway has its copy now
    secret = served.token()
    client = served.client(secret)
    client.models.list()
    ApiToken.objects.filter(revoked_at=None).update(revoked_at=timezone.now())
    time.sleep(2.1)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "invalid_api_key"
    for wrong in ("tl-nobody", "x" * 5000):
        with pytest.raises(openai.AuthenticationError):
            served.client(wrong).models.list()


def test_an_expired_token_stops_by_itself(served: Served) -> None:
    secret = served.token()
    ApiToken.objects.update(expires_at=timezone.now() + timedelta(seconds=1.5))
    client = served.client(secret)
    client.models.list()
    time.sleep(1.6)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_scopes_narrow_what_a_token_may_do(served: Served) -> None:
    reader = served.client(served.token(scopes=["read"]))
    assert list(reader.models.list())
    with pytest.raises(openai.PermissionDeniedError, match="'infer' scope"):
        reader.chat.completions.create(model="intents", **ASK)
    served.client(served.token(scopes=["infer"])).chat.completions.create(model="intents", **ASK, max_tokens=1)
    with pytest.raises(openai.PermissionDeniedError):
        served.client(served.token(scopes=["feedback"])).models.list()


def test_a_new_model_is_found_at_once_and_a_changed_route_soon(served: Served, eventually: Eventually) -> None:
    client = served.client()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="fresh", **ASK)
    time.sleep(1.1)  # misses are remembered for a second
    client.chat.completions.create(model="intents", **ASK, max_tokens=1)
    RegisteredModel.objects.filter(name="tiny").update(name="fresh")
    assert client.chat.completions.create(model="fresh", **ASK, max_tokens=1).model == "fresh"
    served.share(0, 1)
    began = time.monotonic()

    def second_answers() -> bool:
        answer = client.chat.completions.create(model="intents", **ASK, max_tokens=1)
        return Answer.objects.get(pk=answer.id).version_id == served.two.pk

    eventually(second_answers)
    assert time.monotonic() - began < 3


def test_an_ab_test_keeps_everybody_on_their_arm_and_is_written_down(served: Served) -> None:
    test = ABTest.objects.create(workspace=served.workspace, name="t", model=served.one.model)
    served.share(1, 1, owner=test.owner)
    client = served.client()

    def arm(user: str) -> str:
        answer = client.chat.completions.create(model="intents", **ASK, max_tokens=1, user=user)
        row = Answer.objects.get(pk=answer.id)
        assert row.test_id == test.pk and row.version_id == {"a": served.one.pk, "b": served.two.pk}[row.arm]
        return row.arm

    users = [f"user {number}" for number in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = list(pool.map(arm, users))
        assert list(pool.map(arm, users)) == first
    assert 4 <= first.count("a") <= 20
    assert Answer.objects.values("unit_hash").distinct().count() == 24
    named = client.chat.completions.create(model="intents:1", **ASK, max_tokens=1, user=users[0])
    assert Answer.objects.get(pk=named.id).test_id is None  # asked for by number: nobody was assigned


def test_the_unit_is_the_end_user_else_the_session_else_the_token(served: Served) -> None:
    key = served.workspace.hash_key
    client = served.client()

    def unit(headers: dict[str, str] | None = None, **body: Any) -> str:
        answer = client.chat.completions.create(
            model="intents", **ASK, max_tokens=1, extra_body=body, extra_headers=headers
        )
        return Answer.objects.get(pk=answer.id).unit_hash

    assert unit({"x-session-id": "s"}, user="u", safety_identifier="i") == keyed_hash(key, "user", "i")
    assert unit({"x-session-id": "s"}, user="u") == keyed_hash(key, "user", "u")
    assert unit({"x-session-id": "s"}) == keyed_hash(key, "session", "s")
    assert unit() == keyed_hash(key, "token", str(ApiToken.objects.get().pk))


def test_when_the_own_arm_is_down_another_helps_and_is_not_counted(served: Served) -> None:
    test = ABTest.objects.create(workspace=served.workspace, name="t", model=served.one.model)
    served.share(1, 1, owner=test.owner)
    Deployment.objects.filter(version=served.two).update(state=DeploymentState.LOADING)
    client = served.client()
    for number in range(6):
        client.chat.completions.create(model="intents", **ASK, max_tokens=1, user=f"user {number}")
    assert set(Answer.objects.values_list("version", flat=True)) == {served.one.pk}
    assert 0 < Answer.objects.filter(test=None).count() < 6
    assert set(Answer.objects.exclude(test=None).values_list("arm", flat=True)) == {"a"}


@pytest.mark.parametrize("stream", [True, False])
def test_no_engine_is_a_503_at_once_never_a_hang(served: Served, stream: bool) -> None:
    client = served.client()
    Engine.objects.update(url="http://127.0.0.1:9")  # nobody listens there
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="intents", **ASK, stream=stream)
    assert failed.value.status_code == 503 and failed.value.code == "model_unavailable"
    assert failed.value.response.headers["retry-after"] == "1"
    assert Answer.objects.get().error  # it counts
    Deployment.objects.update(state=DeploymentState.PENDING)
    time.sleep(2.1)
    with pytest.raises(openai.InternalServerError, match="being started"):
        client.chat.completions.create(model="intents", **ASK, stream=stream)
    Engine.objects.update(state=EngineState.FAILED)
    assert time.monotonic() - began < 10


async def _half_an_answer(scope: Any, receive: Any, send: Any) -> None:
    """An engine that dies in the middle of a stream."""
    while (await receive()).get("more_body"):
        continue
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    chunk = b'data: {"id": "x", "choices": [{"index": 0, "delta": {"content": "Hal"}, "finish_reason": null}]}\n\n'
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
    raise ConnectionResetError


def test_an_engine_lost_in_the_middle_is_said_in_the_stream(served: Served) -> None:
    with running(_half_an_answer) as url:
        Engine.objects.update(url=url)
        stream = served.client().chat.completions.create(model="intents", **ASK, stream=True)
        assert next(stream).choices[0].delta.content == "Hal"
        with pytest.raises(openai.APIError, match="broke off"):
            next(stream)
    row = Answer.objects.get()
    assert row.text == "Hal" and "broke off" in row.error


async def _silent(scope: Any, receive: Any, send: Any) -> None:
    """An engine on a host that went away without closing anything."""
    import asyncio

    await asyncio.sleep(60)


def test_an_engine_nobody_vouches_for_any_more_is_not_waited_for(served: Served) -> None:
    with running(_silent) as url:
        Engine.objects.update(url=url, lease_until=timezone.now() + timedelta(seconds=1.5))
        began = time.monotonic()
        with pytest.raises(openai.InternalServerError) as failed:
            served.client().chat.completions.create(model="intents", **ASK)
        assert failed.value.status_code == 503 and time.monotonic() - began < 9


def test_what_the_engine_refuses_is_passed_on(served: Served) -> None:
    client = served.client()
    with pytest.raises(openai.BadRequestError) as refused:
        long = [{"role": "user", "content": "word " * 2000}]
        client.chat.completions.create(model="intents", messages=long, stream=True)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="n = 1"):
        client.chat.completions.create(model="intents", **ASK, n=2)
    assert not Answer.objects.exists()


def test_hanging_up_stops_the_engine_and_keeps_what_was_said(served: Served, eventually: Eventually) -> None:
    client = served.client()
    stream = client.chat.completions.create(model="intents", **ASK, max_tokens=450, stream=True)
    first = next(iter(stream))
    stream.close()
    eventually(lambda: Answer.objects.filter(pk=first.id, finish_reason="cancelled", error="").exists())
    headers = {"authorization": f"Bearer {served.engine.secret}"}
    health = f"{Engine.objects.get().url}/health"
    eventually(lambda: httpx.get(health, headers=headers).json()["active"] == 0)


def test_errors_have_openais_shape_and_a_request_id(served: Served) -> None:
    with httpx.Client(base_url=served.url, timeout=30) as http:
        authorised = {"authorization": f"Bearer {served.token()}"}
        chat = "/v1/chat/completions"
        cases = [
            (http.get("/v1/models"), 401, "invalid_api_key"),
            (http.get("/v1/models", headers={"authorization": "Basic eA=="}), 401, "invalid_api_key"),
            (http.get("/v1/nothing", headers=authorised), 404, "unknown_url"),
            (http.get(chat, headers=authorised), 405, "method_not_allowed"),
            (http.post(chat, content=b"{", headers=authorised), 400, "invalid_json"),
            (http.post(chat, content=b"[1]", headers=authorised), 400, "invalid_json"),
            (http.post(chat, json={"messages": []}, headers=authorised), 400, "missing_required_parameter"),
            (http.post(chat, json={"model": 5, "messages": []}, headers=authorised), 400, "invalid_value"),
            (http.post(chat, json={"model": "intents"}, headers=authorised), 400, "invalid_value"),
            (
                http.post(chat, json={"model": "intents", **ASK, "stream": "yes"}, headers=authorised),
                400,
                "invalid_value",
            ),
            (http.post(chat, content=b" " * (5 * 2**20), headers=authorised), 413, "request_too_large"),
        ]
        for response, status, code in cases:
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (status, code)
            assert set(error) == {"message", "type", "param", "code"} and error["message"]
            assert response.headers["x-request-id"].startswith("req_")
        given = http.get("/v1/models", headers=authorised | {"x-request-id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
        assert http.get("/v1/models", headers=authorised | {"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_a_crowd_is_answered_and_every_answer_has_its_row(served: Served) -> None:
    client = served.client(max_retries=3)

    def ask(number: int) -> tuple[str, str]:
        question = [{"role": "user", "content": f"Question {number}"}]
        if number % 2:
            chunks = list(
                client.chat.completions.create(
                    model="intents", messages=question, temperature=0, max_tokens=6, stream=True
                )
            )
            return chunks[0].id, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        answer = client.chat.completions.create(model="intents", messages=question, temperature=0, max_tokens=6)
        return answer.id, answer.choices[0].message.content or ""

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = dict(pool.map(ask, range(48)))
    assert dict(Answer.objects.values_list("pk", "text")) == answers and len(answers) == 48


def test_a_version_being_let_go_still_answers_by_number(served: Served) -> None:
    soon = timezone.now() + timedelta(seconds=20)
    Deployment.objects.filter(version=served.two).update(wanted=False, drain_until=soon)
    client = served.client()
    client.chat.completions.create(model="intents:2", **ASK, max_tokens=1)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=f"intents@{Stage.STAGING}", **ASK)


def test_the_last_use_of_a_token_is_noted(served: Served, eventually: Eventually) -> None:
    client = served.client()

    def is_noted() -> bool:
        client.models.list()
        return ApiToken.objects.get().last_used_at is not None

    eventually(is_noted)


def test_the_web_process_needs_no_torch_for_it() -> None:
    script = "import sys, django; django.setup(); import abtests.gateway.app; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=60).returncode == 0


def test_two_gateways_do_not_share_state(served: Served) -> None:
    with running(Gateway()) as url:
        other = openai.OpenAI(base_url=f"{url}/v1", api_key=served.token(), max_retries=0)
        assert other.chat.completions.create(model="tiny", **ASK, max_tokens=1).model == "tiny"
