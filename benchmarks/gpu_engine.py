"""Pilotlight's engine over random weights of a real shape, on any device."""

from __future__ import annotations

import itertools
import random
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.gpu_shapes import write_config
from benchmarks.random_weights import RandomWeights
from engine.bench import Job
from engine.boot import Booted, boot_core
from engine.config import DType, EngineConfig
from engine.engine import new_requests
from engine.models import read_architecture
from engine.models.architecture import Architecture
from engine.request import SamplingParams


class GpuEngine:
    """A booted core with its deferred work done, to which requests are added by hand."""

    def __init__(self, shape: str, device: torch.device, dtype: DType, max_running: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            model = write_config(shape, Path(folder))
            self.architecture = read_architecture(model)
            config = EngineConfig(
                str(model), "cuda" if device.type == "cuda" else "cpu", dtype, skip_tokenizer_init=True,
                max_model_len=min(4096, self.architecture.context), max_running=max_running, prefix_caching=False,
            )
            self.booted: Booted = boot_core(config, tensors=self._tensors)
        self.booted.core.finish_deferred()
        self._order = itertools.count()

    def _tensors(self, dtype: torch.dtype, device: torch.device) -> RandomWeights:
        return RandomWeights(dtype, device, dtype.itemsize * parameters(self.architecture))

    def add(self, jobs: Iterable[Job]) -> None:
        """Queue requests."""
        for job in jobs:
            params = SamplingParams(max_tokens=job.max_tokens, temperature=0, ignore_eos=True, detokenize=False)
            for request in new_requests(
                job.ids, params, request_id=uuid.uuid4().hex, order=self._order.__next__,
                max_model_len=self.booted.plan.max_model_len, vocab_size=self.architecture.vocab_size,
            ):
                self.booted.core.add(request)


def parameters(shape: Architecture) -> int:
    """Numbers in the model's matrices, the embedding and an untied head included."""
    return layer_parameters(shape) + shape.vocab_size * shape.hidden_size * (1 if shape.tied else 2)


def layer_parameters(shape: Architecture) -> int:
    """Numbers in the matrices of the layers."""
    attention = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim * shape.hidden_size
    return shape.layers * (attention + 3 * shape.hidden_size * shape.intermediate_size)


def random_jobs(
    count: int, vocabulary: int, prompt: tuple[int, int], output: tuple[int, int], seed: int = 0
) -> list[Job]:
    """Prompts of random tokens; lengths drawn evenly from the two ranges."""
    draw = random.Random(seed)
    return [
        Job([draw.randrange(vocabulary) for _ in range(draw.randint(*prompt))], draw.randint(*output))
        for _ in range(count)
    ]
