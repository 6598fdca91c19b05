"""What the warmer and the local endpoint say to each other: `python -m tests.warmup.transcript` records it anew."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.local.up_process import Up, up
from warmup.endpoint_api import EndpointApi
from warmup.learning import Learner
from warmup.lease import Holder
from warmup.places import STOP, FolderPlace
from warmup.settings import Settings
from warmup.warmer import Warmer

RECORDED = Path(__file__).with_name("transcript.jsonl")
OPTIONS = ("--workers-max", "1", "--idle-timeout", "1", "--gpu-price", "0.0003")


class Recording(EndpointApi):
    """Keeps what is said."""

    def __init__(self, url: str) -> None:
        super().__init__("local", "none", f"{url}/v2", f"{url}/v2", 60.0)
        self._url = url
        self.said: list[dict[str, Any]] = []

    def _ask(self, method: str, url: str, body: object = None) -> Any:
        answer = super()._ask(method, url, body)
        path = url.removeprefix(self._url)
        self.said.append({"method": method, "path": path, "body": body, "answer": _plain(answer, self._url)})
        return answer


def converse(endpoint: Up) -> list[dict[str, Any]]:
    """A day of a warmer's, in short: it holds a worker, is stopped, lets workers stay, and ends."""
    api = Recording(endpoint.url)
    with tempfile.TemporaryDirectory() as folder:
        now = time.time()
        always = _warmer(api, Path(folder), "always")
        assert always.tick(now).trouble == ""
        endpoint.await_workers(idle=1)
        assert always.tick(now + 20).trouble == ""
        Path(folder, STOP).touch()
        assert always.tick(now + 40).role == "is stopped"
        Path(folder, STOP).unlink()
        always.close(now + 50)
        stays = _warmer(api, Path(folder), "idle:30")
        assert stays.tick(now + 60).trouble == ""
        stays.close(now + 80)
    return api.said


def shape(value: Any) -> Any:
    """Names and kinds, without the values."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value[:1]] if isinstance(value, list) else type(value).__name__


def _warmer(api: EndpointApi, folder: Path, policy: str) -> Warmer:
    place = FolderPlace(folder)
    settings = Settings(endpoint="local", policy=policy, price=0.0003, state=str(folder))
    return Warmer(settings, api, place, Learner(None, "local"), Holder(place))


def _plain(answer: Any, url: str) -> Any:
    """Without what differs from run to run: the port, and the worker's variables."""
    text: dict[str, Any] = json.loads(json.dumps(answer).replace(url, "http://127.0.0.1:8000"))
    return text | ({"env": {}} if "env" in text else {})


def main() -> None:
    with up(*OPTIONS) as endpoint:
        said = converse(endpoint)
    RECORDED.write_text("".join(json.dumps(line) + "\n" for line in said))


if __name__ == "__main__":
    main()
