"""How fast a loader brings a model's weights in: `python benchmarks/cold_loaders.py LOADER FOLDER`; prints JSON.

The clock runs from a loader's first call until every page of every tensor has been touched: what is only mapped is not
yet there. Libraries are imported, and the device is opened, before it.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from engine.weights import Placement

PAGE = 4096

Load = Callable[[], Iterable[Tensor]]
"""Loads, and gives the tensors."""


def prefetched_and_mapped(folder: Path, device: torch.device) -> Load:
    """What a boot on a CPU does."""
    from engine.mapped import Mapped
    from engine.timeline import Timeline

    return lambda: _placed(folder, Mapped(Timeline()))


def prefetched_and_streamed(folder: Path, device: torch.device) -> Load:
    """What a boot on a GPU does, to any device."""
    from engine.streamed import Streamed
    from engine.timeline import Timeline

    return lambda: _placed(folder, Streamed(device, Timeline()))


def _placed(folder: Path, placement: Placement) -> list[Tensor]:
    """Every tensor of a folder in its own dtype, as a boot reads, places and waits for them."""
    from engine.prefetch import Prefetch
    from engine.tensor_file import read_header, reading_order, weight_files
    from engine.weights import DTYPES, Stored

    Prefetch(folder, lambda read: None)
    files = [read_header(path) for path in weight_files(folder)]
    stored = [Stored(file, entry) for file in files for entry in reading_order(file) if entry.dtype in DTYPES]
    tensors = [placement.place([part], part.dtype) for part in stored]
    placement.finish()
    for thread in threading.enumerate():
        if thread.name.startswith("weights "):
            thread.join()
    return tensors


def safetensors(folder: Path, device: torch.device) -> Load:
    """The format's own library."""
    from safetensors.torch import load_file

    return lambda: [tensor for file in _files(folder) for tensor in load_file(file, str(device)).values()]


def runai(folder: Path, device: torch.device) -> Load:
    """Run:ai's model streamer, whose tensors are valid until the next is asked for."""
    from runai_model_streamer import SafetensorsStreamer

    def load() -> Iterator[Tensor]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(file) for file in _files(folder)])
            for _, tensor in streamer.get_tensors():
                yield tensor if device.type == "cpu" else tensor.to(device)

    return load


def fastsafetensors(folder: Path, device: torch.device) -> Load:
    """IBM's fastsafetensors, through its own buffers: GPUDirect Storage is not at hand here."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def load() -> Iterator[Tensor]:
        loader = SafeTensorsFileLoader(SingleGroup(), str(device), nogds=True)
        loader.add_filenames({0: [str(file) for file in _files(folder)]})
        buffers = loader.copy_files_to_device()
        yield from (buffers.get_tensor(name) for name in loader.get_keys())

    return load


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


LOADERS: dict[str, Callable[[Path, torch.device], Load]] = {
    "pilotlight mapped": prefetched_and_mapped, "pilotlight streamed": prefetched_and_streamed,
    "safetensors": safetensors, "runai": runai, "fastsafetensors": fastsafetensors,
}
PACKAGES = {"safetensors": "safetensors", "runai": "runai-model-streamer", "fastsafetensors": "fastsafetensors"}


def touch(tensor: Tensor) -> int:
    """Read a byte of every page; gives how many bytes the tensor has. One on a device is there already."""
    if tensor.device.type == "cpu":
        tensor.flatten().view(torch.uint8)[::PAGE].sum()
    return tensor.nbytes


def main() -> None:
    """Read the command line, load, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    load = LOADERS[arguments.loader](arguments.folder, device)
    torch.zeros(PAGE, dtype=torch.uint8, device=device).sum()
    started = time.monotonic()
    size = sum(map(touch, load()))
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    package = PACKAGES.get(arguments.loader)
    print(json.dumps({"bytes": size, "seconds": seconds, "version": version(package) if package else None}))


if __name__ == "__main__":
    main()
