"""Matrix product with a weight."""

from torch import Tensor
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[tokens, inputs] by a weight of [outputs, inputs] to [tokens, outputs]."""
    return functional.linear(x, weight, bias)
