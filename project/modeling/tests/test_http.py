"""Outgoing calls reach what they may reach, and nothing else, whatever the name, the redirect or the server does."""

import gzip
import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from project.modeling import http
from project.modeling.http import AllowList, Outgoing, OutgoingError, Refused, addresses_of, is_public, read_url


class Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to?"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(100):
                self.wfile.write(b"x: y\r\n")
                self.wfile.flush()
                if self.server.stopped.wait(0.1):  # type: ignore[attr-defined]
                    return
        elif self.path == "/packed":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip, gzip")
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.wfile.write(gzip.compress(gzip.compress(bytes(10**6))).ljust(500, b"\0"))
        else:
            body = b"a" * 5000 if self.path == "/big" else b'{"answer": 42}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stopped = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.stopped.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("2002:7f00:1::", "64:ff9b::a9fe:a9fe", "fec0::1"),
    ],
)
def test_addresses_that_are_nobody_elses_business_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com",
            "example.com/v1",
            "http://",
            "https:///x",
        ),
        *(
            "http://127.0.0.1/",
            "http://[::1]:80/",
            "http://localhost/",
            "http://a.localhost/",
            "http://169.254.169.254/",
        ),
        *("http://user:secret@example.com/", "http://example.com:99999/", "http://exam ple.com/", "http://localhost./"),
    ],
)
def test_what_may_not_be_written_is_refused_before_anything_is_looked_up(url: str) -> None:
    with pytest.raises(Refused):
        read_url(url, AllowList())


def test_the_allow_list_knows_hosts_ports_and_networks() -> None:
    allowed = AllowList.parse(["GPU-box", "127.0.0.1:8000", "[::1]:9000", "10.0.0.0/8", "fd00::/8"])
    assert read_url("http://gpu-box:1234/v1", allowed).origin == "http://gpu-box:1234"
    assert read_url("http://127.0.0.1:8000", allowed)
    assert read_url("http://[::1]:9000", allowed).origin == "http://[::1]:9000"
    assert read_url("https://10.2.3.4:443/v1", allowed).origin == "https://10.2.3.4"
    for url in ("http://127.0.0.1:8001", "http://[::1]:9001", "http://192.168.1.1"):
        with pytest.raises(Refused, match="OUTGOING_ALLOW"):
            read_url(url, allowed)
    for word in ("10.0.0.1/8", "http://x", "a:b", "x:99999", "a/b"):
        with pytest.raises(ValueError, match=r"'.+' is"):
            AllowList.parse([word])


def test_a_server_of_this_host_is_called_only_where_it_is_allowed(server: str) -> None:
    with Outgoing(AllowList.parse([server])) as client:
        answer = client.call("GET", f"http://{server}/", seconds=5)
        assert (answer.status, answer.json()) == (200, {"answer": 42})
    # Other spellings of 127.0.0.1, which only the resolver understands.
    for spelling in ("2130706433", "0x7f.1", "127.1"):
        with Outgoing() as client, pytest.raises(Refused):
            client.call("GET", f"http://{spelling}:{server.partition(':')[2]}/", seconds=5)
    assert len(Handler.seen) == 1


def test_a_name_that_changes_its_mind_is_called_where_it_was_judged(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = socket.getaddrinfo, []

    def rebinding(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, *rest, **more)
        asked.append(host)
        there = "127.0.0.2" if len(asked) == 1 else "127.0.0.1"  # the server listens on the second only
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (there, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with Outgoing(AllowList.parse(["127.0.0.2/32"])) as client:
        url = f"http://rebind.example:{server.partition(':')[2]}/"
        with pytest.raises(OutgoingError, match="could not be reached"):
            client.call("GET", url, seconds=5)
        with pytest.raises(Refused):
            client.call("GET", url, seconds=5)
    assert not Handler.seen


def test_one_forbidden_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (there, 80)) for there in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    with Outgoing() as client, pytest.raises(Refused):
        client.call("GET", "http://two-faced.example/", seconds=1)


def test_a_name_server_that_never_answers_holds_nobody_longer_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = threading.Event(), threading.Semaphore(0)

    def hanging(host: str, port: int, **_: Any) -> Any:
        asked.release()
        answers.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    monkeypatch.setattr(http, "_lookups", threading.BoundedSemaphore(2))
    try:
        with Outgoing() as outgoing:
            for _ in range(2):
                with pytest.raises(OutgoingError, match=r"'dead.example' was not looked up within 0\.\d+ seconds"):
                    outgoing.call("GET", "https://dead.example/", seconds=0.1)
                assert asked.acquire(timeout=10)
            with pytest.raises(OutgoingError, match="leaves others waiting"):
                outgoing.call("GET", "https://other.example/", seconds=0.1)
        assert not asked.acquire(blocking=False), "a third thread was started"
    finally:
        answers.set()
    # The two hanging ones end, and their places are free again.
    for _ in range(3):
        assert [str(found) for found in addresses_of("live.example", 443, AllowList())] == ["93.184.216.34"]


def test_what_the_resolver_says_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    with pytest.raises(OutgoingError, match="or its name can't be looked up"):
        addresses_of("gone.example", 443, AllowList())


def test_a_redirect_is_judged_like_any_address(server: str) -> None:
    port = server.partition(":")[2]
    with Outgoing(AllowList.parse([server])) as client:
        with pytest.raises(Refused):
            client.call("GET", f"http://{server}/to?http://127.0.0.9:{port}/", seconds=5)
        with pytest.raises(OutgoingError):
            client.call("GET", f"http://{server}/to?file:///etc/passwd", seconds=5)
        with pytest.raises(OutgoingError, match="redirects more than"):
            client.call("GET", f"http://{server}/to?" * 9, seconds=5)


def test_the_token_does_not_follow_to_another_host(server: str) -> None:
    port = server.partition(":")[2]
    with Outgoing(AllowList.parse(["127.0.0.1", "localhost"])) as client:
        client.call(
            "GET", f"http://{server}/to?http://localhost:{port}/end", headers={"Authorization": "Bearer x"}, seconds=5
        )
    assert Handler.seen[0][1] == "Bearer x"
    assert Handler.seen[1] == ("/end", None)


def test_answers_that_are_too_big_or_take_too_long_are_given_up(server: str) -> None:
    with Outgoing(AllowList.parse([server]), most_bytes=1000) as client:
        with pytest.raises(OutgoingError, match="more than 1,000 bytes"):
            client.call("GET", f"http://{server}/big", seconds=5)
        with pytest.raises(OutgoingError, match=r"within 0\.3 seconds"):
            client.call("GET", f"http://{server}/drip", seconds=0.3)


def test_a_page_instead_of_json_is_said(server: str) -> None:
    with Outgoing(AllowList.parse([server])) as client, pytest.raises(OutgoingError, match="instead of JSON"):
        client.call("GET", f"http://{server}/big", seconds=5).json()


def test_a_packed_answer_is_not_unpacked(server: str) -> None:
    """A few hundred bytes may unpack to more than any memory holds."""
    with Outgoing(AllowList.parse((server,))) as client, pytest.raises(OutgoingError, match="packed"):
        client.call("GET", f"http://{server}/packed", seconds=5)


@pytest.mark.parametrize("url", ["http://[::1", "http://a\u2100b/", "https://[", "http://x:99999/"])
def test_what_is_no_address_is_refused_in_words(url: str) -> None:
    with pytest.raises(Refused):
        read_url(url, AllowList())
