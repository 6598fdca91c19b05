"""Which server a bucket is at, and with which keys: the usual AWS chain, then the names that RunPod's SDK reads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 20

_REGIONS = (
    r"^s3api-([a-z0-9-]+)\.runpod\.io$",
    r"([a-z0-9-]+)\.digitaloceanspaces\.com$",
    r"(?:^|\.)s3\.([a-z]{2}-[a-z-]+-[0-9]+)\.",
)
"""Hosts that name their region: RunPod's volumes, Spaces, AWS and those who name theirs as it does."""


def connect(bucket: str, environment: Mapping[str, str] = os.environ) -> Any:
    """An S3 client for a bucket. No request is made, but where the AWS chain ends at a machine's own role.

    Keys come from the AWS chain (variables, profiles, roles); where it has none, from `BUCKET_ACCESS_KEY_ID` and
    `BUCKET_SECRET_ACCESS_KEY`. The endpoint comes from the AWS chain (`AWS_ENDPOINT_URL_S3` and its like); where it
    names none, from `BUCKET_ENDPOINT_URL`, unless that comes with keys which are not the ones used.

    Raises:
        botocore's own errors; ValueError: the endpoint is no URL.
    """
    from botocore.config import Config
    from botocore.session import Session

    session = Session()
    keys = _runpod_keys(environment)
    if keys:  # Keys that were given are meant; a machine's own role is only at hand.
        session.get_component("credential_provider").remove("iam-role")
    used = {} if session.get_credentials() else keys
    endpoint = _aws_endpoint(session)
    if not endpoint and used == keys:
        endpoint = endpoint_without_bucket(environment.get("BUCKET_ENDPOINT_URL", ""), bucket)
    return session.create_client(
        "s3", endpoint_url=endpoint or None, region_name=_region(session, environment, endpoint), **used,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"} if endpoint else None,
            # Content-MD5 is checked by every make of server; trailing checksums are not known to all.
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        ),
    )


def endpoint_without_bucket(url: str, bucket: str) -> str:
    """A server's URL; users of RunPod often write it with the bucket, as the first part of the host or as the path."""
    scheme, separator, rest = url.strip().rstrip("/").partition("://")
    host, _, path = rest.partition("/")
    path = path.removesuffix(bucket).strip("/") if path == bucket or path.endswith(f"/{bucket}") else path
    return scheme + separator + "/".join(part for part in (host.removeprefix(f"{bucket}."), path) if part)


def region_of(endpoint: str) -> str | None:
    """The region that an endpoint's host names."""
    host = urlsplit(endpoint).hostname or ""
    for pattern in _REGIONS:
        if found := re.search(pattern, host):
            return found[1]
    return None


def _runpod_keys(environment: Mapping[str, str]) -> dict[str, str]:
    key, secret = environment.get("BUCKET_ACCESS_KEY_ID"), environment.get("BUCKET_SECRET_ACCESS_KEY")
    return {"aws_access_key_id": key, "aws_secret_access_key": secret} if key and secret else {}


def _region(session: Any, environment: Mapping[str, str], endpoint: str) -> str:
    """AWS_REGION is what the platform's other tools read, and botocore does not."""
    named = environment.get("AWS_REGION") or session.get_config_variable("region")
    return named or region_of(endpoint) or "us-east-1"


def _aws_endpoint(session: Any) -> str:
    from botocore.configprovider import ConfiguredEndpointProvider

    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return ""
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    )
    return provider.provide() or ""
