"""A segment says by itself whether it is whole, and its bytes alone say where in the ledger it goes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handler.billing.segment import (
    DONE,
    OPEN,
    SEALED,
    SegmentName,
    compress,
    decode,
    encode,
    ledger_key,
    parse_key,
    read_segment,
    split,
)

ENVELOPE = {
    "kind": "phase", "at": "2026-11-21T10:59:59.123Z", "written": "2026-11-21T11:00:00.001Z", "endpoint": "abc/1 é",
    "worker": "pod=7", "boot": "20261121T105950-3f9a1c2b", "epoch": 2,
}
CHAIN = "20261121T105950-3f9a1c2b-2.beef"

# Surrogates too, which Python's text can hold and UTF-8 cannot.
TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def a_segment(count: int = 3) -> bytes:
    return b"".join(encode({**ENVELOPE, "ms": number}, f"{CHAIN}-{number}") for number in range(7, 7 + count))


def carried(value: Any) -> Any:
    """A value as UTF-8 carries it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [carried(inner) for inner in value]
    if isinstance(value, dict):
        return {carried(key): carried(inner) for key, inner in value.items()}
    return value


@given(VALUES)
@example("half a pair: \ud83d")
def test_a_line_is_read_as_it_was_written(value: Any) -> None:
    raw = encode({"kind": "phase", "value": value}, "x-0.beef-1")
    assert raw.count(b"\n") == 1
    assert decode(raw) == {"id": "x-0.beef-1", "kind": "phase", "value": carried(value)}


def test_the_id_comes_first_and_the_checksum_last_without_spaces() -> None:
    body = b'{"id":"x-0.beef-1","kind":"phase","ms":5'
    assert encode({"kind": "phase", "ms": 5}, "x-0.beef-1") == body + b',"crc":"fa91c3dc"}\n'
    assert zlib.crc32(body) == 0xFA91C3DC


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode({"ms": float("inf")}, "x-0.beef-1")


@given(st.data())
def test_any_changed_byte_is_damage(data: st.DataObject) -> None:
    raw = bytearray(encode({**ENVELOPE, "ms": 5}, f"{CHAIN}-1"))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(raw)) is None


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"\0" * 100, b'"crc":"00000000"}\n', b'[1,"crc":"%08x"}\n' % zlib.crc32(b"[1")]
)
def test_what_is_no_line_is_damage(raw: bytes) -> None:
    assert decode(raw) is None


def test_a_segment_is_read_up_to_a_torn_tail_wherever_it_is_torn(tmp_path: Path) -> None:
    raw = a_segment()
    path = tmp_path / "segment"
    ends = [sum(map(len, list(split(raw))[:count])) for count in range(4)]
    for cut in range(len(raw) + 1):
        path.write_bytes(raw[:cut])
        lines, whole = read_segment(path)
        assert whole == max(end for end in ends if end <= cut)
        assert [line["ms"] for line in lines] == [7, 8, 9][: ends.index(whole)]


def test_a_segment_is_read_up_to_its_first_damaged_line(tmp_path: Path) -> None:
    first, second, third = split(a_segment())
    (tmp_path / "segment").write_bytes(first + second.replace(b'"ms":8', b'"ms":9') + third)
    lines, whole = read_segment(tmp_path / "segment")
    assert [line["ms"] for line in lines] == [7]
    assert whole == len(first)


@given(st.binary())
def test_compression_tells_nothing_of_time_or_place_and_is_read_by_anyone(raw: bytes) -> None:
    body = compress(raw)
    assert gzip.decompress(body) == raw
    assert body[:10] == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
    assert body == compress(raw)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("000.beef-00000001.open", SegmentName(0, "beef", 1)),
        ("012.0a1b-00000007-00000009.jsonl", SegmentName(12, "0a1b", 7, 9)),
        ("1234.0a1b-123456789-123456790.done", SegmentName(1234, "0a1b", 123456789, 123456790)),
    ],
)
def test_a_file_name_says_which_lines_the_file_has(file: str, name: SegmentName) -> None:
    assert SegmentName.parse(file) == name
    assert name.file(Path(file).suffix) == file


@pytest.mark.parametrize(
    "file",
    ["lock", "", "000.beef-00000001.jsonl", "000.beef-00000001-00000002.open", "000.beef-1.open",
     "000.beef-00000001-00000002.jsonl.damaged", ".000.beef-00000001.open", "000.BEEF-00000001.open"],
)
def test_other_files_are_no_segments(file: str) -> None:
    assert SegmentName.parse(file) is None


def test_names_sort_as_the_lines_were_written() -> None:
    names = [SegmentName(0, "beef", 1, 99), SegmentName(0, "beef", 100, 200), SegmentName(0, "beef", 1000),
             SegmentName(1, "0000", 1)]
    assert sorted(names, key=str) == names
    assert len({OPEN, SEALED, DONE}) == 3


def test_the_place_in_the_ledger_follows_from_the_bytes() -> None:
    raw = a_segment()
    sha = hashlib.sha256(raw).hexdigest()[:16]
    assert ledger_key(raw) == (
        "usage/v1/dt=2026-11-21/hr=11/endpoint=abc%2F1%20%C3%A9/worker=pod%3D7/boot=20261121T105950-3f9a1c2b"
        f"/seq=002.beef-00000007-00000009-{sha}.jsonl.gz"
    )


@given(TEXT, TEXT, st.integers(1, 10**9))
def test_a_key_is_read_as_it_was_made(endpoint: str, worker: str, first: int) -> None:
    line = {**ENVELOPE, "endpoint": endpoint, "worker": worker}
    raw = encode(line, f"{CHAIN}-{first}") + encode(line, f"{CHAIN}-{first + 1}")
    key = parse_key(ledger_key(raw))
    assert key is not None
    assert (key.endpoint, key.worker, key.boot) == (carried(endpoint), carried(worker), ENVELOPE["boot"])
    assert (key.date, key.hour, key.name) == ("2026-11-21", "11", SegmentName(2, "beef", first, first + 1))
    assert key.chain == CHAIN
    assert str(key) == ledger_key(raw)


@pytest.mark.parametrize(
    "key", ["", "usage/v1/", "usage/v1/dt=2026-11-21/hr=11/readme.txt", "my/" + ledger_key(a_segment()),
            ledger_key(a_segment()) + ".tmp", ledger_key(a_segment()).replace("v1", "v2")],
)
def test_other_objects_are_none_of_the_ledger_s(key: str) -> None:
    assert parse_key(key) is None
