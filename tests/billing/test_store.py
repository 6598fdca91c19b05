"""How a ledger is named, and a folder as one."""

from __future__ import annotations

import errno
import gzip
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.errors import InvalidConfig
from handler.billing.folder_store import FolderStore
from handler.billing.store import StoredObject, StoreTrouble, open_store

BODY = gzip.compress(b"line\n" * 100, mtime=0)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://My_bucket.1", "s3://My_bucket.1"),
        ("file:///data/ledger", "file:///data/ledger"),
        ("file://localhost/data/led%20ger", "file:///data/led ger"),
        ("/data/../ledger/", "file:///ledger"),
        (" relative ", f"file://{Path.cwd()}/relative"),
        ("file://relative", f"file://{Path.cwd()}/relative"),
        ("~/ledger", f"file://{Path.home()}/ledger"),
        ("file://~/ledger", f"file://{Path.home()}/ledger"),
    ],
)
def test_a_url_or_a_path_names_a_store(url: str, place: str) -> None:
    assert open_store(url).place == place


@pytest.mark.parametrize(
    "url",
    ["", " ", "s3://", "s3:///prefix", "s3:bucket", "file://", "file:x", "https://user:hunter2@host/bucket",
     "s3://AKIAHUNTER:hunter2@bucket/prefix", "s3://bucket?secret=hunter2", "gs://bucket"],
)
def test_anything_else_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"s3://BUCKET/PREFIX.*file://FOLDER") as caught:
        open_store(url)
    assert "hunter" not in str(caught.value).lower()


def test_naming_a_store_imports_no_client() -> None:
    program = (
        "import sys; from handler.billing.store import open_store; open_store('s3://bucket/prefix');"
        "print({'boto3', 'botocore', 'torch', 'httpx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_folder_keeps_what_is_put_there(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "made" / "when needed")
    assert store.put("a/b=ü %2F/c.gz", BODY)
    assert store.get("a/b=ü %2F/c.gz") == BODY
    assert list(store.keys()) == [StoredObject("a/b=ü %2F/c.gz", len(BODY))]


def test_a_second_writing_changes_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.put("a/b.gz", BODY)
    before = version(tmp_path / "a/b.gz")
    assert not store.put("a/b.gz", BODY)
    assert not store.put("a/b.gz", gzip.compress(gzip.decompress(BODY), 1)), "packed by another zlib"
    assert version(tmp_path / "a/b.gz") == before


def version(path: Path) -> tuple[int, int, int]:
    """Which file it is, and when it was written and renamed or linked; reading it leaves that as it is."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def test_what_differs_is_left_and_reported(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a.gz", BODY)
    for other in (gzip.compress(b"another"), BODY[:-9], b"", gzip.compress(b"line\n" * 101)):
        with pytest.raises(StoreTrouble, match="holds something else") as caught:
            store.put("a.gz", other)
        assert caught.value.refused
    assert store.get("a.gz") == BODY


def test_keys_come_in_the_order_of_s3_and_only_below_what_is_asked(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    names = ["b", "a-b", "a/z", "a/b/c", "a.b", "ab/c", "dt=2026-01-01/x", "dt=2026-01-02/y", "ä", "\U0001f600"]
    for name in names:
        store.put(name, b"")
    (tmp_path / ".hidden").write_text("")
    assert [found.key for found in store.keys()] == sorted(names, key=str.encode)  # noqa: SIM118
    for under in ("a", "a/", "dt=2026-01", "dt=2026-01-02/y", "nothing"):
        expected = sorted((name for name in names if name.startswith(under)), key=str.encode)
        assert [found.key for found in store.keys(under)] == expected


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/etc/passwd", "", "a//b", "a/.", ".partial", "a\0b"])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "inside")
    with pytest.raises(StoreTrouble, match="not a key"):
        store.put(key, BODY)
    with pytest.raises(StoreTrouble, match="not a key"):
        store.get(key)
    assert list(tmp_path.iterdir()) == []


def test_of_many_writers_of_one_object_one_writes(tmp_path: Path) -> None:
    store, wrote = FolderStore(tmp_path), []
    threads = [threading.Thread(target=lambda: wrote.append(store.put("x/y/z.gz", BODY))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wrote) == [False] * 15 + [True]
    assert [path.name for path in (tmp_path / "x/y").iterdir()] == ["z.gz"]


def test_where_there_are_no_hard_links_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*paths: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    store = FolderStore(tmp_path)
    assert store.put("a", BODY)
    assert not store.put("a", BODY)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store, done in ((FolderStore(tmp_path / "file" / "x"), "written"), (FolderStore(tmp_path / "gone"), "read")):
        with pytest.raises(StoreTrouble, match=f"{store.place} cannot be {done}: No.* directory") as caught:
            store.put("a", BODY) if done == "written" else list(store.keys())
        assert caught.value.refused


def test_an_object_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    program = f"""
import resource, signal
from handler.billing.folder_store import FolderStore
from handler.billing.store import StoreTrouble
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    FolderStore({str(tmp_path)!r}).put("a/b", bytes(1000))
except StoreTrouble as trouble:
    print(trouble)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert list((tmp_path / "a").iterdir()) == []
