"""A server in the place of RunPod's management API: it answers what a test says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY = "rpa_0123456789ABCDEF"


@dataclass
class Answer:
    """What every request gets. `hang`: nothing, before the server ends. `cut`: less than was promised."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False


@dataclass
class Api:
    """The server: where it is, what it answers, and the path, query and key of each request."""

    url: str = ""
    answer: Answer = field(default_factory=Answer)
    asked: list[tuple[str, dict[str, str], str | None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def answers(self, body: Any, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = Answer(raw, status, named)


@contextmanager
def api_server() -> Iterator[Api]:
    """The server, while the block runs."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            api.asked.append((parts.path, dict(parse_qsl(parts.query)), self.headers["Authorization"]))
            answer = api.answer
            if answer.hang:
                api.ended.wait(20)
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) + (10 if answer.cut else 0)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """A test's output is not the place."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}/v2"
    try:
        yield api
    finally:
        api.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
