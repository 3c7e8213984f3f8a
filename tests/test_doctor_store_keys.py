"""What a store's answer says of the keys in the cluster's secret. Over a real API server and S3: tests/cluster."""

from __future__ import annotations

import pytest

from evctl.doctor import store_keys
from evctl.profile import Profile
from evctl.secrets.store import of_another_store

APPLY = "evctl secrets apply --env dev --store -f FILE"


def answer(status: int, code: str = "") -> Exception:
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>k3y-id</AWSAccessKeyId></Error>" if code else ""
    return RuntimeError(f"Error performing list request: Server returned status code: {status} {body}")


@pytest.mark.parametrize(
    ("error", "status", "said", "fix"),
    [
        (answer(403, "InvalidAccessKeyId"), "fail", "does not know this access key", f"{APPLY}, with keys that may"),
        (
            answer(403, "SignatureDoesNotMatch"),
            "fail",
            "is not that of this access key",
            f"{APPLY}, with keys that may",
        ),
        (answer(403, "AccessDenied"), "fail", "may not do that here", f"{APPLY}, with keys that may list"),
        (answer(401), "fail", "does not allow it (401)", APPLY),
        (answer(403, "RequestTimeTooSkewed"), "fail", "clock is wrong", "set the clock"),
        (answer(404, "NoSuchBucket"), "fail", "the bucket does not exist", "make it"),
        (answer(503, "SlowDown"), "warn", "not checked: ", "the same command again"),
        (answer(429), "warn", "not checked: ", "the same command again"),
        (RuntimeError("Http(HttpError { kind: Timeout })"), "warn", "did not answer in time", "the same command again"),
        (RuntimeError("dns error: no such name"), "warn", "not checked: ", "store.endpoint"),
    ],
)
def test_a_stores_refusal_is_the_keys_and_no_answer_says_nothing_of_them(
    error: Exception, status: str, said: str, fix: str
) -> None:
    found = store_keys.verdict(error, "secret s in ns does not open s3://b/p", "http://store:9000", APPLY)
    assert found.status == status
    assert said in found.message
    assert fix in str(found.fix)
    assert "k3y" not in f"{found}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("k3y-1\n", "holds a space, a line's end or another sign that no key has"),
        (" k3y-1", "holds a space, a line's end or another sign that no key has"),
        ("k3y-\u00e9", "holds a space, a line's end or another sign that no key has"),
        ("", "is empty"),
        ("k3y/1+=", None),
    ],
)
def test_values_that_are_no_keys_are_told_without_asking_and_without_showing_them(value: str, said: str | None) -> None:
    held = store_keys.Held("s in ns", {"AWS_ACCESS_KEY_ID": "k3y-0", "AWS_SECRET_ACCESS_KEY": value})
    assert store_keys.unusable(held) == (said and f"AWS_SECRET_ACCESS_KEY of secret s in ns {said}")
    assert "k3y" not in repr(held)


def test_a_secret_says_for_which_store_it_was_made() -> None:
    def profile(**store: str) -> Profile:
        return Profile.model_validate({"name": "dev", "store": {"uri": "s3://b/p", **store}})

    prefix = "serving.kserve.io/s3-"
    standing = {f"{prefix}endpoint": "a:9000", f"{prefix}usehttps": "0", f"{prefix}region": "us-east-1"}
    assert of_another_store(standing, profile(endpoint="http://a:9000")) == []
    assert of_another_store({}, profile(endpoint="http://a:9000")) == []
    assert of_another_store(standing, profile(endpoint="https://b", region="eu-1")) == [
        "its endpoint is a:9000, not b", "its region is us-east-1, not eu-1", "its usehttps is 0, not 1",
    ]  # fmt: skip
    assert of_another_store(standing, profile()) == ["its endpoint is a:9000, not AWS's own"]
    assert of_another_store(standing, profile(uri="gs://b")) == ()
