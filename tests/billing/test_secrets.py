"""No secret reaches a log, an error's text or a status, whatever goes wrong."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from handler.billing import bucket_access, uploader
from handler.billing.bucket import BucketStore
from handler.billing.store import StoreTrouble
from handler.billing.uploader import Uploader
from tests.billing.conftest import new_bucket
from tests.billing.faulty_s3 import Answer, Fault, FaultyS3
from tests.billing.segments import fill
from tests.billing.servers import S3Server
from tests.handler.processes import deaf_port

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAHUNTER2KEYID",
    "AWS_SECRET_ACCESS_KEY": "hunter2/secret+key",
    "AWS_SESSION_TOKEN": "hunter2-session-token",
}
TELLTALE = "X-Amz-Signature=hunter2 AKIAHUNTER2KEYID hunter2/secret+key"
FAULTS: list[Fault] = [
    Answer(500, "InternalError", TELLTALE), Answer(503, "SlowDown", TELLTALE), Answer(403, "AccessDenied", TELLTALE),
    Answer(403, "SignatureDoesNotMatch", TELLTALE), Answer(400, TELLTALE, TELLTALE), Answer(409, "Conflict", TELLTALE),
    Answer(403, "InvalidAccessKeyId", TELLTALE), Answer(501, "NotImplemented", TELLTALE), "cut", "cut after", "hang",
    "cut amid", "nonsense", "blank",
]


@pytest.fixture(autouse=True)
def everything_of_ours_is_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, logger="pilotlight")
    monkeypatch.setattr(uploader, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(uploader, "REMIND_S", 0.0)


def reveals(text: str) -> bool:
    return "hunter2" in text.lower() or "signature=" in text.lower()


def told(store: BucketStore) -> str:
    """All that a failure of each call says, with its traceback."""
    texts = []
    for call in (lambda: store.put("a", b"x"), lambda: list(store.keys()), lambda: store.get("a")):
        try:
            call()
        except StoreTrouble as trouble:
            texts += [str(trouble), repr(trouble), "".join(traceback.format_exception(trouble))]
    return "\n".join(texts)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault if isinstance(fault, str) else str(fault.status))
def test_a_fault_is_told_without_secrets(
    fault: Fault, faulty: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    store = new_bucket()
    monkeypatch.setattr(bucket_access, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.url.replace("//", "//hunter2user:hunter2word@"))
    store.renew()
    faulty.fail(fault)
    bringing = Uploader(store, fill(tmp_path, segments=1))
    bringing.start()
    while not (bringing.status().attempts_failed or bringing.status().uploaded):
        time.sleep(0.01)
    status, texts = repr(bringing.status()), told(store)
    faulty.fail(None)
    assert store.place in texts
    assert not reveals(texts + status + store.place + repr(store))
    assert not reveals(caplog.text)


@pytest.mark.parametrize(
    "endpoint",
    ["http://hunter2user:hunter2word@127.0.0.1:{port}", "http://hunter2user:hunter2word@no.such.host.invalid",
     "hunter2user:hunter2word@nonsense", "http://hunter2word@[bad", "https://127.0.0.1:{port}/?token=hunter2"],
)
def test_an_endpoint_that_holds_a_password_is_not_repeated(
    endpoint: str, moto: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with deaf_port() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint.format(port=port))
        texts = told(BucketStore("bucket"))
    assert "s3://bucket" in texts
    assert not reveals(texts + caplog.text)


def test_logs_as_configured_hold_nothing_of_the_client_library(faulty: FaultyS3) -> None:
    """Its debugging lines hold headers with signatures. The SDK of RunPod may have set up logging before."""
    program = """
import logging, os
import runpod.serverless.utils.rp_upload
from handler.logs import configure
configure()
from handler.billing.store import open_store
for name in ("botocore", "boto3", "urllib3", "s3transfer"):
    assert logging.getLogger(name).getEffectiveLevel() > logging.DEBUG, name
    assert not logging.getLogger(name + ".auth").isEnabledFor(logging.DEBUG), name
try:
    open_store("s3://no-such-bucket").put("a", b"x")
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "404 NoSuchBucket" in done.stdout
    assert "moto-secret" not in done.stdout + done.stderr
    assert "Signature" not in done.stdout + done.stderr
