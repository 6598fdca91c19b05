"""Puts the engine together, from a configuration to something that computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine.allocator import keep_freed_memory
from engine.chat import ChatTemplate
from engine.config import EngineConfig
from engine.core import Core
from engine.engine import Engine, Model
from engine.errors import InvalidConfig
from engine.machine import usable_memory, usable_threads
from engine.manifest import Manifest, check, read_manifest
from engine.models import read_architecture
from engine.models.architecture import Architecture
from engine.pages import PagePool
from engine.plan import Plan, make_plan
from engine.scheduler import Scheduler
from engine.source import locate
from engine.start import Start
from engine.text import Tokenizer
from engine.timeline import AfterReady, Timeline
from engine.torch_import import import_torch

if TYPE_CHECKING:
    import torch

    from engine.layers import Decoder
    from engine.weights import Placement, TensorSource, Weights
    from kernels.operations import Operations


KERNEL_CACHE = Path("~/.cache/pilotlight/kernels").expanduser()
"""Compiled GPU kernels of the user, where the configuration names no folder."""


@dataclass(frozen=True, slots=True)
class Booted:
    """A core ready to compute, and what was found on the way."""

    core: Core
    model: Model
    plan: Plan
    timeline: Timeline


def boot(config: EngineConfig, start: Start | None = None) -> Engine:
    """An engine that is ready to `start`.

    Args:
        start: what the caller has begun already.

    Raises:
        PilotlightError: the model cannot be found, read or fitted, or a setting contradicts it.
    """
    booted = boot_core(config, start)
    return Engine(booted.core, booted.model, booted.plan)


def check_files(config: EngineConfig, folder: Path) -> None:
    """See whether a boot could read this folder, as far as that can be told without torch and the weights' numbers.

    Raises:
        PilotlightError: as `boot` does.
    """
    from engine.tensor_file import read_header, weight_files

    _read_model(config, folder, _checked_manifest(folder))
    for file in weight_files(folder):
        read_header(file)


def boot_core(
    config: EngineConfig, start: Start | None = None, *, operations: Operations | None = None,
    tensors: Callable[[torch.dtype, torch.device], TensorSource] | None = None,
) -> Booted:
    """The synchronous core of an engine; raises as `boot` does.

    What waits for storage, what imports and what computes go on beside each other: the weights are read while torch is
    imported, and that while the model's other files are.

    Args:
        start: what the caller has begun already.
        operations: what to compute with; None takes the device's own.
        tensors: where the weights come from; None reads the model's folder.
    """
    start = start or Start()
    try:
        return _boot(config, start, operations, tensors)
    finally:
        start.end()


def _boot(
    config: EngineConfig, start: Start, operations: Operations | None,
    tensors: Callable[[torch.dtype, torch.device], TensorSource] | None,
) -> Booted:
    timeline = start.timeline
    with timeline.span("model files") as about:
        found = locate(config.model, config.revision)
        about["source"] = found.kind
        if tensors is None:
            start.read(found.folder)
        manifest = _checked_manifest(found.folder)
        model, shape = _read_model(config, found.folder, manifest)
    import_torch()
    with timeline.span("device"):
        device, dtype, threads = _open_device(config)
    with timeline.span("kernels"):
        kernels = _kernel_folder(config, found.folder, manifest)
        operations = operations or open_operations(device, dtype, shape, config, kernels)
    with timeline.span("plan"):
        opened = tensors or partial(_open_weights, found.folder, operations, config, timeline)
        weights = opened(dtype, device)
        plan = _make_plan(config, shape, device, dtype, threads, weights, operations)
    with timeline.span("model"):
        decoder = _load(weights, shape, plan, operations)
    with timeline.span("cache and rows"):
        core = _assemble(plan, shape, decoder, operations, model.tokenizer, dtype, device)
    with timeline.span("weights arrive"):
        weights.finish()
    core.after_ready = AfterReady(timeline)
    timeline.mark("ready")
    return Booted(core, model, plan, timeline)


def _make_plan(
    config: EngineConfig, shape: Architecture, device: torch.device, dtype: torch.dtype, threads: int,
    weights: TensorSource, operations: Operations,
) -> Plan:
    packed_bytes = weights.bytes if operations.packs else 0
    return make_plan(
        config, shape, device=device.type, dtype=str(dtype).removeprefix("torch."), value_bytes=dtype.itemsize,
        kernels=operations.name, threads=threads, weight_bytes=weights.bytes, packed_bytes=packed_bytes,
        free_memory=_free_memory(device) - weights.bytes - packed_bytes, recordable=operations.recordable,
    )


def _checked_manifest(folder: Path) -> Manifest | None:
    """A baked folder's manifest, held against the folder as far as that goes without reading weights."""
    manifest = read_manifest(folder)
    if manifest is not None:
        check(folder, manifest)
    return manifest


def _kernel_folder(config: EngineConfig, folder: Path, manifest: Manifest | None) -> Path:
    """Where compiled GPU kernels are looked for: the one named, the baked model's, or the user's cache."""
    if config.kernels:
        return Path(config.kernels)
    return folder / "kernels" if manifest is not None and manifest.kernels is not None else KERNEL_CACHE


def _read_model(config: EngineConfig, folder: Path, manifest: Manifest | None) -> tuple[Model, Architecture]:
    """The model is offered under the name it was asked for by; a baked one under the name it was baked from."""
    name = config.model if manifest is None else manifest.model.source
    shape = read_architecture(folder)
    if config.skip_tokenizer_init:
        return Model(name, folder, Tokenizer.without_text(), None, shape.vocab_size), shape
    tokenizer = Tokenizer.from_folder(folder)
    template = ChatTemplate.from_folder(folder, tokenizer)
    return Model(name, folder, tokenizer, template, shape.vocab_size), shape


def _open_device(config: EngineConfig) -> tuple[torch.device, torch.dtype, int]:
    import torch

    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise InvalidConfig("device cuda was asked for, but torch finds none (pilotlight doctor says more)")
    device = torch.device("cuda" if config.device == "cuda" or (config.device == "auto" and available) else "cpu")
    threads = config.threads or usable_threads()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.init()
    else:
        keep_freed_memory()
    dtype = _fast_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
    return device, dtype, threads


def _fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32, which then is faster."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def open_operations(
    device: torch.device, dtype: torch.dtype, shape: Architecture, config: EngineConfig, kernels: Path
) -> Operations:
    """The fastest operations there are for a model on a device.

    Args:
        kernels: folder of compiled GPU kernels.
    """
    if device.type == "cpu":
        return open_cpu_operations(config)
    return _open_gpu_operations(device, dtype, shape, config, kernels)


def open_cpu_operations(config: EngineConfig) -> Operations:
    """The C++ kernels, or plain torch where they could not be built."""
    from kernels.cpu.library import Unavailable, load
    from kernels.cpu.operations import CpuOperations
    from kernels.operations import ReferenceOperations

    library = load()
    if isinstance(library, Unavailable):
        _require_plain(config, library.describe())
        return ReferenceOperations(library.describe())
    return CpuOperations(library, config.quantize == "int8")


def _require_plain(config: EngineConfig, kernels: str) -> None:
    """Refuse what plain torch does not do."""
    if config.quantize != "none":
        raise InvalidConfig(f"quantize {config.quantize} needs kernels of its own; here is {kernels}")


def _open_gpu_operations(
    device: torch.device, dtype: torch.dtype, shape: Architecture, config: EngineConfig, kernels: Path
) -> Operations:
    import torch

    from kernels.gpu.driver import DriverMissing
    from kernels.gpu.index import IndexMissing, IndexStale
    from kernels.gpu.launch import open_launcher
    from kernels.gpu.operations import GpuOperations
    from kernels.gpu.specification import ModelShape
    from kernels.gpu.variants import DTYPES
    from kernels.operations import ReferenceOperations

    ordinal = device.index or 0
    may_compile = shutil.which("gcc") is not None and find_spec("triton") is not None
    try:
        launcher = open_launcher(kernels, ordinal, development=may_compile)
    except (IndexMissing, IndexStale, DriverMissing) as error:
        _require_plain(config, f"plain torch: {error}")
        return ReferenceOperations(f"plain torch instead of GPU kernels: {error}")
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    fitted = ModelShape(
        DTYPES[str(dtype).removeprefix("torch.")], shape.heads, shape.kv_heads, shape.head_dim, shape.hidden_size,
        shape.intermediate_size, config.page_size,
    )
    return GpuOperations(launcher, processors, config.deterministic, config.quantize == "int8", fitted)


def _open_weights(
    folder: Path, operations: Operations, config: EngineConfig, timeline: Timeline, dtype: torch.dtype,
    device: torch.device,
) -> Weights:
    from engine.weights import Weights

    settled = config.quantize != "none"  # Rounding looks at the numbers at once.
    return Weights(folder, dtype, operations.matrix_dtype, _open_placement(device, timeline, settled))


def _open_placement(device: torch.device, timeline: Timeline, settled: bool) -> Placement:
    if device.type == "cpu":
        from engine.mapped import Mapped

        return Mapped(timeline)
    from engine.streamed import Streamed

    return Streamed(device, timeline, settled)


def _load(weights: TensorSource, shape: Architecture, plan: Plan, operations: Operations) -> Decoder:
    from engine.layers import Decoder

    decoder = Decoder(shape, weights, plan.max_model_len, operations)
    weights.warn_of_unused(["rotary_emb.inv_freq", *(["lm_head.weight"] if shape.tied else [])])
    return decoder


def _free_memory(device: torch.device) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else usable_memory()


def _assemble(
    plan: Plan, shape: Architecture, decoder: Decoder, operations: Operations,
    tokenizer: Tokenizer, dtype: torch.dtype, device: torch.device,
) -> Core:
    from engine.layers import KVCache
    from engine.rows import Rows
    from engine.runner import Runner
    from engine.sampler import Sampler

    pool = PagePool(plan.pages, plan.prefix_caching)
    scheduler = Scheduler(pool, plan.page_size, plan.token_budget, plan.max_running)
    padding_page = plan.pages  # One past the pool's, so that no request is ever given it.
    cache = KVCache(shape, plan.pages + bool(plan.graph_sizes), plan.page_size, dtype, device)
    rows = Rows(plan.max_running, plan.max_model_len, plan.page_size, device, padding_page)
    sampler = Sampler(shape.vocab_size, tokenizer.eos_token_ids, operations, rows.draws)
    runner = Runner(decoder, operations, cache, rows, sampler, plan.page_size, plan.graph_sizes)
    return Core(scheduler, runner, tokenizer, plan.overlap)
