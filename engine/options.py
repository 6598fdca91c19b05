"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

import re
from typing import Annotated, get_args

import typer

from engine.config import Device, DType, Quantization


def parse_size(text: str) -> int:
    """Bytes from a text such as 512MiB, 2GB or 1.5g; a bare letter means the power of ten, as in the settings.

    Raises:
        typer.BadParameter: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([kmgt]?)(b|ib)?", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text} is no size; write it like 512MiB, 2GB or 1.5g")
    number, letter, suffix = match.groups()
    step = 1024 if suffix == "ib" else 1000
    return int(float(number) * step ** " kmgt".index(letter or " "))


def parse_architectures(text: str) -> tuple[int, ...]:
    """Compute capabilities times ten from a text such as 80,90; 80 is the oldest that the kernels serve.

    Raises:
        typer.BadParameter: it is none.
    """
    parts = text.split(",")
    if not all(part.isdecimal() and 80 <= int(part) <= 999 for part in parts):
        raise typer.BadParameter(f"{text}: write numbers like 80 or 80,90, for 8.0 and 9.0", param_hint="--arch")
    return tuple(sorted({int(part) for part in parts}))


def parse_dtypes(text: str) -> tuple[str, ...]:
    """Names of dtypes from a text such as bfloat16,float16.

    Raises:
        typer.BadParameter: one is not known.
    """
    known, names = set(get_args(DType)) - {"auto"}, set(text.split(","))
    if names - known:
        raise typer.BadParameter(f"{text}: write some of {', '.join(sorted(known))}", param_hint="--dtype")
    return tuple(sorted(names))


MODEL = typer.Argument(metavar="[MODEL]", help="demo, a folder, or a hub id (owner/name).")
DEVICE = typer.Option("--device", help="Where to compute.")
DTYPE = typer.Option("--dtype", help="Of weights and cache; auto takes what the device computes fast.")
Model = Annotated[str, MODEL]
DeviceOption = Annotated[Device, DEVICE]
DTypeOption = Annotated[DType, DTYPE]
ContextOption = Annotated[
    int | None, typer.Option("--max-model-len", min=1, help="Context in tokens; default: the model's.")
]
MemoryOption = Annotated[
    int | None,
    typer.Option("--kv-memory", parser=parse_size, metavar="SIZE", help="Memory of the KV cache, like 512MiB or 2GB."),
]
QUANTIZE = typer.Option("--quantize", help="int8 rounds the layers' weights: quicker for few requests at once.")
DETERMINISTIC = typer.Option("--deterministic", help="On a GPU: the same logits in any batch, at a cost.")
QuantizeOption = Annotated[Quantization, QUANTIZE]
DeterministicOption = Annotated[bool, DETERMINISTIC]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens to generate at most.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")]
