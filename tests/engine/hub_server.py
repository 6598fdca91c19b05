"""A hub in a box: serves repositories to the real `huggingface_hub` client, named by `HF_ENDPOINT`.

It answers what the client asks: a model's listing, its tree, and its files, small ones directly and large ones by way
of a second host, as the hub's own are. `Hub.failures` says what goes wrong; `Hub.log` tells what was asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

MODEL = "owner/name"
SMALL = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"weights"}
INDEX = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
TOKEN = "hf_valid"
STRANGER = "hf_stranger"
"""A token that is valid, of an account that was given no consent."""

LARGE = 10_000
"""Bytes from which a file is kept with Git LFS."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int


@dataclass
class Repository:
    """Commits of files; `refs` names some."""

    commits: dict[str, Mapping[str, bytes]]
    refs: dict[str, str]
    private: bool = False
    gated: bool = False


@dataclass
class Failures:
    """What goes wrong.

    Attributes:
        cuts: how often sending a large file stops after its first half, and the connection with it.
        missing: names of files that are listed and not there.
        status: what every request is answered with.
        stalls: whether a connection is silent before it is cut, until the server ends.
    """

    cuts: int = 0
    stalls: bool = False
    missing: set[str] = field(default_factory=set)
    status: int | None = None


def commit_of(files: Mapping[str, bytes]) -> str:
    return sha1(repr(sorted(files.items())).encode()).hexdigest()


def etag_of(content: bytes) -> str:
    if len(content) >= LARGE:
        return sha256(content).hexdigest()
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server; it listens from the start, and answers once `serving`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.failures = Failures()
        self.log: list[Asked] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def large_files(self) -> str:
        """Where large files are: another name, so that the client takes it for another host."""
        return f"http://localhost:{self.server_port}/large"

    def add(self, name: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False) -> str:
        """Commit to a repository, on its branch `main`."""
        repository = self.repositories.setdefault(name, Repository({}, {}, private, gated))
        commit = commit_of(files)
        repository.commits[commit] = files
        repository.refs["main"] = commit
        return commit

    def fetched(self) -> list[str]:
        """Names of the files whose content was sent, in order."""
        return [asked.path.split("/")[-1] for asked in self.log if _is_content(asked)]

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self.shutdown()
            self.server_close()
            thread.join()


def _is_content(asked: Asked) -> bool:
    return asked.method == "GET" and asked.status in (200, 206) and not asked.path.startswith("/api/")


class Refusal(Exception):
    """An answer that is an error, as the hub words them."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log is `Hub.log`."""

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            if self.server.failures.status is not None:
                raise Refusal(self.server.failures.status)
            match path.strip("/").split("/"):
                case ["api", "models", owner, name]:
                    self._send_info(f"{owner}/{name}", "main")
                case ["api", "models", owner, name, "revision", *revision]:
                    self._send_info(f"{owner}/{name}", "/".join(revision))
                case ["api", "models", owner, name, "tree", revision]:
                    self._send_tree(f"{owner}/{name}", revision)
                case ["large", owner, name, commit, *file]:
                    self._send_large(f"{owner}/{name}", commit, "/".join(file))
                case [owner, name, "resolve", revision, *file]:
                    self._send_file(f"{owner}/{name}", revision, "/".join(file))
                case _:
                    raise Refusal(404)
        except Refusal as refusal:
            self._refuse(refusal)

    def _repository(self, name: str) -> Repository:
        """The repository, if whoever asks may know of it; the hub hides private ones as if they were not."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", TOKEN, STRANGER):
            raise Refusal(401, message="Invalid credentials in Authorization header")
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and token != TOKEN):
            raise Refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, name: str, revision: str) -> tuple[str, Mapping[str, bytes]]:
        repository = self._repository(name)
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _send_info(self, name: str, revision: str) -> None:
        commit, files = self._commit(name, revision)
        siblings = [self._sibling(file, content) for file, content in files.items()]
        self._send_json({"id": name, "sha": commit, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _sibling(self, file: str, content: bytes) -> dict[str, Any]:
        sibling = {"rfilename": file, "size": len(content), "blobId": etag_of(content)}
        lfs = {"sha256": etag_of(content), "size": len(content), "pointerSize": 134}
        return sibling | ({"lfs": lfs} if len(content) >= LARGE else {})

    def _send_tree(self, name: str, revision: str) -> None:
        _, files = self._commit(name, revision)
        entries: list[dict[str, Any]] = []
        for file, content in files.items():
            lfs = {"oid": etag_of(content), "size": len(content), "pointerSize": 134}
            entry = {"type": "file", "path": file, "size": len(content), "oid": etag_of(content)}
            entries.append(entry | ({"lfs": lfs} if len(content) >= LARGE else {}))
        self._send_json(entries)

    def _send_file(self, name: str, revision: str, file: str) -> None:
        commit, files = self._commit(name, revision)
        if self.server.repositories[name].gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 403 if self.headers.get("Authorization") else 401
            raise Refusal(status, "GatedRepo", "Access to this model is restricted")
        if file not in files or file in self.server.failures.missing:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content, tag = files[file], etag_of(files[file])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if len(content) < LARGE:
            self._send(HTTPStatus.OK, headers, content)
            return
        linked = {"X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        location = f"{self.server.large_files}/{name}/{commit}/{file}"
        self._send(HTTPStatus.FOUND, {**headers, **linked, "Location": location}, b"")

    def _send_large(self, name: str, commit: str, file: str) -> None:
        content = self.server.repositories[name].commits[commit][file]
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{etag_of(content)}"'}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        with self.server.lock:
            cut = self.server.failures.cuts > 0
            self.server.failures.cuts -= cut
        self._send(HTTPStatus.PARTIAL_CONTENT if begin else HTTPStatus.OK, headers, content[begin:], cut=cut)

    def _send_json(self, value: object) -> None:
        self._send(HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _refuse(self, refusal: Refusal) -> None:
        headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
        self._send(refusal.status, {key: value for key, value in headers.items() if value}, b"{}")

    def _send(self, status: int, headers: Mapping[str, str], content: bytes, *, cut: bool = False) -> None:
        authorized = "Authorization" in self.headers
        asked = Asked(self.command, urlsplit(self.path).path, self.headers.get("Range"), authorized, int(status))
        self.server.log.append(asked)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut and self.server.failures.stalls:
            self.server.ended.wait()
        self.close_connection = self.close_connection or cut
