"""A bucket on an S3 server of any make. Only PutObject, GetObject, HeadObject and ListObjectsV2 are asked of it."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from handler.billing.bucket_access import connect
from handler.billing.store import StoredObject, StoreTrouble, same_content

_PASSING: Final = {408, 409, 425, 429, 500, 502, 503, 504}
"""Statuses after which the same request may well succeed; 409 is a write that met another one (AWS, PutObject)."""

_PASSING_CODES: Final = {"RequestTimeout", "SlowDown", "OperationAborted", "ConditionalRequestConflict"}

_HINTS: Final = {
    "AccessDenied": "the keys may not do this: writing takes s3:PutObject, reading s3:GetObject and s3:ListBucket",
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": "the server does not know the access key",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "NoCredentialsError": "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or BUCKET_ACCESS_KEY_ID and so on",
    "ProfileNotFound": "AWS_PROFILE names no profile of the configuration",
    "PermanentRedirect": "the bucket is in another region: set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_REGION",
}

_log = logging.getLogger("pilotlight.ledger")


class BucketStore:
    """Objects of a bucket, below a prefix.

    Attributes:
        place: `s3://BUCKET/PREFIX`.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.place = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._above = f"{prefix}/" if prefix else ""
        self._lock = threading.Lock()
        self._connected: Any = None
        self._knows_conditions = True

    def put(self, key: str, body: bytes) -> bool:
        """Write an object whose key settles its content. True: it is written; False: it was there, the same.

        What is there and differs is damaged, and is written anew.

        Raises:
            StoreTrouble: the server cannot be reached, or says no.
        """
        try:
            return self._put(key, body)
        except StoreTrouble:
            raise
        except Exception as error:
            raise self._trouble(error, "write") from None

    def keys(self, under: str = "") -> Iterator[StoredObject]:
        """Every object whose key begins with `under`, in the order of their keys.

        Raises:
            StoreTrouble: as for `put`.
        """
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._above + under
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    yield StoredObject(found["Key"][len(self._above):], found["Size"])
        except Exception as error:
            raise self._trouble(error, "list") from None

    def get(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            StoreTrouble: as for `put`, or there is no such object.
        """
        try:
            return self._get(key)
        except Exception as error:
            raise self._trouble(error, "read") from None

    def read(self, key: str) -> tuple[bytes, str] | None:
        """An object's bytes and its tag, which changes with it; None where there is no such object.

        Raises:
            StoreTrouble: as for `put`.
        """
        try:
            answer = self._client.get_object(**self._object(key))
            return answer["Body"].read(), answer["ETag"]
        except Exception as error:
            if isinstance(error, _client_error()) and _status(error) == 404 and _code(error) != "NoSuchBucket":
                return None
            raise self._trouble(error, "read") from None

    def replace(self, key: str, body: bytes, tag: str | None) -> str | None:
        """Write an object that still has this tag, or is not there (None); gives the new tag, or None if it changed.

        Raises:
            StoreTrouble: as for `put`; `refused` where the server takes no such condition.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            return str(self._client.put_object(**self._object(key), Body=body, **condition)["ETag"])
        except Exception as error:
            if isinstance(error, _client_error()) and _status(error) in (404, 409, 412):
                return None
            raise self._trouble(error, "write") from None

    def overwrite(self, key: str, body: bytes) -> str:
        """Write an object, whatever is there; gives its tag.

        Raises:
            StoreTrouble: as for `put`.
        """
        try:
            return str(self._client.put_object(**self._object(key), Body=body)["ETag"])
        except Exception as error:
            raise self._trouble(error, "write") from None

    def renew(self) -> None:
        """Connect anew with the next call; calls under way end as they can."""
        with self._lock:
            self._connected = None

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._connected is None:
                self._connected = connect(self._bucket)
            return self._connected

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._above + key}

    def _put(self, key: str, body: bytes) -> bool:
        if not self._knows_conditions:
            self._write(key, body)
            return True
        try:
            self._write(key, body, IfNoneMatch="*")
        except _client_error() as error:
            if _status(error) == 412:
                return self._settle(key, body)
            if not _denies_condition(error):
                raise
            self._write(key, body)
            self._knows_conditions = False
            _log.info("%s: the server takes no conditional writes; readers drop what comes twice", self.place)
        return True

    def _write(self, key: str, body: bytes, **condition: str) -> None:
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        answer = self._client.put_object(
            **self._object(key), Body=body, ContentMD5=base64.b64encode(digest).decode(), **condition,
            ContentType="application/gzip" if key.endswith(".gz") else "application/octet-stream",
        )
        if not answer.get("ETag"):  # Some page of a proxy's, say: nothing says that anything is kept.
            raise StoreTrouble(f"{self.place}{self._host()}: cannot write: the answer is no S3 server's", refused=True)

    def _settle(self, key: str, body: bytes) -> bool:
        """An object of this name is there: keep it if it is the same, else write it again.

        Where it cannot be looked at (the keys may only write, or it has gone since) writing is the one way to be sure.
        """
        try:
            if self._is_there(key, body):
                return False
            _log.error("%s: %s was damaged; it is written anew", self.place, key)
        except _client_error() as error:
            if _status(error) not in (403, 404):
                raise
        self._write(key, body)
        return True

    def _is_there(self, key: str, body: bytes) -> bool:
        head = self._client.head_object(**self._object(key))
        if head["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest():
            return True
        # Other encryptions have other tags. An object far larger than it should be is not even read.
        return head["ContentLength"] <= 2 * len(body) + 1024 and same_content(self._get(key), body)

    def _get(self, key: str) -> bytes:
        return self._client.get_object(**self._object(key))["Body"].read()

    def _trouble(self, error: Exception, doing: str) -> StoreTrouble:
        """What went wrong, in words of ours alone: libraries and servers quote addresses, key ids and signatures."""
        host = self._host()
        if isinstance(error, _client_error()):
            code, status = _code(error), _status(error)
            refused = status not in _PASSING and code not in _PASSING_CODES
            name = f"{status} {code}" if code != str(status) else code
        else:
            code = name = type(error).__name__
            refused = not _is_connection(error)
            if refused:
                self.renew()  # Keys that were not to be found may be there by the next attempt.
        hint = f" ({_HINTS[code]})" if code in _HINTS else ""
        return StoreTrouble(f"{self.place}{host}: cannot {doing}: {name}{hint}", refused)

    def _host(self) -> str:
        """The server's host and port, once there is a client: an endpoint's URL may hold a password."""
        client = self._connected
        where = urlsplit(client.meta.endpoint_url).netloc.rpartition("@")[2] if client else ""
        return f" at {where}" if where else ""


def _client_error() -> type[Exception]:
    from botocore.exceptions import ClientError

    return ClientError


def _status(error: Exception) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)  # type: ignore[attr-defined]


def _code(error: Exception) -> str:
    """The server's name for what went wrong; anything else it may have written there is left out."""
    code = str(error.response.get("Error", {}).get("Code", ""))  # type: ignore[attr-defined]
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else "error"


def _denies_condition(error: Exception) -> bool:
    """Whether it may be the condition that the server cannot do."""
    if _status(error) == 501 or _code(error) == "NotImplemented":
        return True
    said = str(error.response.get("Error", {})).lower().replace("-", "")  # type: ignore[attr-defined]
    return _status(error) == 400 and "ifnonematch" in said


def _is_connection(error: Exception) -> bool:
    """Whether the way to the server failed, or its answer broke off, rather than what was asked."""
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    return isinstance(error, NoConnection | HTTPClientError | IncompleteReadError | ResponseParserError | OSError)
