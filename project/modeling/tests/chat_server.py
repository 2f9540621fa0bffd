"""A small server that speaks OpenAI's chat format over real HTTP, for tests."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]


class ChatServer:
    """`answer(body)` writes what the model says. `failures` are given first, each once: (status, headers, message)."""

    def __init__(self, answer: Answer, *, token: str = "", models: tuple[str, ...] = ("tiny",)) -> None:
        self.answer, self.token, self.models = answer, token, models
        self.failures: list[tuple[int, dict[str, str], str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.lists_models = True
        self.finish_reason = "stop"
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1"


@contextlib.contextmanager
def chat_server(
    answer: Answer = lambda body: "yes", *, token: str = "", models: tuple[str, ...] = ("tiny",)
) -> Iterator[ChatServer]:
    server = ChatServer(answer, token=token, models=models)
    server.thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        server.thread.join()


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.allowed():
                if self.path == "/v1/models" and server.lists_models:
                    self.reply(200, {"object": "list", "data": [{"id": name} for name in server.models]})
                else:
                    self.reply(404, {"error": {"message": "no such path"}})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.allowed():
                return
            with server.lock:
                server.bodies.append(body)
                server.busy += 1
                server.busiest = max(server.busiest, server.busy)
                failure = server.failures.pop(0) if server.failures else None
            try:
                if failure:
                    self.reply(failure[0], {"error": {"message": failure[2]}}, failure[1])
                elif body["model"] not in server.models:
                    self.reply(404, {"error": {"message": f"The model {body['model']} does not exist"}})
                else:
                    text = server.answer(body)
                    message = {"role": "assistant", "content": text}
                    choice = {"index": 0, "message": message, "finish_reason": server.finish_reason}
                    usage = {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 1}
                    self.reply(200, {"object": "chat.completion", "choices": [choice], "usage": usage})
            finally:
                with server.lock:
                    server.busy -= 1

        def allowed(self) -> bool:
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                said = self.headers.get("Authorization", "none")
                self.reply(401, {"error": {"message": f"Incorrect API key provided: {said}"}})
                return False
            return True

        def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None: ...

    return Handler
