"""Model families: each turns a `config.json` into an `Architecture`, one short file a family."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import InvalidModel
from engine.models.architecture import Architecture, DecoderConfig

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture names in `config.json` and the module here that knows them, as its `Config`."""


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        InvalidModel: it is missing or is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidModel(f"{path} is missing; a model folder needs one")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InvalidModel(f"{path} is not a JSON object")
    return config


def read_architecture(folder: Path) -> Architecture:
    """What the folder's `config.json` describes.

    Raises:
        InvalidModel: the architecture is unknown, or the configuration asks for something we do not compute.
    """
    config = read_config(folder)
    names = config.get("architectures")
    names = [str(name) for name in names] if isinstance(names, list) and names else ["none named"]
    family = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    if family is None:
        raise InvalidModel(f"architecture {names[0]} is not known; known are {', '.join(FAMILIES)}")
    config_type: type[DecoderConfig] = import_module(f"engine.models.{family}").Config
    try:
        return config_type.model_validate(config).architecture()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "config"
        raise InvalidModel(f"{folder / 'config.json'}: {field}: {first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:
        raise InvalidModel(f"{folder / 'config.json'}: {error}") from None
