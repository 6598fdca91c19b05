"""Bytes that are no HTTP, or only nearly, on connections that are cut off; others are served all the while."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

import httpx
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import effort
from tests.fuzz.tally import Tally

END_S = 60.0
"""After its client has said all, a connection must end in so long."""
PATIENCE_S = 0.05
"""How long the first bytes of an answer are waited for where the client does not end."""

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
BODY = b'{"input": {"prompt": "a", "sampling_params": {"max_tokens": 2}}}'

METHOD = st.sampled_from([b"GET", b"POST", b"PUT", b"BREW", b"", b"\x00", b"get", b"PRI"]) | st.binary(max_size=6)
TARGET = st.sampled_from([
    b"/runsync", b"/v1/chat/completions", b"/ping", b"/", b"*", b"", b"http://other/ping", b"//ping", b"/%ff%00%",
    b"/\xff\xfe", b"/ping?" + b"a" * 70_000, b"/status/" + b"%2e" * 3000, b"/ping#x", b"/../../etc/passwd",
]) | st.binary(max_size=20)
VERSION = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"ICY", b"HTTP/1.1 "])
LENGTH = st.sampled_from([
    b"%d" % len(BODY), b"%d" % (len(BODY) + 5), b"%d" % (len(BODY) - 5), b"-1", b"0", b"1e3", b"99999999999999999999",
    b"0x10", b" 7 ", b"", b"7, 7",
]).map(lambda value: b"Content-Length: " + value)
CHUNKED = st.just(b"Transfer-Encoding: chunked")
HEADER = st.one_of(
    LENGTH, CHUNKED, st.just(b"Content-Type: application/json"), st.just(b"Connection: keep-alive"),
    st.just(b"Expect: 100-continue"), st.just(b"Upgrade: websocket\r\nConnection: Upgrade"), st.just(b"Host: a"),
    st.just(b"Transfer-Encoding: gzip, chunked"), st.just(b"Authorization: Bearer \xff\xfe"), st.just(b": x"),
    st.just(b"X: " + b"a" * 100_000), st.just(b"\r\n".join(b"X-%d: 1" % number for number in range(3000))),
    st.just(b" folded: x"), st.just(b"Content-Type: application/json; charset=utf-99"),
    st.just(b"Content-Encoding: gzip"), st.binary(max_size=30),
)
CONTENT = st.one_of(
    st.just(BODY), st.binary(max_size=80), st.just(b""), st.just(b"\xff\xfe" + BODY), st.just(BODY + BODY),
    st.just(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)), st.just(b"%x\r\n%s" % (len(BODY) + 9, BODY)),
    st.just(b"zz\r\n" + BODY), st.just(b"ffffffffffffffffff\r\nx"),
    st.just(b"5;" + b"a" * 9000 + b"\r\nhello\r\n0\r\n"),
)
REQUEST = st.builds(
    lambda line, headers, content, end: end.join([b" ".join(line), *headers, b"", content]),
    st.tuples(METHOD, TARGET, VERSION), st.lists(HEADER, max_size=4), CONTENT, st.sampled_from([b"\r\n", b"\n", b"\r"]),
)
GOOD = st.sampled_from([b"%d" % len(BODY), b"%d" % (len(BODY) + 5)]).map(
    lambda length: b"POST /runsync HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
    + length + b"\r\n\r\n" + BODY
)
CUT = st.tuples(REQUEST | GOOD, st.integers(0, 400)).map(lambda both: both[0][: both[1]])
PAYLOADS = st.one_of(REQUEST, REQUEST, GOOD, CUT, st.binary(max_size=200), st.lists(GOOD, max_size=3).map(b"".join))


def fuzz_connections(url: str, cases: int, tally: Tally) -> None:
    """Open so many connections, say something on each, and see that no answer is a fault of the server's."""
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    address = place.hostname, place.port
    with httpx.Client(base_url=url, timeout=END_S) as other:

        @effort(cases)
        @given(payload=PAYLOADS, says_end=st.booleans())
        def is_survived(payload: bytes, says_end: bool) -> None:
            answer = tally.time("connection", lambda: _say(address, payload, says_end))
            statuses = [status.decode() for status in STATUS.findall(answer)]
            for status in statuses or ["none"]:
                tally.see(status)
            assert not any(status.startswith("5") for status in statuses), answer
            assert other.get("/ping").status_code == 200

        is_survived()


def _say(address: tuple[str, int], payload: bytes, says_end: bool) -> bytes:
    """What is answered: to the end where the client says that it has ended, else what comes at once."""
    answer = b""
    with socket.create_connection(address, END_S) as connection:
        try:
            connection.sendall(payload)
            if says_end:
                connection.shutdown(socket.SHUT_WR)
            else:
                connection.settimeout(PATIENCE_S)
            while part := connection.recv(65_536):
                answer += part
        except TimeoutError:
            assert not says_end, "the connection hangs"
        except OSError:  # The server has had enough of it.
            pass
    return answer
