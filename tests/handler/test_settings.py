"""Settings come from `PILOTLIGHT_*`, or from the variables of RunPod's vLLM worker."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from engine.errors import InvalidConfig
from handler.settings import read_settings, unknown_variables, unsupported_variables

WORKER_VLLM = {
    "MODEL_NAME": "owner/name", "MAX_MODEL_LEN": "1000", "GPU_MEMORY_UTILIZATION": "0.5", "MAX_NUM_SEQS": "8",
    "MAX_NUM_BATCHED_TOKENS": "512", "DTYPE": "half", "BLOCK_SIZE": "32", "ENABLE_PREFIX_CACHING": "false",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "mine", "MAX_CONCURRENCY": "7", "KV_CACHE_MEMORY_BYTES": "1000000",
}


def test_names_of_runpods_vllm_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WORKER_VLLM.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    engine = settings.engine_config()
    assert (engine.model, engine.max_model_len, engine.memory_utilization) == ("owner/name", 1000, 0.5)
    assert (engine.max_running, engine.token_budget, engine.dtype) == (8, 512, "float16")
    assert (engine.page_size, engine.prefix_caching, engine.kv_memory) == (32, False, 1_000_000)
    assert (settings.served_model_name, settings.max_concurrency) == ("mine", 7)


def test_ours_win_over_theirs_and_options_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_NAME", "theirs")
    assert read_settings().model == "theirs"
    monkeypatch.setenv("PILOTLIGHT_MODEL", "ours")
    assert read_settings().model == "ours"
    assert read_settings(model="option", port=None).model == "option"


def test_zero_batched_tokens_and_empty_values_mean_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_NUM_BATCHED_TOKENS", "0")
    monkeypatch.setenv("MAX_MODEL_LEN", "")
    assert read_settings().engine_config().token_budget is None
    assert read_settings().max_model_len is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPU_MEMORY_UTILIZATION", "1.5"), ("PILOTLIGHT_PORT", "99999"), ("PILOTLIGHT_KV_MEMORY", "lots"),
        ("MAX_CONCURRENCY", "0"), ("DTYPE", "int3"), ("PILOTLIGHT_LEDGER", "ftp://there"),
    ],
)
def test_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidConfig) as caught:
        read_settings()
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value), "that is pydantic's word, and the user's is wanted"


def test_error_names_the_option() -> None:
    with pytest.raises(InvalidConfig, match=r"^port: "):
        read_settings(port=-1)


def test_keys_are_kept_from_view() -> None:
    settings = read_settings(api_key="a-secret, another")
    assert settings.api_keys == ("a-secret", "another")
    assert "secret" not in repr(settings)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        read_settings().port = 1


def test_variables_without_effect_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTIZATION", "awq")
    assert unsupported_variables() == ["QUANTIZATION"]


def test_a_misspelt_variable_is_told_from_those_that_others_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in unknown_variables():  # Those of the tests' own.
        monkeypatch.delenv(name)
    for name in ("PILOTLIGHT_JORNAL", "PILOTLIGHT_COLOUR", "PILOTLIGHT_GRACE", "PILOTLIGHT_WARM_TICK"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("PILOTLIGHT_RUNPOD_API", "https://rest.runpod.io")
    assert unknown_variables() == {"PILOTLIGHT_COLOUR": "", "PILOTLIGHT_JORNAL": "PILOTLIGHT_JOURNAL"}


def test_a_misspelt_variable_is_said_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PILOTLIGHT_MAX_BDOY", "5")
    read_settings()
    assert "PILOTLIGHT_MAX_BDOY is set but is no setting here: did you mean PILOTLIGHT_MAX_BODY?" in caplog.text
