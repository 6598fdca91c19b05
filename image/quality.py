"""What rounding the weights changes: the model computed before and after, layer by layer, never whole in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from engine.chat import ChatTemplate
from engine.layers import Batch, Decoder, KVCache
from engine.manifest import SCALES, Quality, fused_name
from engine.models.architecture import Architecture
from engine.text import Tokenizer
from image.demo_tasks import counting, counting_pairs
from image.layout import Piece
from image.tensors import Tensors
from kernels.operations import Linear, ReferenceOperations
from kernels.quantize import Matrix, QuantizedWeight, dequantize

Load = Callable[[Piece], Tensor]
"""Gives a piece's numbers in the dtype they are stored in."""

TEXT = """
A lighthouse stands where the land ends. Every evening its keeper climbs the stairs, trims the wick and lights the lamp,
and all night long the beam goes round. Ships that pass far out at sea count the seconds between two flashes and know
from them which cape lies ahead. In fog, when no light carries, a bell is rung by hand, twice a minute, until the air
clears. Once a month a boat brings oil, flour, letters and the newspapers of four weeks, which the keeper reads one a
day, in order, as if they were fresh. The work is simple, but it must not be left undone for a single night. That is why
the station has a second lamp, filled and ready, beside the first: it takes less time to light a lamp that is already
full than to fill one that is not.
"""
"""Plain English, written for this and in no model's training."""

_ROWS = 16_384
"""Outputs of a projection computed at once: bounds what converting the head to float32 takes."""

_COUNTS = 40
"""Answers of the demo model: about one for every step of the first number and every length."""


def measure_change(
    folder: Path, shape: Architecture, pieces: Sequence[Piece], before: Load, after: Load, *, is_demo: bool
) -> Quality:
    """The change in what the model is good at: perplexity, or the demo model's counting; lower and higher are better.

    Args:
        folder: holds tokenizer and template.
        before, after: give the pieces' numbers as they were and as they became.
    """
    tokenizer = Tokenizer.from_folder(folder)
    template = ChatTemplate.from_folder(folder, tokenizer)
    if is_demo and template is not None:
        exam = _Counting(tokenizer, template)
        return exam.graded([_Model(shape, pieces, load) for load in (before, after)])
    ids = tokenizer.encode(TEXT, add_special_tokens=True)[: shape.context]
    first, second = (_perplexity(_Model(shape, pieces, load), ids) for load in (before, after))
    return Quality("perplexity", first, second, len(ids) - 1)


def baked_load(tensors: Tensors) -> Load:
    """Gives pieces as a baked file holds them, rounded matrices as the numbers they stand for."""

    def load(piece: Piece) -> Tensor:
        values = tensors.tensor(piece.name)
        if piece.name + SCALES not in tensors.names:
            return values
        return dequantize(QuantizedWeight(values, tensors.tensor(piece.name + SCALES)))

    return load


def _perplexity(model: _Model, ids: list[int]) -> float:
    """The exponential of the mean negative log-likelihood of each token behind those before it."""
    logits = model.logits([ids])
    return _rounded(math.exp(min(700.0, float(cross_entropy(logits[:-1], torch.tensor(ids[1:]))))))


def _rounded(value: float) -> float:
    """Five digits: as many as the same arithmetic gives on another processor."""
    return float(f"{value:.5g}")


class _Counting:
    """The demo model's oracle: an answer is right if each of its tokens is the likeliest one behind those before."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        pairs = list(counting_pairs())
        tasks = [counting(*pair) for pair in pairs[:: len(pairs) // _COUNTS]]
        self._ends = tokenizer.eos_token_ids
        self._prompts = [self._encode(tokenizer, template.render(task.messages)) for task in tasks]
        self._answers = [self._encode(tokenizer, task.answer) for task in tasks]

    def graded(self, models: Iterable[_Model]) -> Quality:
        """Of the models before and after."""
        before, after = (_rounded(self._share(model)) for model in models)
        return Quality("counting", before, after, len(self._answers))

    def _share(self, model: _Model) -> float:
        sequences = [prompt + answer for prompt, answer in zip(self._prompts, self._answers, strict=True)]
        likeliest = model.logits(sequences).argmax(-1).split([len(sequence) for sequence in sequences])
        said = [row[-len(answer) - 1 :].tolist() for row, answer in zip(likeliest, self._answers, strict=True)]
        right = [
            one[:-1] == answer and one[-1] in self._ends for one, answer in zip(said, self._answers, strict=True)
        ]
        return sum(right) / len(right)

    @staticmethod
    def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)


class _Model:
    """A decoder in float32 whose matrices are fetched for each product and dropped after it."""

    def __init__(self, shape: Architecture, pieces: Sequence[Piece], load: Load) -> None:
        self._shape = shape
        self._streamed = _Streamed({piece.name: piece for piece in pieces}, load)

    @torch.inference_mode()
    def logits(self, sequences: Sequence[list[int]]) -> Tensor:
        """[tokens, vocab_size], float32, of sequences laid end to end."""
        counts = [len(sequence) for sequence in sequences]
        longest = max(counts)
        operations = _StreamingOperations(self._streamed)
        decoder = Decoder(self._shape, self._streamed, longest, operations)
        cache = KVCache(self._shape, len(counts), longest, torch.float32, torch.device("cpu"))
        pages = torch.arange(len(counts))[:, None]
        attention = operations.attention([0] * len(counts), counts, pages, longest)
        positions = torch.cat([torch.arange(count) for count in counts])
        slots = positions + pages.flatten().repeat_interleave(torch.tensor(counts)) * longest
        batch = Batch(torch.tensor([*chain.from_iterable(sequences)]), positions, slots, attention)
        return decoder.logits(decoder.forward(batch, cache))


class _Streamed:
    """A source of tensors that hands out a stand-in for each matrix of a projection."""

    dtype = torch.float32
    bytes = 0

    def __init__(self, pieces: dict[str, Piece], load: Load) -> None:
        self._pieces = pieces
        self._load = load
        self._standing_for: dict[Tensor, Piece] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.fused([name], [shape])

    def fused(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Tensor:
        piece = self._pieces[fused_name(names)]
        if piece.rounds:
            stand_in = torch.empty(0, device="meta")
            self._standing_for[stand_in] = piece
            return stand_in
        tensor = self._load(piece)
        return tensor.float() if tensor.ndim == 1 else tensor

    def weight(self, tensor: Tensor) -> Tensor:
        """The tensor, or what it stands for."""
        return self._load(self._standing_for[tensor]) if tensor.is_meta else tensor

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """That has been looked at already."""

    def finish(self) -> None:
        """Nothing is on its way."""


class _StreamingOperations(ReferenceOperations):
    def __init__(self, streamed: _Streamed) -> None:
        super().__init__()
        self._streamed = streamed

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        assert isinstance(weight, Tensor), "what is quantised is widened when it is loaded"
        return _StreamedLinear(self._streamed, weight, bias)


class _StreamedLinear:
    def __init__(self, streamed: _Streamed, weight: Tensor, bias: Tensor | None) -> None:
        self._streamed, self._weight, self._bias = streamed, weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._streamed.weight(self._weight)
        out = torch.cat([linear(x, rows.float()) for rows in weight.split(_ROWS)], dim=-1)
        return out if self._bias is None else out + self._bias

    def pack(self) -> None:
        """Nothing: the weight is not even here."""
