"""Kernels become machine code without a GPU; the variants of whole models are `precompile`'s to test."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from kernels.gpu import attention
from kernels.gpu.compiler import compile_variant
from kernels.gpu.specification import COMPILER_OPTIONS, ModelShape, Variant
from kernels.gpu.triton import specifications
from kernels.gpu.variants import variants_of

LLAMA = ModelShape(
    dtype="bf16", heads=32, kv_heads=8, head_dim=128, hidden_size=4096, intermediate_size=14336, page_size=16
)
SMALL_CARD = 99 * 1024
"""Bytes of shared memory a program may have on compute capability 8.6 and 8.9, the least of those supported."""

VARIANTS = variants_of([LLAMA])
WIDEST = [
    variant for variant in attention.variants(ModelShape(
        dtype="bf16", heads=16, kv_heads=8, head_dim=256, hidden_size=4096, intermediate_size=14336, page_size=16,
        windows=(True,), soft_cap=True,
    )) if variant.kernel == "paged_attention"
]


def label(variant: Variant) -> str:
    return "-".join(str(part) for part in (variant.kernel, *variant.types.values(), *variant.constants.values()))


def test_every_interface_is_that_of_its_kernel() -> None:
    for spec in specifications().values():
        assert tuple(spec.function.arg_names) == (*(name for name, _ in spec.arguments), *spec.constants)


def test_a_model_has_a_variant_of_every_kernel() -> None:
    assert {variant.kernel for variant in VARIANTS} == set(specifications())


def test_a_variant_gives_every_constant() -> None:
    for variant in VARIANTS:
        assert set(variant.constants) == {*specifications()[variant.kernel].constants, *COMPILER_OPTIONS}


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_it_compiles_for_hopper(variant: Variant) -> None:
    assert compile_variant(variant, 90).cubin.startswith(b"\x7fELF")


@pytest.mark.parametrize("variant", WIDEST, ids=label)
def test_the_widest_heads_fit_the_smallest_shared_memory(variant: Variant) -> None:
    assert compile_variant(variant, 89).binary.shared <= SMALL_CARD
