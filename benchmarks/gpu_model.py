"""A Llama of any size on a disk, its weights random: as fast as several threads can write it."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from math import prod
from pathlib import Path

import torch

from benchmarks.gpu_shapes import write_config
from benchmarks.make_model import tensor_shapes
from engine.source import DEMO

_BLOCK = 64 << 20
"""Bytes that are drawn; every matrix repeats them, from another place on."""
_WRITERS = 8
_VALUE_BYTES = 2


def write_model(shape: str, folder: Path) -> Path:
    """Write a folder as the hub would hold it, in bfloat16, with the demo's tokenizer so that it can be baked."""
    config = json.loads((write_config(shape, folder) / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder)
    _write_tensors(folder / "model.safetensors", tensor_shapes(config))
    return folder


def _write_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    sizes = [prod(shape) * _VALUE_BYTES for shape in shapes.values()]
    begins = [0, *accumulate(sizes)]
    header = json.dumps({
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [begin, begin + size]}
        for (name, shape), begin, size in zip(shapes.items(), begins, sizes, strict=False)
    }).encode()
    matrices, vectors = _numbers(0.02), _numbers(0.0, 1.0)
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(_WRITERS) as pool:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        blocks = [matrices if len(shape) > 1 else vectors for shape in shapes.values()]
        writes = [
            pool.submit(_repeat, file.fileno(), block, number, start + begin, size)
            for number, (block, begin, size) in enumerate(zip(blocks, begins, sizes, strict=False))
        ]
        for write in writes:
            write.result()


def _numbers(deviation: float, mean: float = 0.0) -> memoryview:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(_BLOCK // _VALUE_BYTES, generator=generator) * deviation + mean
    return memoryview(bytes(drawn.to(torch.bfloat16).view(torch.uint8).numpy()))


def _repeat(file: int, block: memoryview, number: int, offset: int, count: int) -> None:
    """Fill a tensor's bytes with a block again and again, from a place of its own on."""
    at, end = (number * 4096) % (_BLOCK // 2), offset + count
    while offset < end:
        offset += os.pwrite(file, block[at : at + end - offset], offset)
        at = 0
