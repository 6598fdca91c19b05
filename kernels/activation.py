"""The gate of the feed-forward block (SwiGLU, Shazeer 2020, arXiv:2002.05202)."""

from torch import Tensor
from torch.nn.functional import silu


def silu_multiply(gate_up: Tensor) -> Tensor:
    """SiLU of the first half of the last dimension times the second: [..., 2 x size] to [..., size]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up
