"""A bucket as the ledger, on S3 servers of three makes."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from handler.billing import bucket_access
from handler.billing.bucket import BucketStore
from handler.billing.bucket_access import connect, endpoint_without_bucket, region_of
from handler.billing.segment import compress, ledger_key, parse_key
from handler.billing.store import StoredObject, StoreTrouble
from tests.billing.conftest import new_bucket
from tests.billing.faulty_s3 import Answer, Fault, FaultyS3, Rule
from tests.billing.segments import fill, read_back, record_ids, sealed
from tests.billing.servers import S3Server
from tests.handler.processes import deaf_port, eventually

KEY = "usage/dt=2026-11-21/endpoint=a%2Fb=ü +&/seq=1.jsonl.gz"
RAW = b"line\n" * 100
BODY = compress(RAW)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Four of each of fifty workers."""
    root = tmp_path_factory.mktemp("journals")
    return [raw for worker in range(50) for raw in sealed(fill(root, worker))]


def overwrite(store: BucketStore, body: bytes) -> None:
    store._write(KEY, body)
    assert holds(store, body)


def holds(store: BucketStore, body: bytes) -> bool:
    """Whether that is there, or soon: s3rver answers before it has written."""
    return eventually(lambda: store.get(KEY) == body)


def test_a_bucket_keeps_what_is_put_there(server: S3Server) -> None:
    store = new_bucket()
    assert list(store.keys()) == []
    assert store.put(KEY, BODY)
    assert holds(store, BODY)
    assert list(store.keys("usage/dt=2026-11-2")) == [StoredObject(KEY, len(BODY))]
    assert list(store.keys("usage/dt=2026-11-22")) == []
    assert [found["Key"] for found in store._client.list_objects_v2(Bucket=store._bucket)["Contents"]] == [
        f"the ledger/üß/{KEY}"
    ]


def test_what_is_there_already_counts_as_done(server: S3Server) -> None:
    store = new_bucket()
    store.put(KEY, BODY)
    assert holds(store, BODY)
    assert store.put(KEY, BODY) is not server.make.conditional
    overwrite(store, gzip.compress(RAW, 1))
    assert store.put(KEY, BODY) is not server.make.conditional, "packed by another zlib"
    assert gzip.decompress(store.get(KEY)) == RAW


def test_what_is_there_and_damaged_is_written_anew(server: S3Server) -> None:
    store = new_bucket()
    for damaged in (b"", BODY[:-9], b"x" * 100_000, compress(RAW + b"more\n"), compress(b"")):
        overwrite(store, damaged)
        assert store.put(KEY, BODY)
        assert holds(store, BODY)


def test_a_long_listing_comes_whole_and_in_order(moto: S3Server) -> None:
    store = new_bucket()
    names = [f"{letter}/{number}" for letter in "äab" for number in range(8)]
    for name in names:
        store.put(name, b"x")
    assert [found.key for found in store.keys()] == sorted(names, key=str.encode)  # noqa: SIM118
    assert [found.key for found in store.keys("a")] == [f"a/{number}" for number in range(8)]


def test_many_writers_of_one_object_all_succeed(server: S3Server) -> None:
    store = new_bucket()
    with ThreadPoolExecutor(16) as pool:
        wrote = list(pool.map(lambda _: store.put(KEY, BODY), range(16)))
    assert any(wrote)
    assert holds(store, BODY)
    assert len(list(store.keys())) == 1


def test_fifty_workers_segments_arrive_whole_and_once_through_faults_and_repeats(
    server: S3Server, segments: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FaultyS3(server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    store, draw = new_bucket(), random.Random(5)
    faults: list[Fault | None] = [Answer(500, "InternalError"), Answer(503, "SlowDown"), "cut", "cut after", "cut amid"]
    proxy.rule = lambda method, path, headers: draw.choice(faults) if draw.random() < 0.15 else None
    uploads = [*segments, *draw.choices(segments, k=100)]
    draw.shuffle(uploads)

    def arrives(raw: bytes) -> bool:
        try:
            store.put(ledger_key(raw), compress(raw))
        except StoreTrouble as trouble:
            if trouble.refused:
                raise
            return False
        return True

    def upload(raw: bytes) -> int:
        """How often it failed before it succeeded."""
        return next(failed for failed in count() if arrives(raw))

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(upload, uploads)) > 0
    proxy.fail(None)
    assert eventually(lambda: read_back(store) == {ledger_key(raw): raw for raw in segments})
    found = read_back(store)
    records = Counter(record for raw in found.values() for record in record_ids(raw))
    assert len(records) == 50 * 4 * 12
    assert set(records.values()) == {1}
    assert {key.worker for name in found if (key := parse_key(name))} == {f"worker-{each:03d}" for each in range(50)}
    proxy.stop()


def test_a_bucket_that_is_not_there_refuses(server: S3Server) -> None:
    store = BucketStore("no-such-bucket", "x")
    for call in (lambda: store.put(KEY, BODY), lambda: list(store.keys()), lambda: store.get(KEY)):
        with pytest.raises(StoreTrouble, match=r"s3://no-such-bucket/x at 127.*404 NoSuchBucket") as caught:
            call()
        assert caught.value.refused


def test_an_object_that_is_not_there_is_said_to_be_missing(server: S3Server) -> None:
    with pytest.raises(StoreTrouble, match="cannot read: 404") as caught:
        new_bucket().get(KEY)
    assert caught.value.refused


@pytest.mark.parametrize("make", ["swift", "s3rver"])
def test_keys_that_the_server_does_not_know_are_refused(
    make: str, start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in start_server(make).environment.items():
        monkeypatch.setenv(name, value)
    store = new_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONG")
    with pytest.raises(StoreTrouble, match=r"403 (SignatureDoesNotMatch|InvalidAccessKeyId)") as caught:
        BucketStore(store._bucket).put(KEY, BODY)
    assert caught.value.refused


def denying_conditions(denial: Answer) -> Rule:
    return lambda method, path, headers: denial if "if-none-match" in headers else None


def test_a_server_that_knows_no_conditions_is_asked_once(faulty: FaultyS3) -> None:
    denials = [
        Answer(501, "NotImplemented"), Answer(400, "InvalidArgument", "If-None-Match: not supported here"),
        Answer(400, "NotImplemented", "A header you provided implies functionality that is not implemented"),
    ]
    for denial in denials:
        store = new_bucket()
        faulty.rule = denying_conditions(denial)
        faulty.requests.clear()
        assert store.put("a", BODY)
        assert store.put("a", BODY)
        assert [method for method, _ in faulty.requests] == ["PUT"] * 3


def test_keys_that_may_only_write_are_enough(faulty: FaultyS3) -> None:
    store = new_bucket()
    store.put(KEY, BODY)
    faulty.rule = lambda method, path, headers: None if method == "PUT" else Answer(403, "AccessDenied")
    assert store.put(KEY, BODY), "it cannot be looked at, so that it is written again"
    with pytest.raises(StoreTrouble, match=r"403 AccessDenied .*s3:GetObject") as caught:
        store.get(KEY)
    assert caught.value.refused
    faulty.fail(None)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize(
    ("fault", "says", "refused"),
    [
        (Answer(500, "InternalError"), "500 InternalError", False),
        (Answer(502, "key AKIA7"), "502 error", False),
        (Answer(503, "SlowDown"), "503 SlowDown", False),
        (Answer(409, "ConditionalRequestConflict"), "409 ConditionalRequestConflict", False),
        (Answer(400, "RequestTimeout"), "400 RequestTimeout", False),
        (Answer(429, "TooManyRequests"), "429 TooManyRequests", False),
        (Answer(403, "AccessDenied"), "403 AccessDenied", True),
        (Answer(400, "ExpiredToken"), "400 ExpiredToken", True),
        (Answer(501, "NotImplemented"), "501 NotImplemented", True),
        ("cut", "ConnectionClosedError", False),
        ("cut after", "ConnectionClosedError", False),
        ("hang", "ReadTimeoutError", False),
        ("nonsense", "500", False),
        ("blank", "the answer is no S3 server's", True),
    ],
)
def test_each_fault_is_named_and_told_apart(
    faulty: FaultyS3, fault: Fault, says: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_bucket()
    faulty.fail(fault)
    with monkeypatch.context() as patch:
        if fault == "hang":
            patch.setattr(bucket_access, "READ_TIMEOUT_S", 0.3)
            store.renew()
        with pytest.raises(StoreTrouble) as caught:
            store.put(KEY, BODY)
    assert str(caught.value).startswith(f"{store.place} at 127.0.0.1:{faulty.server_address[1]}: cannot write: {says}")
    assert caught.value.refused is refused
    faulty.fail(None)
    store.renew()
    store.put(KEY, BODY)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize("fault", ["nonsense", "cut amid"])
def test_an_answer_that_breaks_off_or_makes_no_sense_is_no_object_and_no_listing(
    faulty: FaultyS3, fault: Fault
) -> None:
    store = new_bucket()
    store.put(KEY, BODY)
    faulty.fail(fault)
    with pytest.raises(StoreTrouble) as caught:
        list(store.keys())
    assert not caught.value.refused
    if fault == "cut amid":
        with pytest.raises(StoreTrouble) as caught:
            store.get(KEY)
        assert not caught.value.refused


def test_a_server_that_is_not_there_may_come_back(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf_port() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        with pytest.raises(StoreTrouble, match="EndpointConnectionError") as caught:
            BucketStore("bucket").put(KEY, BODY)
    assert not caught.value.refused


def test_without_keys_it_says_what_to_set(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_bucket()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    keyless = BucketStore(store._bucket)
    with pytest.raises(StoreTrouble, match=r"NoCredentialsError .*set AWS_ACCESS_KEY_ID") as caught:
        keyless.put(KEY, BODY)
    assert caught.value.refused
    monkeypatch.setenv("BUCKET_ACCESS_KEY_ID", "moto-key")
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "moto-secret")
    assert keyless.put(KEY, BODY), "keys that come later are found"


def test_runpods_names_serve_where_awss_are_absent(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("BUCKET_ENDPOINT_URL", f"{moto.url}/{store._bucket}/")
    monkeypatch.setenv("BUCKET_ACCESS_KEY_ID", "moto-key")
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "moto-secret")
    assert BucketStore(store._bucket, "the ledger/üß").put(KEY, BODY)
    assert store.get(KEY) == BODY


@pytest.mark.parametrize(
    ("variables", "endpoint", "key"),
    [
        ({"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "x"}, "https://s3.amazonaws.com", "aws"),
        ({"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"},
         "https://s3.eu-west-1.amazonaws.com", "aws"),
        ({"AWS_ENDPOINT_URL": "https://one.example", "BUCKET_ENDPOINT_URL": "https://two.example",
          "BUCKET_ACCESS_KEY_ID": "bucket", "BUCKET_SECRET_ACCESS_KEY": "x"}, "https://one.example", "bucket"),
        ({"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "x", "BUCKET_ENDPOINT_URL": "https://two.example"},
         "https://two.example", "aws"),
        ({"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "x", "BUCKET_ENDPOINT_URL": "https://two.example",
          "BUCKET_ACCESS_KEY_ID": "bucket", "BUCKET_SECRET_ACCESS_KEY": "x"}, "https://s3.amazonaws.com", "aws"),
        ({"BUCKET_ENDPOINT_URL": "https://two.example", "BUCKET_ACCESS_KEY_ID": "bucket",
          "BUCKET_SECRET_ACCESS_KEY": "x"}, "https://two.example", "bucket"),
    ],
)
def test_the_aws_chain_comes_first_and_keys_go_only_to_their_own_server(
    variables: dict[str, str], endpoint: str, key: str, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = connect("bucket")
    assert client.meta.endpoint_url == endpoint
    assert client._request_signer._credentials.access_key == key


def test_a_profile_names_keys_region_and_endpoint(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        "[profile ledger]\naws_access_key_id = p\naws_secret_access_key = q\nregion = eu-north-1\n"
        "endpoint_url = https://three.example\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "ledger")
    client = connect("bucket")
    assert (client.meta.endpoint_url, client.meta.region_name) == ("https://three.example", "eu-north-1")
    monkeypatch.setenv("AWS_PROFILE", "typo")
    with pytest.raises(StoreTrouble, match="ProfileNotFound"):
        BucketStore("bucket").put(KEY, BODY)


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("https://bucket.nyc3.digitaloceanspaces.com", "https://nyc3.digitaloceanspaces.com"),
        ("https://s3api-eu-ro-1.runpod.io/bucket/", "https://s3api-eu-ro-1.runpod.io"),
        ("https://host:9000/minio/bucket", "https://host:9000/minio"),
        ("https://host:9000/mybucket", "https://host:9000/mybucket"),
        ("https://s3api-eu-ro-1.runpod.io/", "https://s3api-eu-ro-1.runpod.io"),
        ("", ""),
    ],
)
def test_an_endpoint_may_carry_the_bucket(url: str, without: str) -> None:
    assert endpoint_without_bucket(url, "bucket") == without


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3api-eu-ro-1.runpod.io", "eu-ro-1"), ("https://nyc3.digitaloceanspaces.com", "nyc3"),
        ("https://s3.eu-central-1.wasabisys.com", "eu-central-1"),
        ("https://b.s3.us-west-002.backblazeb2.com", "us-west-002"),
        ("https://s3.amazonaws.com", None), ("https://s3.example.com", None), ("http://127.0.0.1:9000", None),
    ],
)
def test_hosts_that_name_their_region_are_believed(endpoint: str, region: str | None) -> None:
    assert region_of(endpoint) == region
