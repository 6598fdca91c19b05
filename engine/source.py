"""MODEL, as the user names it, to a folder on this machine.

On the boot path before torch: the hub's client, and all that it imports, waits in `engine.hub` until it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from engine.errors import InvalidConfig, InvalidModel, ModelNotFound

DEMO = Path(__file__).parent / "demo"
VOLUME = Path("/runpod-volume")
"""Where RunPod mounts a network volume, and its cache of models (RunPod's documentation, "Cached models")."""

HOST_CACHE = "huggingface-cache/hub"
"""The hub cache on the volume (the same page)."""

INDEX = "model.safetensors.index.json"
SHARD_DIGITS = 5
"""In the name of one shard of several (huggingface_hub, `serialization`)."""

_TRUE = {"1", "ON", "YES", "TRUE"}
"""What the hub's client takes for yes in a variable (huggingface_hub, `constants.py`)."""

Kind = Literal["demo", "folder", "baked", "volume", "host cache", "hub cache", "hub"]


class Found(NamedTuple):
    """Where a model is.

    Attributes:
        kind: what held it: `demo`; a `folder`; a folder that is `baked`; a folder on the network `volume`, baked or
            not; RunPod's `host cache`; the user's `hub cache`; the `hub` itself, if something had to be fetched.
        revision: the commit, where that is known.
    """

    folder: Path
    kind: Kind
    revision: str | None = None


def find_model(model: str) -> Path:
    """The folder that holds `model`; raises as `locate` does."""
    return locate(model).folder


def locate(model: str, revision: str | None = None, volume: Path = VOLUME) -> Found:
    """What holds `model`, the first of: the demo, a folder, the network volume, the host's cache, the hub.

    The user's own hub cache answers for the hub where the hub need not, may not or cannot be asked.

    Args:
        revision: a commit, tag or branch of the hub; None, and `main`, mean what is newest.

    Raises:
        ModelNotFound: none of them has it, or the hub does not give it.
        InvalidConfig: a revision of what has none.
        InvalidModel: the hub has it in a form that is not read.
    """
    revision = None if revision == "main" else revision or None
    return _held_here(model, revision, volume) or _by_hub_id(model, revision)


def find_locally(model: str, revision: str | None = None, volume: Path = VOLUME) -> Path | None:
    """The folder that `locate` will give, or most likely will, told without asking the hub; None if only that knows.

    Raises as `locate` does.
    """
    revision = None if revision == "main" else revision or None
    found = _held_here(model, revision, volume)
    return found.folder if found else _cached(hub_cache(), model, revision)


def find_settled(model: str, revision: str | None = None, volume: Path = VOLUME) -> Path | None:
    """The folder that `locate` will give, where the hub has no say in it; None where it will be asked.

    Raises as `locate` does.
    """
    revision = None if revision == "main" else revision or None
    found = _held_here(model, revision, volume) or _settled(model, revision, _cached(hub_cache(), model, revision))
    return found.folder if found else None


def chosen_weights(names: Iterable[str]) -> list[str]:
    """Of a folder's file names, those of the weights to read where no index says it; in order.

    Beside the weights in Hugging Face's names, popular repositories hold them again in Mistral's
    (`consolidated.safetensors`), or adapters to them; neither is read.
    """
    files = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if "model.safetensors" in files:
        return ["model.safetensors"]
    return [name for name in files if not name.startswith(("consolidated", "adapter_"))]


def indexed_weights(index: Path) -> list[str]:
    """The names of the files that an index of shards names, in order.

    Raises:
        InvalidModel: it is no such index.
    """
    import json

    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a file's name is no text")
        return sorted(names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidModel(f"{index} cannot be read: {type(error).__name__}: {error}") from None


def hub_cache() -> Path:
    """Where the hub's client keeps what it fetched, by its own variables (huggingface_hub, `constants.py`)."""
    variables = os.environ
    home = variables.get("HF_HOME") or f"{variables.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(os.path.expanduser(cache)))  # noqa: PTH111 - Path's own raises where nobody is home.


def repository_folder(model: str) -> str:
    """The name of a model's folder in a hub cache."""
    return "models--" + model.replace("/", "--")


def _held_here(model: str, revision: str | None, volume: Path) -> Found | None:
    """The model, where no hub has a say in it."""
    found = Found(DEMO, "demo") if model == "demo" else _in_folder(model, revision, volume)
    if found is not None:
        if revision and found.revision is None:
            raise InvalidConfig(f"revision {revision} was asked for, but {model} is a folder, which has none")
        return found
    if not _looks_like_hub_id(model):
        raise ModelNotFound(f"{model} is neither a folder nor a hub id (owner/name)")
    snapshot = _cached(volume / HOST_CACHE, model, revision)
    return Found(snapshot, "host cache", snapshot.name) if snapshot else None


def _in_folder(model: str, revision: str | None, volume: Path) -> Found | None:
    """The folder of that name, here or on the volume; within a hub cache, the snapshot that is asked for."""
    folder = _folder(model) or _model_on_volume(model, volume)
    if folder is None:
        return None
    on_volume = folder.absolute().is_relative_to(volume)
    if (folder / "snapshots").is_dir() and not (folder / "config.json").exists():
        if (snapshot := _snapshot(folder, revision)) is None:
            raise ModelNotFound(f"{folder} holds no whole snapshot of {revision or 'main'}")
        return Found(snapshot, "volume" if on_volume else "hub cache", snapshot.name)
    return Found(folder, "volume" if on_volume else "baked" if (folder / "boot.json").is_file() else "folder")


def _folder(model: str) -> Path | None:
    try:
        folder = Path(model).expanduser()
        found, is_folder = folder.exists(), folder.is_dir()
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"{model[:200]} cannot be looked for: {error}") from None
    if found and not is_folder:
        raise ModelNotFound(f"{model} is a file; name the folder that holds it")
    return folder if found else None


def _model_on_volume(model: str, volume: Path) -> Path | None:
    """A relative name may mean a folder on the volume, if there is a model in it."""
    folder = volume / model
    return folder if (folder / "config.json").is_file() and not model.startswith((".", "/", "~")) else None


def _looks_like_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and all(model.split("/"))


def _by_hub_id(model: str, revision: str | None) -> Found:
    cached = _cached(hub_cache(), model, revision)
    return _settled(model, revision, cached) or _from_hub(model, revision, cached)


def _settled(model: str, revision: str | None, cached: Path | None) -> Found | None:
    """What is cached, where the hub need not or may not be asked whether it is all, and the newest."""
    offline = _is_offline()
    if cached is not None and (offline or cached.name == revision):
        return Found(cached, "hub cache", cached.name)
    if offline:
        begun = repository_folder(model) in (folder.name for folder in _children(hub_cache()))
        wanted = f"{model} at {revision}" if revision else model
        held = f"{wanted} is not {'wholly ' if begun else ''}in {hub_cache()}"
        raise ModelNotFound(f"{held}, and HF_HUB_OFFLINE forbids fetching it: unset that, or bring the model there")
    return None


def _is_offline() -> bool:
    return (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def _from_hub(model: str, revision: str | None, cached: Path | None) -> Found:
    """What the hub has; where it fails, a copy from earlier is better than no answer."""
    from engine.hub import download

    try:
        return download(model, revision, hub_cache())
    except ModelNotFound as error:
        if cached is None:
            raise
        import logging

        logging.getLogger("pilotlight.source").warning("%s; serving the copy of %s from earlier", error, cached.name)
        return Found(cached, "hub cache", cached.name)


def _cached(cache: Path, model: str, revision: str | None) -> Path | None:
    """The model's snapshot in a hub cache; the folder's name may differ in case (RunPod lower-cases some)."""
    exact = cache / repository_folder(model)
    alike = [folder for folder in _children(cache) if folder.name.lower() == exact.name.lower()]
    for folder in sorted(alike, key=lambda folder: (folder != exact, folder)):
        if (snapshot := _snapshot(folder, revision)) is not None:
            return snapshot
    return None


def _snapshot(repository: Path, revision: str | None) -> Path | None:
    """The whole snapshot that is asked for; without a revision, failing that, the newest one."""
    snapshots = repository / "snapshots"
    names = [_referred(repository / "refs" / (revision or "main")), revision]
    candidates = [snapshots / name for name in names if name]
    if revision is None:
        candidates += sorted(_children(snapshots), key=os.path.getmtime, reverse=True)
    return next((snapshot for snapshot in candidates if is_whole(snapshot)), None)


def _referred(reference: Path) -> str | None:
    try:
        return reference.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def is_whole(snapshot: Path) -> bool:
    """Whether a hub cache's snapshot holds all of a model, as far as can be told without asking the hub."""
    names = [file.name for file in _children(snapshot)]
    try:
        weights = indexed_weights(snapshot / INDEX) if INDEX in names else chosen_weights(names)
    except InvalidModel:
        return False
    files = ["config.json", *weights, *([] if INDEX in names else _other_shards(weights))]
    present = bool(weights) and all((snapshot / name).is_file() for name in files)
    return present and not _is_arriving(snapshot.parent.parent / "blobs")


def _other_shards(weights: list[str]) -> list[str]:
    """The names of all shards, told by one: `model-00001-of-00004.safetensors`."""
    stem, of, total = weights[0].removesuffix(".safetensors").rpartition("-of-") if weights else ("", "", "")
    if not of or not total.isdigit() or len(total) != SHARD_DIGITS:
        return []
    prefix = stem.rpartition("-")[0]
    return [f"{prefix}-{number:0{SHARD_DIGITS}}-of-{total}.safetensors" for number in range(1, int(total) + 1)]


def _is_arriving(blobs: Path) -> bool:
    """Whether a file is only begun: `HASH.incomplete` or `HASH.RANDOM.incomplete`, without a whole `HASH`."""
    names = {file.name for file in _children(blobs)}
    return any(name.endswith(".incomplete") and name.partition(".")[0] not in names for name in names)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
