"""Compiling ahead: what is compiled, what lies in the folder, and that it is whole or not there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from engine.config import EngineConfig
from kernels import precompile as command
from kernels.gpu import gather, linear
from kernels.gpu.compiler import CompilationFailed, NotLaunchable, compile_variant, ptx_parameters
from kernels.gpu.index import Binary, Index, IndexBroken, IndexMissing, IndexStale, source_hash
from kernels.gpu.operations import GpuOperations
from kernels.gpu.specification import Constant, ModelShape, Variant, resolve
from kernels.gpu.triton import specifications
from kernels.gpu.variants import DTYPES, PAGE_SIZE, ModelUnreadable, every_shape, model_shapes, variant_key, variants_of
from kernels.precompile import precompile
from kernels.quantize import quantize_int4, quantize_int8
from tests.kernels.compiled import EVERY, compiled_kernels, one_of_each

SIZES = {"i64": 8, "i32": 4, "fp32": 4}
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
NORM = Variant("rms_norm", {"BLOCK": 128, "num_warps": 1, "num_stages": 1}, {"T": "fp16"})
WIDER_NORM = Variant("rms_norm", {"BLOCK": 256, "num_warps": 1, "num_stages": 1}, {"T": "fp16"})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that an earlier compilation left behind is taken for a new one's work."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


class Recorder:
    """Launches nothing, and notes what it was asked for."""

    compilations = 0

    def __init__(self) -> None:
        self.asked: list[Variant] = []
        self._specifications = specifications()

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        kinds = [kind for _, kind in self._specifications[kernel].arguments]
        types = {
            kind[1:]: {**TYPES, torch.int64: "i64"}[argument.dtype]
            for kind, argument in zip(kinds, arguments, strict=True)
            if isinstance(argument, Tensor) and resolve(kind, {}) == kind and kind[1:].isupper()
        }
        self.asked.append(Variant(kernel, constants, types))


def launches(shape: ModelShape, dtype: torch.dtype) -> list[Variant]:
    """Everything a decoder layer, a quantised projection and the gathers launch, of every length."""
    recorder, heads = Recorder(), shape.heads + 2 * shape.kv_heads
    operations = GpuOperations(recorder, processors=132, deterministic=shape.deterministic)
    cache = torch.zeros(600, shape.page_size, shape.kv_heads, shape.head_dim, dtype=dtype)
    tables = torch.zeros(3, 600, dtype=torch.int64)
    angles = torch.zeros(16, shape.head_dim, dtype=dtype)
    weight = torch.ones(shape.head_dim, dtype=dtype)
    for starts, counts in (((0, 5), (3, 40)), ((600, 9000), (1, 1)), ((3, 4, 9000), (1, 1, 7))):
        x = torch.zeros(sum(counts), shape.hidden_size, dtype=dtype)
        operations.add_rms_norm(operations.rms_norm(x, x[0], 1e-5), x, x[0], 1e-5)
        operations.silu_multiply(x)
        places = torch.zeros(len(x), dtype=torch.int64)
        query = operations.rotate_and_cache(
            x.new_zeros(len(x), heads, shape.head_dim), (weight, weight) if shape.head_norm else None, 1e-5, angles,
            angles, places, places, cache, cache,
        )
        for windowed in shape.windows:
            operations.attention(starts, counts, tables, shape.page_size).attend(
                query, cache, cache, 1.0, 1024 if windowed else None
            )
        gather.gather_rows(recorder, x, places)
        gather.token_logprobs(recorder, x.float(), places)
        for quantised in (quantize_int8(torch.ones(64, 256)), quantize_int4(torch.ones(64, 256))):
            linear.QuantizedLinear(recorder, quantised, None, 132)(x.new_zeros(len(x), 256))
    return recorder.asked


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("deterministic", [False, True], ids=["", "deterministic"])
def test_what_is_launched_is_what_a_models_shape_compiles(dtype: torch.dtype, deterministic: bool) -> None:
    shape = ModelShape(TYPES[dtype], 6, 2, 80, 256, 128, 16, True, (False, True), deterministic=deterministic)
    compiled = {variant_key(variant) for variant in variants_of([shape])}
    asked = {variant_key(variant) for variant in launches(shape, dtype)}
    assert {kernel for kernel, _, _ in asked} >= {"paged_attention", "merge_splits", "int8_linear", "gather_rows"}
    assert asked <= compiled


@pytest.mark.parametrize("group", [1, 3, 4, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size_and_group_is_among_all_variants(head_dim: int, group: int) -> None:
    every = {variant_key(variant) for variant in variants_of(every_shape(["bfloat16"], PAGE_SIZE))}
    shape = ModelShape("bf16", 2 * group, 2, head_dim, 4096, 14336, PAGE_SIZE, windows=(False, True))
    assert {variant_key(variant) for variant in variants_of([shape])} <= every


def test_the_page_size_is_the_engines() -> None:
    assert EngineConfig().page_size == PAGE_SIZE


def test_a_variant_is_compiled_once_however_many_shapes_want_it() -> None:
    shape = ModelShape("fp16", 8, 2, 64, 512, 1024, 16)
    assert variants_of([shape, shape]) == variants_of([shape])


def write_config(folder: Path, **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "dtype": "bfloat16", **fields}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_models_shape_is_read_from_its_config(tmp_path: Path) -> None:
    shapes = list(model_shapes(write_config(tmp_path, head_dim=128, sliding_window=4096), None, 16))
    assert {(shape.dtype, shape.heads, shape.kv_heads, shape.head_dim, shape.hidden_size) for shape in shapes} == {
        ("bf16", 16, 8, 128, 1024)
    }
    assert {shape.windows for shape in shapes} == {(False, True)}
    assert {(shape.head_norm, shape.deterministic) for shape in shapes} == {
        (False, False), (False, True), (True, False), (True, True)
    }


def test_what_a_config_leaves_out_has_its_usual_value(tmp_path: Path) -> None:
    folder = write_config(tmp_path, num_key_value_heads=None, dtype=None, torch_dtype="float16")
    shape = next(model_shapes(folder, None, 16))
    assert (shape.dtype, shape.kv_heads, shape.head_dim, shape.windows) == ("fp16", 16, 64, (False,))


@pytest.mark.parametrize("text", ["", "[]", '{"hidden_size": 64}', '{"num_attention_heads": 0, "hidden_size": 1}'])
def test_an_unreadable_model_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelUnreadable, match=r"config\.json"):
        list(model_shapes(tmp_path, None, 16))


@pytest.mark.parametrize("variant", one_of_each(), ids=lambda variant: variant.kernel)
def test_a_cubin_takes_its_signature_and_two_pointers_that_triton_adds(variant: Variant) -> None:
    compiled = compile_variant(variant, 80)
    entry = compiled.ptx.partition(".entry")[2].partition("{")[0]
    parameters = re.findall(r"\.param \.([a-z])(\d+)(?: \.ptr \.global)?", entry)
    kinds = [kind for _, kind in compiled.binary.arguments]
    assert [int(bits) // 8 for _, bits in parameters] == [SIZES.get(kind, 8) for kind in kinds] + [8, 8]
    assert [letter == "f" for letter, _ in parameters] == [kind == "fp32" for kind in kinds] + [False, False]
    assert compiled.binary.hidden == 2
    assert f".visible .entry {compiled.binary.function}(" in compiled.ptx
    assert compiled.cubin.startswith(b"\x7fELF")
    assert f".reqntid {32 * compiled.binary.warps}" in compiled.ptx


def test_parameters_of_each_size_are_counted() -> None:
    ptx = ".visible .entry f(\n\t.param .u64 .ptr .global .align 16 f_0,\n\t.param .f32 f_1,\n\t.param .u32 f_2\n)\n{}"
    assert ptx_parameters(ptx) == [8, 4, 4]


def test_a_kernel_that_wants_scratch_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.gpu import compiler

    compile_as_ever = compiler._compile

    class WithScratch:
        def __init__(self, *arguments: object) -> None:
            compiled = compile_as_ever(*arguments)  # type: ignore[arg-type]
            self.asm, self.metadata = compiled.asm, compiled.metadata._replace(global_scratch_size=128)

    monkeypatch.setattr(compiler, "_compile", WithScratch)
    with pytest.raises(NotLaunchable, match="rms_norm wants global scratch memory"):
        compile_variant(NORM, 80)


def test_the_index_says_what_was_compiled(tmp_path: Path) -> None:
    index = precompile([NORM], [80, 90], tmp_path / "out", jobs=1)
    assert Index.read(tmp_path / "out") == index
    assert [binary.target for binary in index.binaries] == ["sm_80", "sm_90a"]
    for binary in index.binaries:
        assert (binary.kernel, binary.constants, binary.types) == ("rms_norm", NORM.constants, NORM.types)
        assert len(binary.read(tmp_path / "out")) == binary.size
    index.require_current()


def test_two_processes_give_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = precompile([NORM, WIDER_NORM], [80], tmp_path / "alone", jobs=1)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "another cache"))
    together = precompile([NORM, WIDER_NORM], [80], tmp_path / "together", jobs=2)
    assert together.binaries == alone.binaries


def test_an_index_has_one_order_whatever_was_compiled_first() -> None:
    binaries = [replace(binary_of("sm_80"), constants={"BLOCK": block}, sha256="same code") for block in range(3)]
    forward, backward = (Index("3.7.1", "", tuple(order)) for order in (binaries, binaries[::-1]))
    nothing = Index("", "", ())
    assert nothing.joined(forward) == nothing.joined(backward) == backward.joined(forward)


def test_a_cubin_holds_no_path_of_the_machine_that_made_it() -> None:
    assert str(Path(command.__file__).parent).encode() not in compile_variant(NORM, 80).cubin


def test_compiling_again_adds_to_the_folder(tmp_path: Path) -> None:
    precompile([NORM], [80], tmp_path, jobs=1)
    precompile([NORM, WIDER_NORM], [89], tmp_path, jobs=1)
    found = [(binary.constants["BLOCK"], binary.target) for binary in Index.read(tmp_path).binaries]
    assert found == [(128, "sm_80"), (128, "sm_89"), (256, "sm_89")]


def test_what_other_sources_made_is_replaced_and_its_files_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    earlier = Index("3.6.0", "0" * 64, precompile([WIDER_NORM], [80], out, jobs=1).binaries)
    earlier.write(out, {})
    index = precompile([NORM], [80], out, jobs=1)
    assert [binary.constants["BLOCK"] for binary in index.binaries] == [128]
    assert [str(path.relative_to(out)) for path in out.rglob("*.cubin")] == [index.binaries[0].file]


def test_a_compilation_that_fails_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = precompile([NORM], [80], tmp_path / "out", jobs=1)
    impossible = Variant("rms_norm", {**NORM.constants, "BLOCK": 100}, NORM.types)
    for folder in ("out", "new"):
        with pytest.raises(CompilationFailed, match="'BLOCK': 100"):
            precompile([WIDER_NORM, impossible], [80], tmp_path / folder, jobs=1)
    assert Index.read(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()


def test_a_write_that_is_cut_short_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    replace = Path.replace

    def replace_once(path: Path, target: Path) -> Path:
        if written:
            raise KeyboardInterrupt
        written.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_once)
    with pytest.raises(KeyboardInterrupt):
        precompile([NORM, WIDER_NORM], [80], tmp_path, jobs=1)
    assert written
    with pytest.raises(IndexMissing, match=r"index\.json is missing"):
        Index.read(tmp_path)


def test_a_damaged_cubin_is_not_loaded(tmp_path: Path) -> None:
    [binary] = precompile([NORM], [80], tmp_path, jobs=1).binaries
    with (tmp_path / binary.file).open("r+b") as file:
        file.truncate(binary.size - 1)
    with pytest.raises(IndexBroken, match="damaged"):
        binary.read(tmp_path)
    (tmp_path / binary.file).unlink()
    with pytest.raises(IndexBroken, match="cannot be read"):
        binary.read(tmp_path)


@pytest.mark.parametrize("text", [
    "", "{}", "[]", '{"format": 2}', '{"format": 1, "triton": "3", "source": "", "binaries": [{"kernel": "gated"}]}',
])
def test_a_broken_index_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(IndexBroken, match=r"index\.json"):
        Index.read(tmp_path)


def test_an_index_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    precompile([NORM], [80], tmp_path, jobs=1)
    path = tmp_path / "index.json"
    path.write_text(re.sub(r'"file": "[^"]+"', '"file": "../outside"', path.read_text()))
    with pytest.raises(IndexBroken, match="outside"):
        Index.read(tmp_path)


def test_kernels_of_other_sources_than_those_installed_are_stale() -> None:
    Index("3.7.1", source_hash(), ()).require_current()
    with pytest.raises(IndexStale, match=r"kernels\.precompile"):
        Index("3.7.1", "0" * 64, ()).require_current()


def binary_of(target: str) -> Binary:
    return Binary("gated", {}, {}, (), 2, "gated", target, 4, 0, "file", "", 0)


@pytest.mark.parametrize(("target", "serving"), [
    ("sm_80", [80, 86, 89]), ("sm_86", [86, 89]), ("sm_89", [89]), ("sm_90a", [90]), ("sm_100a", [100]),
    ("sm_120a", [120]),
])
def test_a_binary_serves_its_own_architecture_and_later_minor_ones(target: str, serving: list[int]) -> None:
    devices = [75, 80, 86, 89, 90, 100, 103, 120, 121]
    assert [device for device in devices if binary_of(target).serves(device)] == serving


def test_a_device_gets_the_binary_of_the_nearest_architecture() -> None:
    index = Index("3.7.1", "", tuple(map(binary_of, ("sm_86", "sm_80", "sm_90a"))))
    nearest = {device: [one.target for one in index.for_device(device).values()] for device in (80, 86, 89, 90, 100)}
    assert nearest == {80: ["sm_80"], 86: ["sm_86"], 89: ["sm_86"], 90: ["sm_90a"], 100: []}


def test_the_command_compiles_a_models_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "variants_of", lambda shapes: [NORM] if list(shapes) else [])
    arguments = ["--arch", "80,86", "--model", str(write_config(tmp_path / "model")), "--jobs", "1", "--json"]
    assert command.main([*arguments, str(tmp_path / "out")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["compiled"], summary["binaries"], summary["architectures"]) == (2, 2, [80, 86])
    assert summary["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.cubin"))


def test_the_command_lists_variants_for_people_and_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--list", "--model", str(write_config(tmp_path))]
    assert command.main(model) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "rms_norm T=bf16 BLOCK=1024 num_warps=4 num_stages=1" in lines
    assert command.main([*model, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["variants"]) == len(lines) == len(set(lines))


@pytest.mark.parametrize("arguments", [
    [], ["out"], ["--arch", "80"], ["--arch", "75", "out"], ["--arch", "8.0", "out"], ["--dtype", "int8", "--list"],
], ids=" ".join)
def test_bad_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2


def test_a_model_that_is_not_there_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--arch", "80", "--model", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "config.json cannot be read" in capsys.readouterr().err


def compiled_for(index: Index, architecture: int) -> set[tuple[str, str, str]]:
    return {
        variant_key(Variant(binary.kernel, binary.constants, binary.types))
        for binary in index.binaries if binary.architecture == architecture
    }


@pytest.mark.skipif(EVERY is None, reason="takes minutes: CI compiles everything before the tests and says where")
def test_every_variant_is_compiled_for_hopper_and_two_models_for_all_others(tmp_path: Path) -> None:
    index = Index.read(compiled_kernels(tmp_path))
    assert {variant_key(variant) for variant in variants_of(every_shape(list(DTYPES), 16))} <= compiled_for(index, 90)
    models = Path(__file__).parent / "models"
    for model, architecture in product(("llama-3.1-8b", "qwen3-0.6b"), (80, 86, 89, 100, 120)):
        wanted = variants_of(model_shapes(models / model, None, PAGE_SIZE))
        assert {variant_key(variant) for variant in wanted} <= compiled_for(index, architecture)
