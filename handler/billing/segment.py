"""A segment of the journal: checksummed lines, what its file is called, and the object of the ledger it becomes."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from handler.billing.lines import Line

OPEN: Final = ".open"
SEALED: Final = ".jsonl"
DONE: Final = ".done"
"""How a segment's file is called while it is written, when nothing more is added, and when the ledger has it."""

UNDER: Final = "usage/v1/"
"""Where in a store the ledger is."""

_CRC: Final = b',"crc":"'
_CRC_TAIL: Final = len(_CRC) + len('00000000"}')
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

# Member header by RFC 1952: deflate, no flags, no time, no hint, system unknown. Python's own differs by version.
_GZIP_HEADER: Final = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])

_FILE: Final = re.compile(r"(\d{3,})\.([0-9a-f]{4})-(\d{8,})(?:-(\d{8,}))?")
_KEY: Final = re.compile(
    re.escape(UNDER)
    + r"dt=(\d{4}-\d\d-\d\d)/hr=(\d\d)/endpoint=([^/]*)/worker=([^/]*)/boot=([^/]*)"
    + r"/seq=(\d{3,})\.([0-9a-f]{4})-(\d{8,})-(\d{8,})-([0-9a-f]{16})\.jsonl\.gz"
)


def encode(line: Mapping[str, Any], record_id: str) -> bytes:
    """A line as it is written: its id first, its checksum last. What UTF-8 cannot carry becomes a question mark.

    Raises:
        ValueError: a number that JSON has not, such as infinity.
    """
    assert "id" not in line
    assert "crc" not in line
    body = _ENCODER.encode({"id": record_id, **line})[:-1].encode("utf-8", "replace")
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def decode(raw: bytes) -> Line | None:
    """The line that was written, with its id and without its checksum; None where it is damaged."""
    raw = raw.removesuffix(b"\n")
    body = raw[:-_CRC_TAIL]
    if raw[-_CRC_TAIL:] != b'%b%08x"}' % (_CRC, zlib.crc32(body)):
        return None
    try:
        line = json.loads(body + b"}")
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def split(raw: bytes) -> Iterator[bytes]:
    """A segment's bytes line by line, each with its end; a last one without an end is torn."""
    start = 0
    while start < len(raw):
        end = raw.find(b"\n", start) + 1 or len(raw)
        yield raw[start:end]
        start = end


def read_segment(path: Path) -> tuple[list[Line], int]:
    """A segment's lines up to the first that is damaged or torn, and how many bytes they are.

    Raises:
        OSError: the file cannot be read.
    """
    lines: list[Line] = []
    whole = 0
    for raw in split(path.read_bytes()):
        line = decode(raw) if raw.endswith(b"\n") else None
        if line is None:
            break
        lines.append(line)
        whole += len(raw)
    return lines, whole


def compress(raw: bytes) -> bytes:
    """gzip, the same bytes each time with the same zlib; another zlib may pack them differently."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    trailer = zlib.crc32(raw).to_bytes(4, "little") + (len(raw) & 0xFFFFFFFF).to_bytes(4, "little")
    return _GZIP_HEADER + deflate.compress(raw) + deflate.flush() + trailer


@dataclass(frozen=True, slots=True)
class SegmentName:
    """Which lines a segment holds: of a chain, from the first to the last. As text they sort as they were written.

    Attributes:
        nonce: 4 hex digits that tell apart the chains of clones restored from one snapshot.
        first: counts from 1 within the chain.
        last: None while the segment is open.
    """

    epoch: int
    nonce: str
    first: int
    last: int | None = None

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """What a file is, by its name; None for one that is no segment's."""
        stem, dot, suffix = name.rpartition(".")
        match = _FILE.fullmatch(stem)
        if match is None or dot + suffix not in ((OPEN,) if match[4] is None else (SEALED, DONE)):
            return None
        return cls(int(match[1]), match[2], int(match[3]), None if match[4] is None else int(match[4]))

    @property
    def chain(self) -> str:
        """Names the chain within its boot."""
        return f"{self.epoch}.{self.nonce}"

    def file(self, suffix: str) -> str:
        """The name of its file."""
        return str(self) + suffix

    def __str__(self) -> str:
        last = "" if self.last is None else f"-{self.last:08d}"
        return f"{self.epoch:03d}.{self.nonce}-{self.first:08d}{last}"


def record_id(boot: str, chain: str, seq: int) -> str:
    """What names a line in the whole ledger."""
    return f"{boot}-{chain}-{seq}"


def seq_of(line: Line) -> int:
    """A line's number within its chain."""
    return int(line["id"].rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class LedgerKey:
    """What an object's key tells of its lines, without the store's own prefix.

    Attributes:
        date: in UTC, when the first line was written; YYYY-MM-DD.
        hour: 00 to 23.
        name: which lines of `boot` they are.
        sha: the first 16 hex digits of the SHA-256 of the bytes before compression.
    """

    date: str
    hour: str
    endpoint: str
    worker: str
    boot: str
    name: SegmentName
    sha: str

    @property
    def chain(self) -> str:
        """Names the chain in the whole ledger: where two objects are of one, their lines' numbers may overlap."""
        return f"{self.boot}-{self.name.chain}"

    def __str__(self) -> str:
        endpoint, worker, boot = (quote(value, safe="") for value in (self.endpoint, self.worker, self.boot))
        return (
            f"{UNDER}dt={self.date}/hr={self.hour}/endpoint={endpoint}/worker={worker}/boot={boot}"
            f"/seq={self.name}-{self.sha}.jsonl.gz"
        )


def ledger_key(raw: bytes) -> str:
    """Where a segment's bytes go in the ledger, which follows from them alone. Both its ends must be whole."""
    first, last = decode(raw[: raw.index(b"\n")]), decode(raw[raw.rfind(b"\n", 0, -1) + 1 :])
    assert first is not None
    assert last is not None
    nonce = first["id"].rpartition("-")[0].rpartition(".")[2]
    name = SegmentName(first["epoch"], nonce, seq_of(first), seq_of(last))
    date, hour = first["written"][:10], first["written"][11:13]
    sha = hashlib.sha256(raw).hexdigest()[:16]
    return str(LedgerKey(date, hour, first["endpoint"], first["worker"], first["boot"], name, sha))


def parse_key(key: str) -> LedgerKey | None:
    """What a key says; None for an object that is none of the ledger's."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    date, hour, endpoint, worker, boot, epoch, nonce, first, last, sha = match.groups()
    name = SegmentName(int(epoch), nonce, int(first), int(last))
    return LedgerKey(date, hour, unquote(endpoint), unquote(worker), unquote(boot), name, sha)
