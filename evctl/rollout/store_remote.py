"""S3-compatible stores and Google Cloud Storage: who may use them, how long a request may take.

No value of a credential is ever part of a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import NotAllowedError, UsageError

CONNECT_S = 3.0
REQUEST_S = 30.0
"""One request with its body; a store that sends slower than this is unavailable."""
RETRIES, RETRY_S = 4, 8.0
"""5xx, dropped and refused connections are tried again, with backoff, no more after this many seconds."""
S3_ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
)
GCS_FILES = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH")
GCS_OTHER = ("GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_SKIP_SIGNATURE", "GCE_METADATA_HOST", "KUBERNETES_SERVICE_HOST")
_BUCKET, _REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}"), re.compile(r"[A-Za-z0-9-]{1,64}")


def remote(scheme: str, bucket: str, config: Mapping[str, Any]) -> Any:
    """Return obstore's store of a bucket; nothing was asked yet.

    Raises:
        NotAllowedError: there are no credentials. UsageError: an address over which the library would end in a panic.
    """
    from obstore.store import GCSStore, S3Store

    retry: Any = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
    }
    client: Any = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=float(config.get("request_timeout_s") or REQUEST_S)),
        "allow_http": str(config.get("endpoint") or "").startswith("http://"),
    }
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            f"store.uri names the bucket {bucket!r}: no bucket has such a name",
            hint=f"write it as {scheme}://BUCKET/PREFIX in the profile",
        )
    if scheme == "gs":
        check_gcs(bucket)
        try:
            return GCSStore(bucket, client_options=client, retry_config=retry)
        except Exception as error:  # its own words quote the file
            raise NotAllowedError(
                f"no credentials for gs://{bucket}: what GOOGLE_APPLICATION_CREDENTIALS names is no key of Google's",
                hint="set it to the JSON file of a service account's key",
            ) from error
    check_s3(bucket)
    options: dict[str, Any] = {"region": config.get("region") or os.environ.get("AWS_REGION") or "us-east-1"}
    if not _REGION.fullmatch(str(options["region"])):
        raise UsageError(
            f"the store's region is {options['region']!r}: no region has such a name",
            hint="set store: {region: NAME} in the profile, or AWS_REGION",
        )
    if endpoint := config.get("endpoint"):
        check_endpoint(str(endpoint))
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    return S3Store(bucket, client_options=client, retry_config=retry, **options)


def check_endpoint(endpoint: str) -> None:
    """Raise UsageError for what is no address: the library ends the process's thread over it."""
    if "@" in endpoint:
        raise UsageError(
            "store.endpoint holds a login, which would be printed with it",
            hint="write it as http://HOST:PORT, and export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not endpoint.isascii() or any(each.isspace() for each in endpoint):
        raise UsageError(
            f"store.endpoint is {endpoint!r}: no address of a server",
            hint="write it as http://HOST:PORT or https://HOST in the profile",
        )


def check_s3(bucket: str) -> None:
    """Raise NotAllowedError naming the variables that are missing for a bucket."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    missing = [name for name in names if not os.environ.get(name)]
    for name in (*names, "AWS_SESSION_TOKEN"):
        value = os.environ.get(name, "")
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise NotAllowedError(
                f"no credentials for s3://{bucket}: {name} holds a space, a line's end or another sign that no key has",
                hint=f"export {name} again, without what was copied along",
            )
    if missing and (len(missing) == 1 or not any(os.environ.get(name) for name in S3_ROLES)):
        raise NotAllowedError(
            f"no credentials for s3://{bucket}: {' and '.join(missing)} not set",
            hint="export them (a machine's own role: AWS_METADATA_ENDPOINT=http://169.254.169.254)",
        )


def check_gcs(bucket: str) -> None:
    """Raise NotAllowedError when nothing says who asks for a bucket."""
    for name in GCS_FILES:
        if (file := os.environ.get(name)) and not Path(file).is_file():
            raise NotAllowedError(
                f"no credentials for gs://{bucket}: the file {name} names does not exist",
                hint="set GOOGLE_APPLICATION_CREDENTIALS to the key's file",
            )
    default = Path.home() / ".config" / "gcloud" / "application_default_credentials.json"
    if not default.is_file() and not any(os.environ.get(name) for name in (*GCS_FILES, *GCS_OTHER)):
        raise NotAllowedError(
            f"no credentials for gs://{bucket}: GOOGLE_APPLICATION_CREDENTIALS is not set",
            hint="export it, or gcloud auth application-default login",
        )
