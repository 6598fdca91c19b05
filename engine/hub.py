"""Models from the Hugging Face hub, through its own client; never imported unless something is asked of the hub."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils.logging import set_verbosity
from huggingface_hub.utils.tqdm import disable_progress_bars

from engine.errors import InvalidModel, ModelNotFound, PilotlightError
from engine.source import INDEX, Found, chosen_weights, indexed_weights, repository_folder

_READ = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja", INDEX, "boot.json", "kernels/*",
)
"""What the engine reads beside the weights; the last two are in baked folders alone."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
_AT_ONCE = 8
"""Files fetched at once, as the client itself does (huggingface_hub, `snapshot_download`)."""
_LINE_SECONDS = 5.0
"""Between two lines of progress in a log."""
_DRAW_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it.

    Attributes:
        blob: the name of its content in a hub cache.
    """

    name: str
    bytes: int
    blob: str


def download(model: str, revision: str | None, cache: Path) -> Found:
    """The model's snapshot in `cache`, after fetching what the engine reads of it and is not there yet.

    Progress goes to standard error. Files that were fetched whole stay when it fails, and are not fetched again.

    Raises:
        ModelNotFound: the hub has no such model or revision, does not give it, cannot be reached, or the files do not
            fit; the message says what to do.
        InvalidModel: the repository's weights are in no format that is read.
    """
    _quieten_client()
    try:
        return _download(model, revision, cache)
    except PilotlightError:
        raise
    except Exception as error:  # The client raises what its HTTP library does, and that is another with each version.
        raise ModelNotFound(f"{model} cannot be fetched: {_explain(error, model, revision, cache)}") from error


def _quieten_client() -> None:
    """Keep its bars and warnings off the terminal, unless the user asked for them: here speaks one voice."""
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
    if "HF_HUB_VERBOSITY" not in os.environ:
        set_verbosity(logging.ERROR)


def _download(model: str, revision: str | None, cache: Path) -> Found:
    info = HfApi().model_info(model, revision=revision, files_metadata=True)
    commit = info.sha or ""
    repository = cache / repository_folder(model)
    snapshot = repository / "snapshots" / commit
    needed = _needed(model, _listing(info), commit, cache)
    missing = [file for file in needed if not (snapshot / file.name).is_file()]
    if missing:
        _fetch(model, commit, missing, cache)
    _refer(repository / "refs" / (revision or "main"), commit)
    return Found(snapshot, "hub" if missing else "hub cache", commit)


def _listing(info: ModelInfo) -> dict[str, RemoteFile]:
    """The repository's files by name."""
    return {
        file.rfilename: RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or []
    }


def _needed(model: str, listing: Mapping[str, RemoteFile], commit: str, cache: Path) -> list[RemoteFile]:
    """The files that the engine reads.

    Raises:
        InvalidModel: the repository lacks one that every model has.
    """
    if "config.json" not in listing:
        raise InvalidModel(f"{model} holds no config.json: not a model in Hugging Face's layout")
    weights = _weights(model, listing, commit, cache)
    if not weights:
        raise InvalidModel(f"{model} holds no safetensors weights{_instead(listing)}; other formats are not read")
    if lacking := [name for name in weights if name not in listing]:
        raise InvalidModel(f"{model} lacks {lacking[0]}, which its index names")
    others = [name for name in listing if any(fnmatch(name, pattern) for pattern in _READ)]
    return [listing[name] for name in [*others, *weights]]


def _weights(model: str, listing: Mapping[str, RemoteFile], commit: str, cache: Path) -> list[str]:
    if INDEX not in listing:
        return chosen_weights(listing)
    return indexed_weights(Path(hf_hub_download(model, INDEX, revision=commit, cache_dir=cache)))


def _instead(listing: Mapping[str, RemoteFile]) -> str:
    """What there is in place of weights that could be read."""
    for pattern, words in (
        ("adapter_model.safetensors", ", but an adapter to another model"),
        ("consolidated*.safetensors", " in Hugging Face's names, but Mistral's consolidated ones"),
        ("*.gguf", ", but GGUF files"), ("*.bin", ", but pickled ones, which can run code"),
    ):
        if any(fnmatch(name, pattern) for name in listing):
            return words
    return ""


def _fetch(model: str, commit: str, files: list[RemoteFile], cache: Path) -> None:
    blobs = cache / repository_folder(model) / "blobs"
    total = sum(file.bytes for file in files)
    _require_room(model, total - _arrived(files, blobs), cache)
    with _progress(f"{model}: fetching", total, lambda: _arrived(files, blobs)):
        _in_threads(lambda file: hf_hub_download(model, file.name, revision=commit, cache_dir=cache), files)


def _in_threads(fetch: Callable[[RemoteFile], object], files: list[RemoteFile]) -> None:
    """Fetch several files at once; the first failure ends it.

    Not by the client's `snapshot_download`: its pool makes Ctrl-C wait for gigabytes that nobody wants any more.
    """
    waiting, outcomes = deque(files), SimpleQueue[Exception | None]()

    def work() -> None:
        with suppress(IndexError):
            while True:
                outcomes.put(_attempt(fetch, waiting.popleft()))

    for _ in range(min(_AT_ONCE, len(files))):
        threading.Thread(target=work, name="fetch", daemon=True).start()
    for _ in files:
        if (error := outcomes.get()) is not None:
            waiting.clear()
            raise error


def _attempt(fetch: Callable[[RemoteFile], object], file: RemoteFile) -> Exception | None:
    try:
        fetch(file)
    except Exception as error:
        return error
    return None


def _arrived(files: list[RemoteFile], blobs: Path) -> int:
    """Bytes of the files that are on the disk: the same measure for every version and transport of the client."""
    sizes: dict[str, int] = {}
    for entry in blobs.glob("*"):
        with suppress(OSError):
            blob = entry.name.partition(".")[0]
            sizes[blob] = max(sizes.get(blob, 0), entry.stat().st_size)
    return sum(min(file.bytes, sizes.get(file.blob, 0)) for file in files)


def _require_room(model: str, needed: int, cache: Path) -> None:
    existing = next(folder for folder in [cache, *cache.absolute().parents] if folder.is_dir())
    disk = shutil.disk_usage(existing)
    if disk.total and needed > disk.free:  # A total of zero means that this file system does not count.
        room = f"{_size(needed)} are to be fetched, but {cache} has room for {_size(disk.free)}"
        raise ModelNotFound(f"{model} cannot be fetched: {room}: free some, or set HF_HOME to a larger disk")


def _refer(reference: Path, commit: str) -> None:
    """Note what a branch or tag means, once all of it is here: what an offline start then takes."""
    if reference.name == commit:
        return
    with suppress(OSError):  # A cache that cannot be written to has all it needs.
        if reference.is_file() and reference.read_text() == commit:
            return
        reference.parent.mkdir(parents=True, exist_ok=True)
        draft = reference.with_name(f"{reference.name}.{os.getpid()}")
        draft.write_text(commit)
        draft.replace(reference)


@contextmanager
def _progress(words: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Tell standard error how far it is, for as long as the block runs: a bar at a terminal, else lines."""
    finished = threading.Event()
    # What is there already is counted here: the thread may start when much more has come.
    show = _draw if sys.stderr.isatty() else partial(_log, done(), time.monotonic())
    watcher = threading.Thread(target=show, args=(words, total, done, finished), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def _draw(words: str, total: int, done: Callable[[], int], finished: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(words, total=total)
        while not finished.wait(_DRAW_SECONDS):
            progress.update(task, completed=done())
        progress.update(task, completed=done())


def _log(
    before: int, started: float, words: str, total: int, done: Callable[[], int], finished: threading.Event
) -> None:
    print(f"{words} {_size(total - before)}", file=sys.stderr, flush=True)
    while not finished.wait(_LINE_SECONDS):
        rate = (done() - before) / (time.monotonic() - started)
        print(f"{words} {_size(done())} of {_size(total)}, {_size(int(rate))}/s", file=sys.stderr, flush=True)
    if (now := done()) >= total:
        print(f"{words} took {time.monotonic() - started:.1f} s ({_size(now)})", file=sys.stderr, flush=True)


def _size(count: int) -> str:
    """Bytes in decimal units, as disks and networks are sold."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _explain(error: BaseException, model: str, revision: str | None, cache: Path) -> str:
    """What went wrong, and what to do about it."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_disk(error, cache)
    if status is not None:
        return _explain_answer(error, int(status), model, revision)
    if isinstance(error, HFValidationError):
        return "that is no hub id (owner/name)"
    first_line = next(iter(str(error).strip().splitlines()), "")
    reason = f"{type(error).__name__}: {first_line}"
    return f"the connection to {constants.ENDPOINT} failed ({reason}): check the network and run it again"


def _explain_disk(error: OSError, cache: Path) -> str:
    if error.errno in _FULL:
        return f"{cache} is full ({error.strerror}): free some room, or set HF_HOME to a larger disk"
    if error.errno in _NOT_WRITABLE:
        return f"{cache} cannot be written to ({error.strerror}): set HF_HOME to a folder that can"
    return f"{error.strerror or error} (under {cache})"


def _explain_answer(error: BaseException, status: int, model: str, revision: str | None) -> str:
    """An answer of the hub that is none; 401 stands for unknown and private models alike when no token is sent."""
    page = f"{constants.ENDPOINT}/{model}"
    known = get_token() is not None
    if isinstance(error, GatedRepoError):
        token = "a token of an account that did" if known else "that account's token"
        return f"its owner asks for consent: accept the terms at {page} and set HF_TOKEN to {token}"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision}: {page}/commits lists them"
    if isinstance(error, EntryNotFoundError):
        return f"the hub lists a file that it does not have ({_file_of(error)}): try another revision"
    if isinstance(error, RepositoryNotFoundError):
        hint = "may not be read with this HF_TOKEN" if known else "is private: set HF_TOKEN"
        return f"the hub knows no such model, or it {hint}"
    if status in (401, 403):
        return f"the hub refuses the token ({status}): set HF_TOKEN to a valid one, or to none for public models"
    if status == 429:
        return "the hub allows no more requests for now: try again later, or set HF_TOKEN for a higher limit"
    return f"the hub answered with status {status}: try again later"


def _file_of(error: BaseException) -> str:
    url = str(getattr(getattr(error, "response", None), "url", ""))
    return url.rpartition("/")[2] or "its name is not known"
