"""The demo model's tokeniser and chat template, built from text alone.

Byte-level BPE, with one liberty: a leading space is merged last. So a word or a number is cut in the same way with and
without a space before it, and every number of 0 to 99 is one token in either case. What the model learns of copying
and counting then holds in a list, in JSON and after a comma alike.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

PAD: Final = "<|pad|>"
BOS: Final = "<|begin_of_text|>"
END: Final = "<|end_of_turn|>"
SPECIAL: Final = (PAD, BOS, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>")
CALL_TAGS: Final = ("<tool_call>", "</tool_call>")
CONTEXT: Final = 2048
SPACE: Final = "Ġ"  # how byte-level BPE writes a space

_CHUNK: Final = r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACELESS_CHUNK: Final = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s"

CHAT_TEMPLATE: Final = """\
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content | trim -}}
  {%- elif content -%}
    {%- for part in content -%}{{- part.text -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if tools -%}
  {{- '<|tools|>' -}}
  {%- for tool in tools -%}
    {{- tool | tojson -}}{{- '' if loop.last else '\\n' -}}
  {%- endfor -%}
  {{- '<|end_of_turn|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}
    {{- raise_exception('Unknown role: ' ~ message.role) -}}
  {%- endif -%}
  {{- '<|' ~ message.role ~ '|>' ~ text(message.content) -}}
  {%- for call in message.tool_calls or [] -%}
    {%- set function = call.function or call -%}
    {%- set arguments = function.arguments -%}
    {{- '<tool_call>\\n{"name": ' ~ function.name | tojson ~ ', "arguments": ' -}}
    {{- (arguments if arguments is string else arguments | tojson) ~ '}\\n</tool_call>' -}}
  {%- endfor -%}
  {{- '<|end_of_turn|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
{%- endif -%}
"""


def build_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """A tokeniser of at most `size` tokens learnt from `texts`; the same texts give the same tokeniser."""
    numbers = _number_merges()
    spaced_room = (size - len(SPECIAL) - len(CALL_TAGS) - 256 - len(numbers) - 110) // 3
    letters = _learnt_merges(texts, size - len(SPECIAL) - len(CALL_TAGS) - len(numbers) - 110 - spaced_room)
    plain = _assemble(numbers + letters)
    spaced = [str(number) for number in range(100)] + _after_spaces(plain, texts, spaced_room + 10)
    tokenizer = _assemble(numbers + letters + [(SPACE, token) for token in spaced])
    _finish(tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokeniser, its configuration and the chat template as a Hugging Face folder has them."""
    named = {"bos_token": BOS, "eos_token": END, "pad_token": PAD}
    config: dict[str, Any] = named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(named, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _number_merges() -> list[tuple[str, str]]:
    return [(str(tens), str(ones)) for tens in range(1, 10) for ones in range(10)]


def _learnt_merges(texts: list[str], size: int) -> list[tuple[str, str]]:
    """Merges within words, without their leading spaces; at most `size` tokens with the 256 bytes."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _chunks(_SPACELESS_CHUNK)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def _after_spaces(plain: Tokenizer, texts: list[str], count: int) -> list[str]:
    """The `count` tokens that most often stand right after a space, numbers excepted."""
    seen: Counter[str] = Counter()
    for encoding in plain.encode_batch(texts):
        tokens = encoding.tokens
        seen.update(after for before, after in pairwise(tokens) if before == SPACE)
    found = [token for token in seen if not token.isdigit() and not token.startswith((SPACE, "Ċ"))]
    return sorted(found, key=lambda token: (-seen[token], token))[:count]


def _assemble(merges: list[tuple[str, str]]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*SPECIAL, *CALL_TAGS, *alphabet, *(left + right for left, right in merges)])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _chunks(_CHUNK)
    return tokenizer


def _chunks(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _finish(tokenizer: Tokenizer) -> None:
    tokenizer.decoder = decoders.ByteLevel()
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in CALL_TAGS])
