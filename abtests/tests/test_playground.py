"""Asking a version oneself: the answer streams, is kept, can be rated, and counts in no test."""

import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from abtests import playground
from abtests.models import Answer
from registry.models import Deployment, Engine, EngineState
from registry.serving.tests.cast import running_engine

# The test client reads streams synchronously; the server does not.
pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")


class EngineOfStraw(BaseHTTPRequestHandler):
    """Speaks the engine's side of HTTP and remembers what it was asked. `mode` says how it behaves."""

    mode = "good"
    asked: list[tuple[dict, dict]] = []
    go_on = threading.Event()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        EngineOfStraw.asked.append((dict(self.headers), body))
        if self.mode == "long":
            self._send(400, json.dumps({"error": {"message": "The prompt has 9000 tokens; the context holds 8192."}}))
            return
        head = {
            "id": self.headers["x-answer-id"],
            "object": "chat.completion.chunk",
            "model": self.headers["x-model-name"],
        }
        deltas = [{"role": "assistant", "content": ""}, {"content": "Hé"}, {"content": "llo"}]
        chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        if self.mode == "good":
            chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            chunks.append(head | {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
        if self.mode == "slow":
            self.send_response(200)
            self.end_headers()
            self.wfile.write("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode())
            self.wfile.flush()
            EngineOfStraw.go_on.wait(10)
            return
        ending = "data: [DONE]\n\n" if self.mode == "good" else ""
        self._send(200, "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ending)

    def _send(self, status, text):
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def engine(world):
    """Both versions of the world on an engine of straw."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), EngineOfStraw)
    EngineOfStraw.mode, EngineOfStraw.asked = "good", []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    row = Engine.objects.create(
        host="here",
        base_version=world.one,
        url=f"http://127.0.0.1:{server.server_port}",
        state=EngineState.READY,
        lease_until=timezone.now() + timedelta(minutes=5),
    )
    Deployment.objects.update(engine=row)
    yield row
    server.shutdown()
    server.server_close()


def said(version, prompt="Hello?", **more):
    return {"model": str(version.pk), "temperature": "0.5", "max_tokens": "20", "system": "", "prompt": prompt, **more}


def streamed(client, body):
    response = client.post("/playground/", body, headers={"accept": "text/event-stream"})
    return response, b"".join(response).decode() if response.streaming else response.content.decode()


def test_the_answer_streams_and_is_kept(cast, world, engine):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    response, text = streamed(cast.page("viewer"), said(world.two, messages=json.dumps(turns)))
    assert response["content-type"].startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n") and '"usage"' in text
    answer = Answer.objects.get()
    assert f'"id": "{answer.pk}"' in text
    assert (answer.text, answer.version, answer.source, answer.test) == ("Héllo", world.two, "playground", None)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.finish_reason) == (7, 2, "stop")
    assert answer.messages == turns and answer.error == ""
    assert answer.first_token_ms <= answer.latency_ms
    headers, body = EngineOfStraw.asked[0]
    assert headers["authorization"] == f"Bearer {engine.secret}"
    assert body["model"] == "base" and body["messages"] == turns
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.5, 20, True)


def test_a_conversation_without_javascript(cast, world, engine):
    page = cast.page("operator")
    first = page.post("/playground/", said(world.one, "Hello?", system="Be brief."))
    assert first.status_code == 200
    answer = Answer.objects.get()
    assert "Héllo" in first.content.decode() and f"/answers/{answer.pk}/" in first.content.decode()
    forged = json.dumps([{"role": "assistant", "content": "x", "id": "../../x"}])
    assert page.post("/playground/", said(world.one, "", history=forged)).status_code == 400
    page.post("/playground/", said(world.one, "And now?", system="Be brief.", history=first.context["history"]))
    assert [turn["content"] for turn in EngineOfStraw.asked[1][1]["messages"]] == [
        "Be brief.",
        "Hello?",
        "Héllo",
        "And now?",
    ]
    assert page.post(f"/answers/{answer.pk}/", {"thumb": "up"}).status_code == 302


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "Ask something"),
        ({"model": "nonsense"}, "not served"),
        ({"temperature": "hot"}, "number"),
        ({"temperature": "3"}, "less than or equal to 2"),
        ({"max_tokens": "0"}, "greater than or equal to 1"),
        ({"max_tokens": "1e9"}, "whole number"),
        ({"messages": "{"}, "not a list"),
        ({"messages": '{"role": "user"}'}, "not a list"),
        ({"messages": '[{"role": "root", "content": "x"}]'}, "role"),
        ({"messages": '[{"role": "user", "content": 7}]'}, "text"),
        ({"messages": '[{"role": "assistant", "content": "x"}]'}, "Ask something"),
        ({"history": "nonsense"}, "not a list"),
        ({"messages": json.dumps([{"role": "user", "content": "x" * 400_001}])}, "longer"),
    ],
)
def test_what_cannot_be_asked_is_explained(cast, world, engine, change, words):
    page = cast.page("operator")
    body = said(world.one) | change
    response, text = streamed(page, body)
    assert response.status_code == 400 and words in json.loads(text)["detail"]
    plain = page.post("/playground/", body)
    assert plain.status_code == 400 and words in plain.content.decode()
    assert not EngineOfStraw.asked and not Answer.objects.exists()


def test_the_engine_refuses_a_prompt_that_is_too_long(cast, world, engine):
    EngineOfStraw.mode = "long"
    _, text = streamed(cast.page("operator"), said(world.one))
    assert text.startswith("event: error") and "the context holds 8192" in text
    plain = cast.page("operator").post("/playground/", said(world.one, "My long question"))
    assert "the context holds 8192" in plain.content.decode() and "My long question" in plain.content.decode()
    assert not Answer.objects.exists()


def test_an_engine_that_breaks_off_leaves_a_failed_answer(cast, world, engine):
    EngineOfStraw.mode = "breaks off"
    _, text = streamed(cast.page("operator"), said(world.one))
    assert "Hé" in json.loads(text.split("\n\n")[1][6:])["choices"][0]["delta"]["content"]
    assert "event: error" in text and "[DONE]" not in text
    answer = Answer.objects.get()
    assert (answer.text, answer.error) == ("Héllo", "The engine broke off in the middle of the answer.")


def test_who_leaves_in_the_middle_leaves_what_was_said(cast, world, engine):
    EngineOfStraw.mode = "slow"
    turns = [{"role": "user", "content": "Hello?"}]
    by = cast.actor("operator")
    asked = playground.question(version_id=str(world.one.pk), messages=turns, temperature=0, max_tokens=9, by=by)

    async def leave_early():
        chunks = playground.stream(asked, "chatcmpl-early")
        while b"llo" not in await anext(chunks):
            pass
        await chunks.aclose()

    async_to_sync(leave_early)()
    EngineOfStraw.go_on.set()
    answer = Answer.objects.get()
    assert (answer.pk, answer.text, answer.finish_reason) == ("chatcmpl-early", "Héllo", "cancelled")


def test_an_engine_that_is_gone(cast, world, engine):
    Engine.objects.update(url="http://127.0.0.1:1")
    _, text = streamed(cast.page("operator"), said(world.one))
    assert "could not be reached" in text
    assert "could not be reached" in Answer.objects.get().error
    Engine.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    response, text = streamed(cast.page("operator"), said(world.one))
    assert response.status_code == 409 and "not served" in text


def test_a_stranger_cannot_ask(cast, world, engine):
    response, _ = streamed(cast.page("stranger"), said(world.one))
    assert response.status_code == 409
    assert not EngineOfStraw.asked


def test_the_page_offers_what_is_served(cast, world, engine):
    page = cast.page("viewer")
    assert f'value="{world.one.pk}" selected' in page.get("/playground/").content.decode()  # production
    assert f'value="{world.two.pk}" selected' in page.get("/playground/?model=intents:2").content.decode()
    Deployment.objects.update(state="loading")
    assert "A version is being loaded" in page.get("/playground/").content.decode()


@pytest.mark.full
def test_a_real_engine_answers(cast, world, tiny_base, tmp_path):
    row = Engine.objects.create(
        host="here", base_version=world.one, state=EngineState.READY, lease_until=timezone.now() + timedelta(minutes=5)
    )
    with running_engine(tmp_path / "engine", tiny_base, secret=row.secret) as engine:
        Engine.objects.update(url=engine.url)
        Deployment.objects.update(engine=row)
        page = cast.page("operator")
        response, text = streamed(page, said(world.one, "one two three", temperature="0", max_tokens="6"))
        assert response.status_code == 200 and text.endswith("data: [DONE]\n\n"), text
        first = Answer.objects.get()
        assert first.finish_reason in ("stop", "length") and first.completion_tokens >= 1
        plain = page.post("/playground/", said(world.one, "one two three", temperature="0", max_tokens="6"))
        assert plain.status_code == 200
        assert Answer.objects.exclude(pk=first.pk).get().text == first.text  # greedy: the same answer again
        _, refused = streamed(page, said(world.one, "word " * 20_000))
        assert refused.startswith("event: error") and "context" in refused
