"""The demo model's training: a small Llama, AdamW and a cosine, in float32 on a CPU."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from image.demo_corpus import MIX, Mix, Sample, as_sample, chat_renderer, draw_sample
from image.demo_tasks import draw, kinds
from image.demo_tokenizer import BOS, CONTEXT, END, PAD, SPACE

_POOL: Final = 2048  # samples sorted by length together, so that little of a batch is padding


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train.

    The learning rate's cosine is drawn for `steps` optimiser steps, of which `stop` are taken; `batch_tokens` include
    padding.
    """

    steps: int
    stop: int
    seed: int
    batch_tokens: int = 1024
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    system_share: float = 0.3
    mix: Mix = field(default_factory=lambda: MIX)
    report_every: int = 200


@dataclass(frozen=True)
class Batch:
    """`ids` (rows, length), padded on the right; `weights` (rows, length) of predicting each of them."""

    ids: Tensor
    weights: Tensor


def new_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """An untrained demo model: Llama's shape in small, with grouped-query attention and tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.06,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    model = LlamaForCausalLM(config)
    relate_numbers(model, tokenizer)
    relate_spaced_tokens(model, tokenizer)
    return model


@torch.no_grad()
def relate_numbers(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Begin with each number of 0 to 99 as a vector for its tens, one for its ones, and a little of its own.

    Sums are then a hundred pairs of digits and a carry to learn, and not thousands of pairs of numbers.
    """
    table = model.model.embed_tokens.weight
    tens, ones = (table.std() * torch.randn(10, table.shape[1]) for _ in range(2))
    for number in range(100):
        index = tokenizer.token_to_id(str(number))
        table[index] = 0.65 * tens[number // 10] + 0.65 * ones[number % 10] + 0.4 * table[index]


@torch.no_grad()
def relate_spaced_tokens(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Begin with each token that has a leading space as its plain twin plus the space.

    To copy " red" as "red" is then one step for all words, instead of a fact to learn about each.
    """
    table = model.model.embed_tokens.weight
    space = table[tokenizer.token_to_id(SPACE)]
    for token, index in tokenizer.get_vocab().items():
        twin = tokenizer.token_to_id(token.removeprefix(SPACE))
        if token.startswith(SPACE) and twin is not None:
            table[index] = table[twin] + space


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, plan: Plan, checkpoint: Callable[[], None]) -> int:
    """Train in place and return the number of tokens read; `checkpoint` is called at every report."""
    optimiser = _optimiser(model, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, plan))
    probes = {kind: _probe(tokenizer, kind) for kind in kinds()}
    started, tokens, losses = time.monotonic(), 0, []
    for step, batch in zip(range(1, plan.stop + 1), batches(tokenizer, plan), strict=False):
        losses.append(_step(model, optimiser, batch, plan.clip))
        schedule.step()
        tokens += batch.ids.numel()
        if step % plan.report_every == 0 or step == plan.stop:
            rate = tokens / (time.monotonic() - started)
            scores = " ".join(f"{kind} {accuracy(model, probe):.0%}" for kind, probe in probes.items())
            mean = sum(losses) / len(losses)
            print(f"step {step}, {tokens} tokens, {rate:.0f} a second, loss {mean:.4f}, {scores}", flush=True)
            losses.clear()
            checkpoint()
    return tokens


def batches(tokenizer: Tokenizer, plan: Plan) -> Iterator[Batch]:
    """Batches without end, each of conversations of about one length; the seed decides them all.

    System messages come in slowly: copying and counting are learnt soonest from short conversations.
    """
    rng, render, made = Random(plan.seed), chat_renderer(), 0
    while True:
        share = plan.system_share * min(1.0, 2.0 * made / plan.steps)
        pool = [draw_sample(tokenizer, render, rng, plan.mix, share) for _ in range(_POOL)]
        groups = list(_cut(sorted(pool, key=lambda sample: len(sample.ids)), plan.batch_tokens))
        rng.shuffle(groups)
        made += len(groups)
        yield from (as_batch(group) for group in groups)


def as_batch(samples: list[Sample]) -> Batch:
    """Samples side by side, padded on the right: causal attention needs no mask for that."""
    length = max(len(sample.ids) for sample in samples)
    ids = [sample.ids + [0] * (length - len(sample.ids)) for sample in samples]
    weights = [sample.weights + [0.0] * (length - len(sample.ids)) for sample in samples]
    return Batch(torch.tensor(ids), torch.tensor(weights))


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, batch: Batch) -> float:
    """The share of rows whose every answer token is the likeliest one, which is when greedy decoding gets it right."""
    hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    right = model.lm_head(hidden).argmax(-1) == batch.ids[:, 1:]
    return float((right | (batch.weights[:, 1:] == 0)).all(-1).float().mean())


def _optimiser(model: LlamaForCausalLM, plan: Plan) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98))


def _rate(step: int, plan: Plan) -> float:
    """The learning rate's share of its peak: a straight line up, then half a cosine down to nothing."""
    if step < plan.warm_up:
        return (step + 1) / plan.warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - plan.warm_up) / (plan.steps - plan.warm_up)))


def _step(model: LlamaForCausalLM, optimiser: torch.optim.Optimizer, batch: Batch, clip: float) -> float:
    """One update; logits are made only where there is something to learn."""
    hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    weights = batch.weights[:, 1:]
    asked = weights > 0
    losses = cross_entropy(model.lm_head(hidden[asked]), batch.ids[:, 1:][asked], reduction="none")
    loss = (losses * weights[asked]).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


def _probe(tokenizer: Tokenizer, kind: str, count: int = 32) -> Batch:
    rng, render = Random(0), chat_renderer()
    exercises = [draw(kind, rng, held_out=True) for _ in range(count)]
    return as_batch([as_sample(tokenizer, render, "", [each], list(each.tools)) for each in exercises])


def _cut(samples: list[Sample], batch_tokens: int) -> Iterator[list[Sample]]:
    """Samples in order of length, cut where the padded batch would grow past `batch_tokens`."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) + 1) * len(sample.ids) > batch_tokens:
            yield group
            group = []
        group.append(sample)
    yield group
