"""Asking an endpoint: patient where waiting helps, plain where it doesn't, and silent about the token."""

import pytest
from pydantic import SecretStr

from project.contracts.chat import Endpoint, Message
from project.modeling.asking import Asking, Busy, EndpointError
from project.modeling.tests.chat_server import ChatServer, chat_server

QUESTION = [Message(role="user", content="Is it?")]


def endpoint(server: ChatServer, *, model: str = "tiny", token: str = "") -> Endpoint:
    return Endpoint(url=server.url, model=model, token=SecretStr(token), allowed=(server.address,))


def test_an_answer_comes_with_its_length() -> None:
    with chat_server(lambda body: f"You asked: {body['messages'][0]['content']}") as server:
        with Asking(endpoint(server)) as asking:
            reply = asking.ask(QUESTION, max_tokens=5, temperature=0.5, seed=3)
        assert (reply.text, reply.finish_reason, reply.tokens) == ("You asked: Is it?", "stop", 4)
        sent = {"model": "tiny", "messages": [{"role": "user", "content": "Is it?"}]}
        assert server.bodies == [{**sent, "temperature": 0.5, "max_tokens": 5, "seed": 3}]


def test_a_busy_server_is_asked_again_after_the_pause_it_wants() -> None:
    pauses: list[float] = []
    with chat_server() as server, Asking(endpoint(server), wait=pauses.append) as asking:
        server.failures = [(429, {"Retry-After": "7"}, "slow down"), (503, {}, "loading"), (500, {}, "oops")]
        assert asking.ask(QUESTION, max_tokens=1, temperature=0).text == "yes"
    assert pauses[0] == 7
    assert 0.5 <= pauses[1] <= 2
    assert 1 <= pauses[2] <= 4


def test_patience_ends() -> None:
    with chat_server() as server, Asking(endpoint(server), tries=2, wait=lambda seconds: None) as asking:
        server.failures = [(503, {}, "loading")] * 3
        with pytest.raises(Busy, match=r"busy or in trouble \(503\): loading"):
            asking.ask(QUESTION, max_tokens=1, temperature=0)
        assert len(server.failures) == 1


def test_a_wrong_token_is_said_at_once_and_not_shown() -> None:
    with (
        chat_server(token="right") as server,
        Asking(endpoint(server, token="wr-0ng-token")) as asking,
        pytest.raises(EndpointError, match="refuses the token") as raised,
    ):
        asking.ask(QUESTION, max_tokens=1, temperature=0)
    assert "wr-0ng-token" not in str(raised.value)
    assert raised.value.status == 401
    assert raised.value.field == "endpoint"


def test_an_unknown_model_is_named() -> None:
    with chat_server() as server, Asking(endpoint(server, model="huge")) as asking:
        with pytest.raises(EndpointError, match=r"knows no model 'huge'.*does not exist"):
            asking.ask(QUESTION, max_tokens=1, temperature=0)
        assert len(server.bodies) == 1


def test_the_newer_name_of_the_length_is_tried() -> None:
    with chat_server() as server, Asking(endpoint(server)) as asking:
        server.failures = [(400, {}, "Unsupported parameter: use 'max_completion_tokens' instead.")]
        assert asking.ask(QUESTION, max_tokens=9, temperature=0).text == "yes"
        assert asking.ask(QUESTION, max_tokens=9, temperature=0).text == "yes"
        assert ["max_completion_tokens" in body for body in server.bodies] == [False, True, True]


def test_an_address_that_may_not_be_called_is_not_tried_again() -> None:
    with chat_server() as server:
        refused = Endpoint(url=server.url, model="tiny")
        with Asking(refused) as asking, pytest.raises(EndpointError, match="OUTGOING_ALLOW"):
            asking.ask(QUESTION, max_tokens=1, temperature=0)
        assert not server.bodies


def test_something_else_than_a_chat_server_is_said() -> None:
    with chat_server(models=()) as server, Asking(endpoint(server)) as asking:
        server.failures = [(200, {}, "hello")]
        with pytest.raises(EndpointError, match="not OpenAI's"):
            asking.ask(QUESTION, max_tokens=1, temperature=0)


def test_what_a_database_does_not_take_is_left_out_of_its_words() -> None:
    with chat_server() as server, Asking(endpoint(server), tries=1) as asking:
        server.failures = [(400, {}, "a\x00b")]
        with pytest.raises(EndpointError, match="ab"):
            asking.ask(QUESTION, max_tokens=1, temperature=0)
    with chat_server(lambda body: "y\x00es") as server, Asking(endpoint(server)) as asking:
        assert asking.ask(QUESTION, max_tokens=1, temperature=0).text == "yes"


@pytest.mark.parametrize("said", ["nan", "inf", "1e999", "-inf"])
def test_a_pause_without_an_end_is_ours_to_choose(said: str) -> None:
    pauses: list[float] = []
    with chat_server() as server, Asking(endpoint(server), wait=pauses.append) as asking:
        server.failures = [(429, {"Retry-After": said}, "slow down")]
        asking.ask(QUESTION, max_tokens=1, temperature=0)
    assert 0.5 <= pauses[0] <= 1
