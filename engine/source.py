"""MODEL, as the user names it, to a folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import ModelNotFound

DEMO = Path(__file__).parent / "demo"
HOST_CACHE = Path("/runpod-volume/huggingface-cache/hub")
"""Where RunPod keeps an endpoint's cached model (RunPod's documentation, "Cached models")."""

_NEEDED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "additional_chat_templates/*"]


def find_model(model: str, host_cache: Path = HOST_CACHE) -> Path:
    """The folder that holds `model`: the demo, a folder, RunPod's host cache, or the Hugging Face hub.

    Raises:
        ModelNotFound: none of them has it.
    """
    if model == "demo":
        return DEMO
    try:
        folder = Path(model).expanduser()
        found, is_folder = folder.exists(), folder.is_dir()
    except (OSError, RuntimeError) as error:
        raise ModelNotFound(f"{model[:200]} cannot be looked for: {error}") from None
    if is_folder:
        return folder
    if found:
        raise ModelNotFound(f"{model} is a file; name the folder that holds it")
    if not _looks_like_hub_id(model):
        raise ModelNotFound(f"{model} is neither a folder nor a hub id (owner/name)")
    return _in_host_cache(model, host_cache) or _from_hub(model)


def _looks_like_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and all(model.split("/"))


def _in_host_cache(model: str, root: Path) -> Path | None:
    """The newest snapshot in a hub cache; the folder's name may differ in case (RunPod lower-cases some)."""
    wanted = "models--" + model.replace("/", "--").lower()
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.lower() != wanted:
            continue
        main = folder / "refs" / "main"
        named = [folder / "snapshots" / main.read_text().strip()] if main.is_file() else []
        snapshots = sorted((folder / "snapshots").glob("*"), key=os.path.getmtime, reverse=True)
        return next((snapshot for snapshot in [*named, *snapshots] if (snapshot / "config.json").exists()), None)
    return None


def _from_hub(model: str) -> Path:
    # Kept out of the boot path of local models: its HTTP stack takes longer to import than a small model to load.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_NEEDED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(f"{model} is no folder here and could not be had from the hub: {first_line}") from None
