"""Kernels become machine code without a GPU; the variants of whole models are `precompile`'s to test."""

from __future__ import annotations

import pytest

from kernels.gpu import activation, attention, norm, rotary
from kernels.gpu.specification import COMPILER_OPTIONS, ModelShape, Variant

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels.gpu.triton import specifications  # noqa: E402

LLAMA = ModelShape(
    dtype="bf16", heads=32, kv_heads=8, head_dim=128, hidden_size=4096, intermediate_size=14336, page_size=16
)
SMALL_CARD = 99 * 1024
"""Bytes of shared memory a program may have on compute capability 8.6 and 8.9, the least of those supported."""

VARIANTS = [variant for file in (activation, attention, norm, rotary) for variant in file.variants(LLAMA)]
WIDEST = [
    variant for variant in attention.variants(ModelShape(
        dtype="bf16", heads=16, kv_heads=8, head_dim=256, hidden_size=4096, intermediate_size=14336, page_size=16,
        windows=(True,), soft_cap=True,
    )) if variant.kernel == "paged_attention"
]


def compiled(variant: Variant, capability: int) -> tuple[bytes, int]:
    """The machine code, and its bytes of shared memory."""
    spec = specifications()[variant.kernel]
    constants = {name: value for name, value in variant.constants.items() if name not in COMPILER_OPTIONS}
    options = {name: variant.constants[name] for name in COMPILER_OPTIONS}
    source = ASTSource(spec.function, spec.signature(variant.types), constants, spec.attributes())
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return kernel.asm["cubin"], kernel.metadata.shared


def label(variant: Variant) -> str:
    return f"{variant.kernel}-{'-'.join(str(value) for value in variant.constants.values())}"


def test_every_interface_is_that_of_its_kernel() -> None:
    for spec in specifications().values():
        assert tuple(spec.function.arg_names) == (*(name for name, _ in spec.arguments), *spec.constants)


def test_a_variant_gives_every_constant() -> None:
    for variant in VARIANTS:
        assert set(variant.constants) == {*specifications()[variant.kernel].constants, *COMPILER_OPTIONS}


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_it_compiles_for_hopper(variant: Variant) -> None:
    code, _ = compiled(variant, 90)

    assert code.startswith(b"\x7fELF")


@pytest.mark.parametrize("variant", WIDEST, ids=label)
def test_the_widest_heads_fit_the_smallest_shared_memory(variant: Variant) -> None:
    _, shared = compiled(variant, 89)

    assert shared <= SMALL_CARD
