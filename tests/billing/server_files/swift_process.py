"""OpenStack Swift with its S3 interface in one process: account, container, object and proxy servers.

Run by the Python of Swift's own environment: swift_process.py FOLDER PORT KEY SECRET
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import eventlet

eventlet.monkey_patch()

import eventlet.wsgi  # noqa: E402
from swift.account.server import AccountController  # noqa: E402
from swift.common import utils  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402
from swift.container.server import ContainerController  # noqa: E402
from swift.obj.server import ObjectController  # noqa: E402

SWIFT = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
"""

PROXY = """
[DEFAULT]
swift_dir = {folder}

[pipeline:main]
pipeline = s3api tempauth proxy-server

[filter:s3api]
use = egg:swift#s3api
location = us-east-1

[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


class Cache:
    """What memcached is to Swift, for one process: nothing ever expires."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def get(self, key: str, **options: Any) -> Any:
        return self._kept.get(key)

    def set(self, key: str, value: Any, **options: Any) -> None:
        self._kept[key] = value

    def delete(self, key: str, **options: Any) -> None:
        self._kept.pop(key, None)

    def incr(self, key: str, delta: int = 1, **options: Any) -> int:
        self._kept[key] = int(self._kept.get(key, 0)) + int(delta)
        return int(self._kept[key])

    def get_multi(self, keys: Iterable[str], server_key: str, **options: Any) -> list[Any]:
        return [self._kept.get(key) for key in keys]

    def set_multi(self, mapping: dict[str, Any], server_key: str, **options: Any) -> None:
        self._kept.update(mapping)


class Quiet:
    """A log of requests that nobody reads."""

    def write(self, text: str) -> None:
        pass


def listen(port: int = 0) -> Any:
    return eventlet.listen(("127.0.0.1", port))


def make_ring(folder: Path, name: str, port: int) -> None:
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": port, "device": "disk"}
    builder.add_dev(device)
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def start_storage(folder: Path, name: str, controller: Callable[[dict[str, str]], Any]) -> None:
    """One of the three servers that keep things, on a port of its own, which its ring then names."""
    options = {"devices": str(folder), "mount_check": "false", "swift_dir": str(folder), "disable_fallocate": "true"}
    socket = listen()
    make_ring(folder, name, socket.getsockname()[1])
    eventlet.spawn(eventlet.wsgi.server, socket, controller(options), Quiet(), debug=False)


def with_cache(app: Any) -> Any:
    cache = Cache()

    def cached(environment: dict[str, Any], start_response: Any) -> Any:
        environment["swift.cache"] = cache
        return app(environment, start_response)

    return cached


def main(folder: Path, port: int, key: str, secret: str) -> None:
    (folder / "disk").mkdir()
    (folder / "swift.conf").write_text(SWIFT)
    utils.set_swift_dir(str(folder))
    utils.validate_configuration()
    start_storage(folder, "account", AccountController)
    start_storage(folder, "container", ContainerController)
    start_storage(folder, "object", ObjectController)
    account, user = key.split(":")
    configuration = folder / "proxy-server.conf"
    configuration.write_text(PROXY.format(folder=folder, account=account, user=user, secret=secret))
    eventlet.wsgi.server(listen(port), with_cache(loadapp(str(configuration))), Quiet(), debug=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
