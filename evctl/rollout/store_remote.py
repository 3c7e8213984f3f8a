"""S3-compatible stores and Google Cloud Storage: who may use them, how long a request may take, what went wrong.

No value of a credential is ever part of a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from evctl.errors import EvctlError, NotAllowedError, UnavailableError, trim

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
_STATUS = re.compile(r"status code: (\d{3})|HTTP status[^\d]{0,20}(\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")


def remote(scheme: str, bucket: str, config: Mapping[str, Any]) -> Any:
    """Return obstore's store of a bucket. NotAllowedError when there are no credentials: nothing was asked yet."""
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
    if scheme == "gs":
        check_gcs(bucket)
        return GCSStore(bucket, client_options=client, retry_config=retry)
    check_s3(bucket)
    options: dict[str, Any] = {"region": config.get("region") or os.environ.get("AWS_REGION") or "us-east-1"}
    if config.get("endpoint"):
        options |= {"endpoint": config["endpoint"], "virtual_hosted_style_request": False}
    return S3Store(bucket, client_options=client, retry_config=retry, **options)


def check_s3(bucket: str) -> None:
    """Raise NotAllowedError naming the variables that are missing for a bucket."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    missing = [name for name in names if not os.environ.get(name)]
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


def failure(what: str, error: Exception) -> EvctlError:
    """Return our error of obstore's: NotAllowedError for credentials and policies, else UnavailableError."""
    text = str(error)
    name = type(error).__name__
    found = _STATUS.search(text)
    status = next((group for group in found.groups() if group), None) if found else None
    code = match[1] if (match := _CODE.search(text)) else None
    if name in ("UnauthenticatedError", "PermissionDeniedError") or status in ("401", "403"):
        told = f"{what}: the store does not allow it ({code or status or name})"
        return NotAllowedError(told, hint="look at the credentials, and at what they may do in this bucket")
    if code == "NoSuchBucket":
        return UnavailableError(f"{what}: the bucket does not exist", hint="look at store.uri in the profile")
    told = ", ".join(each for each in (code, f"status {status}" if status else None) if each) or _without_secrets(text)
    return UnavailableError(f"{what}: {told}", hint="look at store.uri and store.endpoint in the profile, then again")


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if value and len(value) > 3 and name.startswith(("AWS_", "GOOGLE_")) and name not in ("AWS_REGION",):
            text = text.replace(value, "***")
    return trim(text, 200)
