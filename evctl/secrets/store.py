"""What the pods of a cluster need to reach the model store: a secret that KServe understands, a service account with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from evctl.errors import UsageError
from evctl.profile import Profile

S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
GCS_KEYS = ("gcloud-application-credentials.json",)
_PREFIX = "serving.kserve.io/s3-"


def store_keys(profile: Profile) -> Sequence[str]:
    """Return the keys that the store's secret must have. UsageError for a store that pods could not reach."""
    scheme = urlsplit(profile.store.uri).scheme
    if scheme == "s3":
        return S3_KEYS
    if scheme == "gs":
        return GCS_KEYS
    raise UsageError(
        f"the store of profile {profile.name} is {profile.store.uri}, which needs no secret",
        hint="--store is for s3:// and gs://",
    )


def kserve_annotations(profile: Profile) -> dict[str, str]:
    """Return what KServe's storage initializer reads beside the keys: endpoint, TLS, region."""
    if urlsplit(profile.store.uri).scheme != "s3":
        return {}
    found = {f"{_PREFIX}region": profile.store.region or "us-east-1"}
    if profile.store.endpoint:
        parts = urlsplit(profile.store.endpoint)
        if not parts.netloc:
            raise UsageError(f"store.endpoint {profile.store.endpoint!r} is no URL", hint="http://host:port")
        found |= {f"{_PREFIX}endpoint": parts.netloc, f"{_PREFIX}usehttps": "0" if parts.scheme == "http" else "1"}
    return found


def of_another_store(standing: Mapping[str, str], profile: Profile) -> Sequence[str]:
    """Return what a secret's annotations tell of another store than the profile's: two profiles may name one secret."""
    if urlsplit(profile.store.uri).scheme != "s3":
        return ()
    wanted = {f"{_PREFIX}endpoint": "AWS's own", **kserve_annotations(profile)}
    return [
        f"its {key.removeprefix(_PREFIX)} is {standing[key]}, not {value}"
        for key, value in wanted.items()
        if standing.get(key, value) != value
    ]


def account_name(profile: Profile) -> str:
    """Return the predictor's service account: the profile's, else the service's own name."""
    return profile.serving.service_account or profile.serving.name
