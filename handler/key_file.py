"""The keys that may call, as a file says: TOML, a table a key."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import InvalidConfig
from handler.api_keys import ApiKey, check_distinct, digest_of
from handler.rate_limits import Limits
from handler.token_bucket import MOST_PER_MINUTE


class _Entry(BaseModel):
    """`key` or, for a file that gives none away, `sha256`; and what the key may ask for in a minute."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: Annotated[str, Field(pattern="^[!-~]+$")] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("needs either key or sha256")
        return self

    def named(self, name: str) -> ApiKey:
        digest = bytes.fromhex(self.sha256) if self.sha256 is not None else digest_of(self.key or "")
        return ApiKey(name, digest, Limits(self.requests_per_minute, self.tokens_per_minute))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    keys: dict[Annotated[str, Field(pattern="^[A-Za-z0-9_.@-]{1,64}$")], _Entry] = Field(min_length=1)


def parse_keys(content: bytes) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        InvalidConfig: one line that names the fault and shows no key; the file's name is the caller's to say. No key
            at all is a fault: it would lock everybody out, and to let everybody in instead would be worse.
    """
    try:
        entries = _File.model_validate(_parse(content)).keys
    except ValidationError as error:
        raise InvalidConfig(_describe(error)) from None
    keys = tuple(entry.named(name) for name, entry in entries.items())
    check_distinct(keys)
    return keys


def _parse(content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        fault = "not UTF-8"
    except RecursionError:
        fault = "nested too deeply"
    except ValueError as error:  # TOMLDecodeError is one, and so is what an integer of 5,000 digits raises.
        fault = str(error)
    raise InvalidConfig(f"not TOML: {fault}")


def _describe(error: ValidationError) -> str:
    """The first fault and where it is; never the value, which may be a key."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["loc"] == ("keys",) and first["type"] in ("missing", "too_short"):
        return "it holds no key; each is a table [keys.NAME]"
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
