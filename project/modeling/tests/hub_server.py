"""A small Hub on loopback, for the tests of whatever fetches from one."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


class HubServer:
    """One data set `acme/rows` made of the files of a folder, with one commit, `main` and `v1`.

    A repository with 'gated' in its name is gated; any other does not exist.
    """

    sha = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, with_body=False)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        self.tokens.add(request.headers.get("Authorization"))
        files = f"/datasets/acme/rows/resolve/{self.sha}/"
        status, body, headers = 404, b"", {"X-Error-Code": "RepoNotFound"}
        if "gated" in path:
            status, headers = 403, {"X-Error-Code": "GatedRepo"}
        elif path.startswith("/api/datasets/acme/rows"):
            if "/revision/" in path and not path.endswith(("/revision/main", "/revision/v1", f"/revision/{self.sha}")):
                headers = {"X-Error-Code": "RevisionNotFound"}
            else:
                status, body, headers = 200, json.dumps(self._info()).encode(), {}
        elif path.startswith(files) and (self.folder / path.removeprefix(files)).is_file():
            status, body = 200, (self.folder / path.removeprefix(files)).read_bytes()
            headers = {"X-Repo-Commit": self.sha, "ETag": f'"{hash(body):x}"'}
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def _info(self) -> dict[str, Any]:
        files = [
            {"rfilename": path.relative_to(self.folder).as_posix(), "size": path.stat().st_size}
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        ]
        return {"id": "acme/rows", "sha": self.sha, "siblings": files, "tags": []}
