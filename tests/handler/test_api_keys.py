"""Keys in a file: named, hot-reloaded, and never to be seen."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI, RateLimitError

from engine.errors import InvalidConfig
from handler.key_file import parse_keys
from handler.keyring import LOOK_S, Keyring
from handler.rate_limits import Limits
from tests.handler.processes import Server, eventually, serving

ALICE = '[keys.alice]\nkey = "alice-secret"\n'
CAROL = '[keys.carol]\nkey = "carol-secret"\n'
BOB = '[keys.bob]\nkey = "bob-secret"\n'


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "keys.toml"
    made.write_text(ALICE)
    return made


def test_a_key_has_a_name_and_limits() -> None:
    [key] = parse_keys(ALICE.encode() + b"requests_per_minute = 60\ntokens_per_minute = 1000\n")
    assert (key.name, key.limits) == ("alice", Limits(60, 1000))


def test_a_file_may_hold_digests_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[keys.carol]\nsha256 = "{hashlib.sha256(b"carols").hexdigest()}"\n')
    keyring = Keyring((), file)
    found = keyring.find("carols")
    assert found is not None
    assert found.name == "carol"
    assert keyring.find(hashlib.sha256(b"carols").hexdigest()) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "it holds no key; each is a table [keys.NAME]"),
        ("[keys]\n", "it holds no key; each is a table [keys.NAME]"),
        ('[alice]\nkey = "secret"', "it holds no key; each is a table [keys.NAME]"),
        ("keys = 1", "keys: Input should be"),
        ("[keys.a]\n", "keys.a: needs either key or sha256"),
        ('[keys.a]\nkey = "k"\nsha256 = "' + "0" * 64 + '"', "keys.a: needs either key or sha256"),
        ('[keys.a]\nkey = "two words"', "keys.a.key: String should match"),
        ('[keys.a]\nkey = ""', "keys.a.key: String should match"),
        ('[keys.a]\nsha256 = "secret"', "keys.a.sha256: String should match"),
        ('[keys.a]\nkey = "k"\nrequests_per_minute = 0', "keys.a.requests_per_minute: Input should be greater"),
        ('[keys.a]\nkey = "k"\nlimit = 1', "keys.a.limit: Extra inputs are not permitted"),
        ('[keys.a]\nkey = "k"\n[keys.b]\nkey = "k"', "a and b are the same key"),
        ('[keys."a b"]\nkey = "k"', "keys.a b: String should match"),
        ("[keys.a", "not TOML"),
        ('[keys.a]\nkey = "secret', "not TOML"),
        (f'[keys.a]\nkey = "k"\ntokens_per_minute = {10**400}', "keys.a.tokens_per_minute: Input should be less"),
        pytest.param("a = " + "9" * 5000, "not TOML", id="more digits than Python reads"),
        pytest.param("a = " + "[" * 20_000, "not TOML: nested too deeply", id="deep"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault_in_one_line_without_its_keys(
    tmp_path: Path, content: str, fault: str
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(content)
    with pytest.raises(InvalidConfig) as caught:
        Keyring((), file)
    assert str(caught.value).startswith(f"api_keys_file: {file}: {fault}")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_key_of_the_setting_must_not_be_in_the_file_too(file: Path) -> None:
    with pytest.raises(InvalidConfig, match=f"{file}: setting:1 and alice are the same key"):
        Keyring(("alice-secret",), file)


def test_a_file_that_is_not_there_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"api_keys_file: .*keys.toml: No such file"):
        Keyring((), tmp_path / "keys.toml")


def test_without_keys_none_is_needed() -> None:
    assert not Keyring(()).needed


@pytest.mark.parametrize("shown", ["", "alice-secre", "alice-secret ", "ALICE-SECRET", "älice", "\udcff"])
def test_no_other_key_will_do(file: Path, shown: str) -> None:
    assert Keyring((), file).find(shown) is None


@pytest.mark.parametrize("replace", [False, True], ids=["edited", "replaced"])
def test_a_change_counts_within_a_second(file: Path, replace: bool) -> None:
    clock = Clock()
    keyring = Keyring(("fixed",), file, clock)
    target = file.with_suffix(".new") if replace else file
    target.write_text(BOB)
    target.rename(file)
    clock.now += LOOK_S
    assert keyring.find("bob-secret") is not None
    assert keyring.find("alice-secret") is None
    assert keyring.find("fixed") is not None


def test_a_broken_file_keeps_the_old_keys_and_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    keyring = Keyring((), file, clock)
    file.write_text("[keys.bob]\nkey = 'bob-secret")
    for _ in range(3):
        clock.now += LOOK_S
        assert keyring.find("alice-secret") is not None
    assert str(file) in (keyring.trouble or "")
    assert len(caplog.records) == 1
    file.write_text(ALICE)
    clock.now += LOOK_S
    assert keyring.trouble is None
    assert "secret" not in caplog.text


def test_a_file_that_is_gone_keeps_the_old_keys(file: Path) -> None:
    clock = Clock()
    keyring = Keyring((), file, clock)
    file.unlink()
    clock.now += LOOK_S
    assert keyring.find("alice-secret") is not None
    assert "No such file" in (keyring.trouble or "")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(file: Path, make: Callable[[Path], None]) -> None:
    clock = Clock()
    keyring = Keyring((), file, clock)
    file.unlink()
    make(file)
    clock.now += LOOK_S
    assert keyring.find("alice-secret") is not None
    assert (keyring.trouble or "").startswith(f"api_keys_file: {file}: ")


def test_keys_are_kept_from_view(file: Path) -> None:
    key = Keyring((), file).find("alice-secret")
    assert "alice-secret" not in repr(key)
    assert hashlib.sha256(b"alice-secret").hexdigest() not in repr(key)


PROMPT = {"prompt": "Count", "max_tokens": 4}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(ALICE + "requests_per_minute = 2\n" + BOB + CAROL + "tokens_per_minute = 50\n")
    return file


@pytest.fixture(scope="module")
def server(keys: Path) -> Iterator[Server]:
    with serving("--api-keys-file", str(keys), tokens_per_minute="5000", host="0.0.0.0") as started:
        started.await_ready()
        yield started


def ask(server: Server, key: str, **fields: object) -> httpx.Response:
    with server.client(key) as client:
        return client.post("/v1/completions", json={**PROMPT, **fields})


def test_a_key_of_the_file_opens_and_its_limit_holds_for_it_alone(server: Server) -> None:
    answers = [ask(server, "alice-secret") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 30
    assert answers[2].headers["x-ratelimit-remaining-requests"] == "0"
    client = OpenAI(base_url=f"{server.url}/v1", api_key="alice-secret", max_retries=0)
    with client, pytest.raises(RateLimitError) as caught:
        client.completions.create(model="demo", prompt="Count")
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert ask(server, "bob-secret").status_code == 200
    assert ask(server, "mallorys").status_code == 401
    assert "without an API key" not in server.output


def test_tokens_are_reserved_and_what_is_left_is_given_back(server: Server) -> None:
    before = int(ask(server, "bob-secret").headers["x-ratelimit-remaining-tokens"])
    answer = ask(server, "bob-secret", max_tokens=1500, stop=[" "])
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) > before - 1000
    refused = ask(server, "bob-secret", max_tokens=2000, n=3)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    assert refused.headers["x-should-retry"] == "false"


def make_debts(server: Server) -> None:
    """Have Carol use so much beyond what she may that she is refused for half an hour."""
    endless = {"messages": [{"role": "user", "content": "Count"}], "ignore_eos": True}
    with server.client("carol-secret") as client:
        client.post("/v1/chat/completions", json=endless)
    assert eventually(lambda: ask(server, "carol-secret").status_code == 429)


def test_metrics_name_keys_and_show_none(server: Server) -> None:
    ask(server, "bob-secret")
    make_debts(server)
    with server.client() as client:
        page = client.get("/metrics").text
    assert 'key="bob"' in page
    assert 'key="carol",model_name="demo",reason="rate_limit_exceeded"' in page
    assert "secret" not in page


def test_a_changed_file_is_in_use_soon_and_a_broken_one_is_seen(server: Server, keys: Path) -> None:
    make_debts(server)
    keys.write_text(keys.read_text() + '[keys.dave]\nkey = "dave-secret"\n')
    assert eventually(lambda: ask(server, "dave-secret").status_code == 200)
    assert ask(server, "carol-secret").status_code == 429  # A reload forgives nothing.
    keys.write_text("[keys")
    with server.client() as client:
        assert eventually(lambda: client.get("/health").json()["api_keys"] == "stale")
    assert ask(server, "dave-secret").status_code == 200
    assert "secret" not in server.output


def test_a_wrong_file_ends_the_start_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("[keys.a]\n")
    with serving("--api-keys-file", str(file)) as server:
        assert server.wait() == 1
        assert f"pilotlight: api_keys_file: {file}: keys.a: needs either key or sha256" in server.output
