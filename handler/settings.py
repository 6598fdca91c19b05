"""What the user chose, from the environment: `PILOTLIGHT_*`, or the names RunPod's vLLM worker uses."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.config import Device, DType, EngineConfig, Quantization
from engine.errors import InvalidConfig
from handler.billing.default_ledger import OFF
from handler.billing.price import PriceKind
from handler.token_bucket import MOST_PER_MINUTE

UNSUPPORTED_VARIABLES = (
    "CUSTOM_CHAT_TEMPLATE", "ENABLE_LORA", "HF_OVERRIDES", "LORA_MODULES", "OVERRIDE_GENERATION_CONFIG",
    "PIPELINE_PARALLEL_SIZE", "QUANTIZATION", "REASONING_PARSER", "SPECULATIVE_CONFIG",
    "TENSOR_PARALLEL_SIZE", "TOKENIZER", "TOKENIZER_NAME", "VLLM_EXTRA_ARGS",
)
"""Variables of RunPod's vLLM worker that would change the answers there and do nothing here."""

READ_ELSEWHERE = ("PILOTLIGHT_RUNPOD_API", "PILOTLIGHT_WARM_")
"""How those of our variables begin that are no setting of the server and the worker."""

_PREFIX = "PILOTLIGHT_"
_log = logging.getLogger("pilotlight.settings")
_DTYPE_ALIASES = {"half": "float16", "float": "float32"}


def _variable(name: str, *aliases: str) -> AliasChoices:
    return AliasChoices(_PREFIX + name, *aliases)


def _zero_is_unset(value: object) -> object:
    """RunPod's endpoint templates carry `MAX_NUM_BATCHED_TOKENS=0` to mean the default."""
    return None if value in (0, "0") else value


def _own_dtype(value: object) -> object:
    return _DTYPE_ALIASES.get(value, value) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Every setting of the server and the worker.

    Attributes:
        health_port: where else to listen, for a platform that asks after the health at a port of its own.
        health_path: another name of `/ping`.
        api_key: who may call; several are separated by commas.
        api_keys_file: more of them, named and with limits of their own; read anew when it changes.
        requests_per_minute: of each key that the file does not give a limit; of all callers together without keys.
        tokens_per_minute: the same in tokens, of prompts and answers.
        max_concurrency: RunPod jobs in progress at once.
        max_choices: the most choices one request may ask for, all its prompts together.
        max_body: bytes of an HTTP request's body.
        receive_timeout: seconds in which a request's head must have come, and again its body.
        slow_reader: seconds after which a client that does not read its answer is cut.
        max_unread: bytes of a stream that may wait for such a client, about.
        keep_alive: seconds that an idle connection is kept open.
        request_timeout: seconds after which a request is ended.
        grace: seconds that running requests get to finish after SIGTERM.
        job_loop: what takes RunPod's jobs: its SDK, or our own loop (`handler.native`).
        job_batch_ms: a streamed job yields at most once in this time, because each yield costs RunPod a round trip.
        ledger: where every billed second is recorded: `s3://BUCKET/PREFIX`, `file://FOLDER` or `off`.
        journal: folder where it is written first; default: on the network volume, else on this machine.
        open_interval: seconds that may be lost when the worker is killed and its disk goes with it.
        gpu: the GPU's name, where the platform does not tell it.
        price: US dollars a second of this worker, all its GPUs together.
        prices: a price list in place of the one that is shipped.
    """

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore", env_ignore_empty=True)

    model: str = Field("demo", validation_alias=_variable("MODEL", "MODEL_NAME"))
    revision: str | None = Field(None, validation_alias=_variable("REVISION", "MODEL_REVISION"))
    device: Device = Field("auto", validation_alias=_variable("DEVICE"))
    dtype: Annotated[DType, BeforeValidator(_own_dtype)] = Field("auto", validation_alias=_variable("DTYPE", "DTYPE"))
    max_model_len: int | None = Field(None, ge=1, validation_alias=_variable("MAX_MODEL_LEN", "MAX_MODEL_LEN"))
    kv_memory: ByteSize | None = Field(
        None, gt=0, validation_alias=_variable("KV_MEMORY", "KV_CACHE_MEMORY_BYTES")
    )
    memory_utilization: float = Field(
        0.9, gt=0, le=1, validation_alias=_variable("MEMORY_UTILIZATION", "GPU_MEMORY_UTILIZATION")
    )
    page_size: int = Field(16, ge=1, validation_alias=_variable("PAGE_SIZE", "BLOCK_SIZE"))
    max_running: int = Field(256, ge=1, validation_alias=_variable("MAX_RUNNING", "MAX_NUM_SEQS"))
    token_budget: Annotated[int | None, BeforeValidator(_zero_is_unset)] = Field(
        None, ge=1, validation_alias=_variable("TOKEN_BUDGET", "MAX_NUM_BATCHED_TOKENS")
    )
    max_waiting: int = Field(1024, ge=1, validation_alias=_variable("MAX_WAITING"))
    max_waiting_tokens: int | None = Field(None, ge=1, validation_alias=_variable("MAX_WAITING_TOKENS"))
    prefix_caching: bool = Field(True, validation_alias=_variable("PREFIX_CACHING", "ENABLE_PREFIX_CACHING"))
    threads: int | None = Field(None, ge=1, validation_alias=_variable("THREADS"))
    quantize: Quantization = Field("none", validation_alias=_variable("QUANTIZE"))
    kernels: str | None = Field(None, validation_alias=_variable("KERNELS"))
    deterministic: bool = Field(False, validation_alias=_variable("DETERMINISTIC"))

    served_model_name: str | None = Field(
        None,
        validation_alias=_variable("SERVED_MODEL_NAME", "OPENAI_SERVED_MODEL_NAME_OVERRIDE", "SERVED_MODEL_NAME"),
    )
    host: str = Field("127.0.0.1", validation_alias=_variable("HOST"))
    port: int = Field(8000, ge=0, le=65535, validation_alias=_variable("PORT", "PORT"))
    health_port: int | None = Field(None, ge=1, le=65535, validation_alias=_variable("HEALTH_PORT", "PORT_HEALTH"))
    health_path: str = Field("/ping", pattern="^/", validation_alias=_variable("HEALTH_PATH", "HEALTH_CHECK_PATH"))
    api_key: SecretStr | None = Field(None, validation_alias=_variable("API_KEY"))
    api_keys_file: Path | None = Field(None, validation_alias=_variable("API_KEYS_FILE"))
    requests_per_minute: int | None = Field(
        None, ge=1, le=MOST_PER_MINUTE, validation_alias=_variable("REQUESTS_PER_MINUTE")
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, le=MOST_PER_MINUTE, validation_alias=_variable("TOKENS_PER_MINUTE")
    )
    max_concurrency: int = Field(30, ge=1, validation_alias=_variable("MAX_CONCURRENCY", "MAX_CONCURRENCY"))
    max_choices: int = Field(128, ge=1, validation_alias=_variable("MAX_CHOICES"))
    max_body: ByteSize = Field(ByteSize(10_000_000), gt=0, validation_alias=_variable("MAX_BODY"))
    receive_timeout: float = Field(60, gt=0, validation_alias=_variable("RECEIVE_TIMEOUT"))
    slow_reader: float = Field(30, gt=0, validation_alias=_variable("SLOW_READER"))
    max_unread: ByteSize = Field(ByteSize(16_000_000), gt=0, validation_alias=_variable("MAX_UNREAD"))
    keep_alive: int = Field(30, ge=1, validation_alias=_variable("KEEP_ALIVE"))
    request_timeout: float | None = Field(None, gt=0, validation_alias=_variable("REQUEST_TIMEOUT"))
    grace: int = Field(30, ge=0, validation_alias=_variable("GRACE"))
    job_loop: Literal["sdk", "native"] = Field("sdk", validation_alias=_variable("JOB_LOOP"))
    job_batch_ms: float = Field(40, ge=0, validation_alias=_variable("JOB_BATCH_MS"))

    ledger: str | None = Field(None, validation_alias=_variable("LEDGER"))
    journal: Path | None = Field(None, validation_alias=_variable("JOURNAL"))
    open_interval: float = Field(10.0, ge=0.5, le=3600, validation_alias=_variable("OPEN_INTERVAL"))
    gpu: str | None = Field(None, validation_alias=_variable("GPU"))
    price: Decimal | None = Field(
        None, ge=0, le=1000, decimal_places=12, allow_inf_nan=False, validation_alias=_variable("PRICE")
    )
    price_kind: PriceKind = Field("flex", validation_alias=_variable("PRICE_KIND"))
    prices: Path | None = Field(None, validation_alias=_variable("PRICES"))

    @field_validator("ledger")
    @classmethod
    def _ledger_is_a_place(cls, ledger: str | None) -> str | None:
        if ledger is None or ledger.lower() == OFF:
            return ledger and OFF
        if not ledger.startswith(("s3://", "file:///", "/", "~")):
            raise ValueError("must be s3://BUCKET/PREFIX, file:///FOLDER, a folder's whole path, or off")
        return ledger

    @field_validator("api_key")
    @classmethod
    def _keys_fit_a_header(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and not keys.get_secret_value().isascii():
            raise ValueError("keys must be ASCII: a header line carries nothing else")
        return keys

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The keys that may call; empty when anyone may."""
        written = self.api_key.get_secret_value() if self.api_key else ""
        return tuple(key.strip() for key in written.split(",") if key.strip())

    def engine_config(self) -> EngineConfig:
        """The engine's part.

        Raises:
            InvalidConfig: settings that contradict each other.
        """
        names = EngineConfig.__dataclass_fields__.keys() & type(self).model_fields.keys()
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return EngineConfig(**chosen)


def read_settings(**overrides: object) -> Settings:
    """Settings from the environment; `overrides`, under the fields' names, win where they are not None.

    Warns in the log of variables that are set and have no effect here.

    Raises:
        InvalidConfig: one line naming the variable or the override, and its value's fault.
    """
    for name in unsupported_variables():
        _log.warning("%s is set but has no effect here", name)
    for name, near in unknown_variables().items():
        _log.warning("%s is set but is no setting here%s", name, near and f": did you mean {near}?")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidConfig(_describe(error, given)) from None


def unsupported_variables() -> list[str]:
    """Variables that are set and have no effect here."""
    return [name for name in UNSUPPORTED_VARIABLES if os.environ.get(name)]


def unknown_variables() -> dict[str, str]:
    """Variables with our prefix that are set and name no setting, and the setting's that comes nearest, or ""."""
    known = {name for info in Settings.model_fields.values() for name in _names(info) if name.startswith(_PREFIX)}
    ours = [name for name in os.environ if name.startswith(_PREFIX) and not name.startswith(READ_ELSEWHERE)]
    return {name: _nearest(name, known) for name in sorted(ours) if name not in known}


def _nearest(name: str, known: Collection[str]) -> str:
    from difflib import get_close_matches  # Only who has misspelt something waits for it.

    endings = [other.removeprefix(_PREFIX) for other in known]
    near = get_close_matches(name.removeprefix(_PREFIX), endings, 1)
    return _PREFIX + near[0] if near else ""


def _describe(error: ValidationError, overrides: dict[str, object]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{_name_of(str(first['loc'][0]), overrides)}: {first['msg'].removeprefix('Value error, ')}"


def _name_of(location: str, overrides: dict[str, object]) -> str:
    """The name under which the user gave the value at fault."""
    for field, info in Settings.model_fields.items():
        names = _names(info)
        if location in (field, *names):
            return field if field in overrides else next((name for name in names if name in os.environ), field)
    return location


def _names(info: FieldInfo) -> list[str]:
    """The variables that give this setting."""
    choices = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else []
    return [str(choice) for choice in choices]
