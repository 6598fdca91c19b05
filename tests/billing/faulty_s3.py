"""A proxy before an S3 server that fails as told: with statuses, cut connections, silence and nonsense."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """An error as S3 servers answer it."""

    status: int
    code: str
    message: str = "as told"


Fault = Answer | Literal["cut", "cut after", "cut amid", "hang", "nonsense", "blank"]
"""`cut`: closed without an answer, nothing done. `cut after`: done, and closed without an answer. `cut amid`: done, and
half of the answer. `hang`: nothing at all, until the proxy stops. `nonsense`: 200, and bytes that are no S3 answer.
`blank`: 200, and nothing."""

Rule = Callable[[str, str, dict[str, str]], Fault | None]
"""Gets method, path and headers (names in lower case) of a request and says what befalls it."""


def no_fault(method: str, path: str, headers: dict[str, str]) -> None:
    return None


class FaultyS3(ThreadingHTTPServer):
    """Attributes:
    rule: what befalls requests from now on.
    requests: method and path of each request so far.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, server_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(server_url).netloc
        self.rule: Rule = no_fault
        self.requests: list[tuple[str, str]] = []
        self.stopped = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, fault: Fault | None) -> None:
        """Have every request from now on fail in this way; with None, none."""
        self.rule = lambda method, path, headers: fault

    def stop(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyS3

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path))
        fault = self.server.rule(self.command, self.path, headers)
        if isinstance(fault, Answer):
            self.answer(fault.status, error_document(fault))
        elif fault == "nonsense":
            self.answer(200, b"<html>" + b"\0" * 500)
        elif fault == "blank":
            self.answer(200, b"")
        elif fault == "hang":
            self.server.stopped.wait()
            self.close_connection = True
        elif fault == "cut":
            self.close_connection = True
        else:
            self.forward(body, headers, fault)

    do_GET = do_PUT = do_HEAD = handle_any  # noqa: N815 (the names that the library looks for)

    def forward(self, body: bytes, headers: dict[str, str], fault: str | None) -> None:
        """Hand the request on as it came, with the host that its signature covers."""
        behind = http.client.HTTPConnection(self.server.behind, timeout=30)
        try:
            headers.pop("expect", None)
            behind.request(self.command, self.path, body, headers)
            response = behind.getresponse()
            answer = response.read()
        finally:
            behind.close()
        if fault == "cut after":
            self.close_connection = True
            return
        self.answer(response.status, answer, response.getheaders(), broken=fault == "cut amid")

    def answer(
        self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None, broken: bool = False
    ) -> None:
        self.send_response(status)
        kept = headers or [("Content-Type", "application/xml")]
        for name, value in kept:
            if name.lower() not in ("connection", "content-length", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        of_head = {name.lower(): value for name, value in kept}.get("content-length", "0")
        length = int(of_head) if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length or 100 * broken))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if broken else body)
        self.close_connection = broken

    def log_message(self, format: str, *args: Any) -> None:
        pass


def error_document(answer: Answer) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{answer.code}</Code><Message>{answer.message}</Message></Error>"
    ).encode()
