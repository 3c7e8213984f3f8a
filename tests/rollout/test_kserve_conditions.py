"""Which of a Deployment's bad conditions is the release's own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from evctl.rollout.serving.kserve_conditions import STAYS_S, failed, unanswered

RECORDINGS = Path(__file__).parents[1] / "recordings" / "kserve-standard"
NAME = "ev-battery-fault-classifier-predictor"
Object = dict[str, Any]
BEFORE, CHANGE, AFTER = "2026-11-23T07:16:56Z", "2026-11-23T07:18:11Z", "2026-11-23T07:18:12Z"


def pod(template: str) -> Object:
    return {"metadata": {"name": f"{NAME}-{template}-x", "labels": {"pod-template-hash": template}}}


def deployment(kind: str, status: str, message: str, at: str, *, observed: int = 6) -> Object:
    condition = {
        "type": kind, "status": status, "reason": "Why", "message": message,
        "lastUpdateTime": at, "lastTransitionTime": BEFORE,
    }  # fmt: skip
    return {
        "metadata": {"name": NAME, "generation": 6},
        "status": {"observedGeneration": observed, "conditions": [condition]},
    }


def timed_out(template: str, at: str = BEFORE, **more: Any) -> Object:
    message = f'ReplicaSet "{NAME}-{template}" has timed out progressing.'
    return deployment("Progressing", "False", message, at, **more)


def told(made: Object, fresh: list[Object], others: list[Object], *, since: float = 1.0) -> str | None:
    return failed(made, fresh, others, changed=CHANGE, since=since)


def test_the_recorded_undo_shows_the_failed_rollouts_condition_beside_the_new_generation() -> None:
    """As recorded at 1.0 s, had the rollout before run into its deadline: the same message, status False."""
    frame = json.loads((RECORDINGS / "6_rollback_after_corrupt.json").read_text())[0]
    made = copy.deepcopy(frame["deployments"][0])
    status = made["status"]
    assert status["observedGeneration"] == made["generation"], "by its generation it is current"
    progressing = next(each for each in status["conditions"] if each["type"] == "Progressing")
    progressing |= {"status": "False", "reason": "ProgressDeadlineExceeded"}
    document = {"metadata": {"name": made["name"], "generation": made["generation"]}, "status": status}
    hashes = {each["name"].split("-")[-2] for each in frame["pods"]}
    old = "7d5469557d"
    assert old in progressing["message"]
    fresh = [pod(each) for each in hashes if each != old]
    assert told(document, fresh, [pod(old)]) is None
    assert told(document, [pod(old)], fresh) is not None, "of the rollout itself it counts"


@pytest.mark.parametrize("since", [1.0, 100.0])
def test_a_condition_counts_for_the_replica_set_that_it_names_whenever_it_was_written(since: float) -> None:
    assert told(timed_out("new1"), [pod("new1")], [], since=since) is not None
    assert told(timed_out("old1"), [pod("new1")], [], since=since) is None
    assert told(timed_out("old1"), [], [pod("old1")], since=since) is None
    assert told(timed_out("old1", AFTER), [pod("new1")], [], since=since) is None


def test_a_condition_of_an_older_generation_does_not_count() -> None:
    assert told(timed_out("new1", AFTER, observed=5), [pod("new1")], []) is None


def test_a_release_that_gets_no_pods_fails_by_the_time_of_its_condition() -> None:
    quota = "exceeded quota: pods"
    assert told(deployment("ReplicaFailure", "True", quota, AFTER), [], []) == f"Why: {quota}"
    assert told(deployment("ReplicaFailure", "True", quota, BEFORE), [], []) is None, "the rollout before had it"


def test_a_condition_that_stays_is_the_releases_own_whatever_its_clock_says() -> None:
    made = deployment("ReplicaFailure", "True", "exceeded quota: pods", BEFORE)
    assert told(made, [], [], since=STAYS_S) is not None


def test_where_nobody_knows_when_the_release_was_written_the_condition_counts() -> None:
    made = deployment("ReplicaFailure", "True", "exceeded quota: pods", BEFORE)
    assert failed(made, [], [], changed="", since=0.0) is not None


def test_a_webhook_that_is_away_is_waited_for_and_told_and_one_that_denies_is_a_verdict() -> None:
    """Recorded of a real cluster while KServe's controller was stopped in mid-promotion."""
    away = (
        'Internal error occurred: failed calling webhook "inferenceservice.kserve-webhook-server.pod-mutator": '
        'failed to call webhook: Post "https://kserve-webhook-server-service.kserve.svc:443/mutate-pods?timeout=10s": '
        "context deadline exceeded"
    )
    made = deployment("ReplicaFailure", "True", away, AFTER)
    assert told(made, [], []) is None
    assert unanswered(made).startswith("; no pod can be made for now: Internal error occurred: failed calling webhook")
    denied = 'admission webhook "inferenceservice.kserve-webhook-server.pod-mutator" denied the request: no'
    refused = deployment("ReplicaFailure", "True", denied, AFTER)
    assert told(refused, [], []) == f"Why: {denied}"
    assert unanswered(refused) == ""
