"""A workload through llama.cpp, all requests in one shared batch, greedy; prints one JSON object.

`python benchmarks/peer_llama_cpp.py MODEL --workload FILE --dtype float32 --converted model.gguf`

Needs `llama-cpp-python` (for llama.cpp's C interface), `gguf` (for the conversion) and nothing else.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

TENSORS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
"""What GGUF calls the tensors of a Llama layer."""
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
"""What GGUF calls the others."""
LAYOUTS = {
    "unified": (True, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED),
    "split": (False, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED),
}
"""Whether one cache holds all sequences, and the attention that was faster so: fused over one, plain over many."""
CACHE_TYPES = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}

SILENCE = llama_cpp.llama_log_callback(lambda level, text, data: None)
"""What llama.cpp calls in place of printing."""


def tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and bfloat16 bits (uint16) of every tensor in a safetensors folder.

    Raises:
        ValueError: a tensor is not bfloat16.
    """
    for file in sorted(folder.glob("*.safetensors")):
        data = np.memmap(file, np.uint8)
        start = 8 + int(data[:8].view(np.uint64)[0])
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        for name, about in header.items():
            if about["dtype"] != "BF16":
                raise ValueError(f"{name} is {about['dtype']}, not BF16")
            first, last = about["data_offsets"]
            yield name, data[start + first : start + last].view(np.uint16).reshape(about["shape"])


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{TENSORS[inner.removesuffix('.weight')]}.weight"


def interleaved(bits: np.ndarray, heads: int) -> np.ndarray:
    """A projection's rows with each head's two halves interleaved: llama.cpp rotates neighbours, not halves."""
    rows = bits.reshape(heads, 2, bits.shape[0] // heads // 2, *bits.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(bits.shape)


def convert(folder: Path, file: Path, dtype: str) -> None:
    """Write a Llama folder as a GGUF without a vocabulary, its matrices in `dtype`, its norms in float32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    describe(writer, config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, bits in tensors(folder):
        rotated = next((count for part, count in heads.items() if part in name), None)
        ordered = interleaved(bits, rotated) if rotated else bits
        if dtype == "bfloat16" and bits.ndim > 1:
            writer.add_tensor(gguf_name(name), ordered.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(gguf_name(name), (ordered.astype(np.uint32) << 16).view(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """The model's shape, as GGUF's keys."""
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


class SharedBatch:
    """A llama.cpp context for a whole workload, and the batch that every step decodes.

    Args:
        layout: "unified", one cache, where a step attends over all sequences and masks; "split", one a sequence.
    """

    def __init__(
        self, model: Any, work: list[dict[str, Any]], dtype: str, threads: int, batch_tokens: int, layout: str
    ) -> None:
        unified, flash = LAYOUTS[layout]
        lengths = [len(item["ids"]) + item["max_tokens"] for item in work]
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = sum(lengths) if unified else max(lengths) * len(work)
        settings.n_seq_max = len(work)
        settings.n_batch = settings.n_ubatch = self.batch_tokens = batch_tokens
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = CACHE_TYPES[dtype]
        settings.kv_unified, settings.flash_attn_type = unified, flash
        self.context = llama_cpp.llama_init_from_model(model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(batch_tokens, 0, 1)

    def generate(self, work: list[dict[str, Any]]) -> list[list[int]]:
        """Every request's output; a step takes the decoding requests' tokens first, then as much prompt as fits."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        waiting = [list(item["ids"]) for item in work]
        position = [0] * len(work)
        outputs: list[list[int]] = [[] for _ in work]
        while any(waiting):
            self.batch.n_tokens = 0
            ends: dict[int, int] = {}
            for request in sorted(range(len(work)), key=lambda number: len(waiting[number])):
                piece = waiting[request][: self.batch_tokens - self.batch.n_tokens]
                if piece:
                    waiting[request] = waiting[request][len(piece):]
                    ends |= self._add(request, position[request], piece, last=not waiting[request])
                    position[request] += len(piece)
            for request, token in self._decode(ends).items():
                outputs[request].append(token)
                waiting[request] = [token] if len(outputs[request]) < work[request]["max_tokens"] else []
        return outputs

    def _add(self, request: int, position: int, piece: list[int], last: bool) -> dict[int, int]:
        """Put a piece of a request into the batch; where its logits will be, if they are wanted."""
        for offset, token in enumerate(piece):
            index = self.batch.n_tokens
            self.batch.token[index], self.batch.pos[index] = token, position + offset
            self.batch.n_seq_id[index], self.batch.seq_id[index][0] = 1, request
            self.batch.logits[index] = last and offset == len(piece) - 1
            self.batch.n_tokens += 1
        return {request: self.batch.n_tokens - 1} if last else {}

    def _decode(self, ends: dict[int, int]) -> dict[int, int]:
        """The likeliest next token of each request whose last position is in the batch."""
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return {request: self._likeliest(index) for request, index in ends.items()}

    def _likeliest(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, index)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def close(self) -> None:
        """Give the memory back."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)


def run(arguments: argparse.Namespace, work: list[dict[str, Any]]) -> tuple[dict[str, Any], list[list[int]]]:
    """The figures and outputs of the faster cache layout, after one warm-up request each."""
    started = time.perf_counter()
    llama_cpp.llama_log_set(SILENCE, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(
        str(arguments.converted).encode(), llama_cpp.llama_model_default_params()
    )
    load_seconds = time.perf_counter() - started
    tried: dict[str, tuple[float, list[list[int]]]] = {}
    for layout in arguments.cache:
        batch = SharedBatch(model, work, arguments.dtype, arguments.threads, arguments.batch_tokens, layout)
        batch.generate([{"ids": work[0]["ids"][:8], "max_tokens": 2}])
        started = time.perf_counter()
        outputs = batch.generate(work)
        tried[layout] = time.perf_counter() - started, outputs
        batch.close()
    best = min(tried, key=lambda layout: tried[layout][0])
    seconds, outputs = tried[best]
    settings = {"cache": best, "batch_tokens": arguments.batch_tokens, "threads": arguments.threads}
    tried_s = {layout: taken[0] for layout, taken in tried.items()}
    return {"seconds": seconds, "load_seconds": load_seconds, "settings": settings, "tried_s": tried_s}, outputs


def main() -> None:
    """Read the command line, convert the model if that is still to be done, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--dtype", default="float32", choices=CACHE_TYPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--converted", type=Path, required=True, help="the GGUF file, written if it is not there")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--cache", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--tokens-out", type=Path)
    arguments = parser.parse_args()
    if not arguments.converted.exists():
        convert(arguments.model, arguments.converted, arguments.dtype)
    work = [json.loads(line) for line in arguments.workload.read_text().splitlines()]
    figures, outputs = run(arguments, work)
    if [len(tokens) for tokens in outputs] != [item["max_tokens"] for item in work]:
        raise RuntimeError("a request did not get the number of tokens it asked for")
    if arguments.tokens_out:
        arguments.tokens_out.write_text("".join(json.dumps(tokens) + "\n" for tokens in outputs))
    produced = sum(map(len, outputs))
    rate = produced / figures["seconds"]
    versions = {"llama-cpp-python": llama_cpp.__version__, "llama.cpp": llama_cpp.llama_version().decode()}
    print(json.dumps({"versions": versions, "output_tokens": produced, "output_tokens_per_s": rate, **figures}))


if __name__ == "__main__":
    main()
