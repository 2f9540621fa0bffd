"""The engine as a process over HTTP, asked by the official client, and how it ends."""

import concurrent.futures
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from project.modeling.tiny import make_tiny_model
from registry.serving.tests.cast import SECRET, START_TIMEOUT, Engine, make_adapter, running_engine

ASK = {"model": "base", "messages": [{"role": "user", "content": "What did it find? 世界"}], "temperature": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def engine(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("engine"), base) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{engine.url}/v1", api_key=SECRET, max_retries=0)


def test_the_official_client_streams_what_it_gets_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, max_tokens=40)
    assert whole.choices[0].finish_reason == "length" and whole.usage is not None
    assert whole.usage.completion_tokens == 40 and whole.usage.total_tokens == whole.usage.prompt_tokens + 40
    chunks = list(
        client.chat.completions.create(
            **ASK, max_completion_tokens=40, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1 and len(chunks) > 10
    assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason == "length"
    quiet = list(client.chat.completions.create(**ASK, max_tokens=5, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in quiet)


def test_adapters_come_and_go(engine: Engine, client: openai.OpenAI, base: Path, tmp_path: Path) -> None:
    path = make_adapter(base, tmp_path / "red", seed=1)
    with engine.client() as http:
        assert http.put("/adapters/red", json={"path": str(path)}).json() == {"adapters": ["red"]}
        red = client.chat.completions.create(**ASK | {"model": "red"}, max_tokens=20)
        assert red.model == "red"
        plain = client.chat.completions.create(**ASK, max_tokens=20)
        assert red.choices[0].message.content != plain.choices[0].message.content
        refused = http.put("/adapters/blue", json={"path": str(tmp_path)})
        assert refused.status_code == 400 and "adapter_config.json" in refused.json()["error"]["message"]
        assert http.delete("/adapters/red").status_code == 204
        assert http.get("/adapters").json() == {"adapters": []}
    with pytest.raises(openai.NotFoundError, match="not loaded"):
        client.chat.completions.create(**ASK | {"model": "red"})


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_p": "high"}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "invalid_value"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages", "context_length_exceeded"),
    ],
)
def test_a_bad_request_names_its_field(engine: Engine, change: dict, param: str, code: str) -> None:
    with engine.client() as http:
        answer = http.post("/v1/chat/completions", json=ASK | change)
    error = answer.json()["error"]
    assert answer.status_code == 400 and (error["param"], error["code"]) == (param, code), error


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(engine: Engine, body: bytes) -> None:
    with engine.client() as http:
        answer = http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_it_ignores_what_it_does_not_know_and_takes_parts_and_nulls(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**ASK, max_tokens=5)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What did it "}, {"type": "text", "text": "find? 世界"}]}
    ]
    extra = {"top_k": 3, "seed": None, "stop": None, "logprobs": False}
    same = client.chat.completions.create(**ASK | {"messages": messages}, max_tokens=5, extra_body=extra)
    assert same.choices[0].message.content == plain.choices[0].message.content


def test_nobody_gets_in_without_the_secret(engine: Engine) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": SECRET}):
        for path in ("/health", "/adapters", "/v1/chat/completions"):
            assert httpx.get(engine.url + path, headers=headers).status_code == 401


def test_a_gateway_sets_the_id_and_the_name(engine: Engine) -> None:
    with engine.client() as http:
        headers = {"x-answer-id": "chatcmpl-mine", "x-model-name": "support@staging"}
        answer = http.post("/v1/chat/completions", json=ASK | {"max_tokens": 2}, headers=headers).json()
    assert (answer["id"], answer["model"]) == ("chatcmpl-mine", "support@staging")


def test_hanging_up_stops_the_work(engine: Engine) -> None:
    with engine.client() as http:
        for stream in (True, False):
            try:
                with http.stream(
                    "POST", "/v1/chat/completions", json=ASK | {"max_tokens": 480, "stream": stream}, timeout=0.5
                ) as answer:
                    next(answer.iter_raw())
            except httpx.ReadTimeout:
                pass
            until = time.monotonic() + 5
            while http.get("/health").json()["active"]:
                assert time.monotonic() < until
                time.sleep(0.02)
        assert http.get("/health").json()["status"] == "ok"


@pytest.mark.full
def test_a_running_answer_is_finished_before_it_stops(base: Path, tmp_path: Path) -> None:
    with running_engine(tmp_path, base) as engine, engine.client() as http:
        with http.stream("POST", "/v1/chat/completions", json=ASK | {"max_tokens": 300, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            engine.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]" or rest[-1] == "data: [DONE]"
        assert engine.process.wait(timeout=10) == 0


@pytest.mark.full
def test_it_does_not_outlive_its_parent(base: Path, tmp_path: Path) -> None:
    spec = {"base": str(base), "secret": SECRET, "dtype": "float32"}
    script = (
        "import json, os, pathlib, subprocess, sys, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        f"spec = {spec!r} | {{'parent': os.getpid()}}\n"
        "(folder / 'spec.json').write_text(json.dumps(spec))\n"
        "subprocess.Popen([sys.executable, '-m', 'registry.serving.engine', str(folder / 'spec.json')])\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_TIMEOUT
        while not (tmp_path / "ready.json").exists():
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait(timeout=10)
    pid = json.loads((tmp_path / "ready.json").read_text())["pid"]
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.full
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "spec.json").write_text(json.dumps({"base": str(tmp_path / "base"), "secret": SECRET}))
    command = [sys.executable, "-m", "registry.serving.engine", str(tmp_path / "spec.json")]
    assert subprocess.run(command, capture_output=True, timeout=START_TIMEOUT).returncode == 1
    assert json.loads((tmp_path / "failed.json").read_text())["message"]
    assert not (tmp_path / "ready.json").exists()


def test_sixteen_at_once_are_answered_together(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        answer = client.chat.completions.create(
            **ASK | {"messages": [{"role": "user", "content": f"{number}?"}]}, max_tokens=30
        )
        return answer.choices[0].message.content or ""

    alone = [ask(number) for number in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == alone
