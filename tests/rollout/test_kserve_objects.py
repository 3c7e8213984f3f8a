"""What is told of a rollout that nothing else explains."""

from __future__ import annotations

from typing import Any, cast

import pytest

from evctl.errors import ConflictError, FailedError, NotAllowedError, NotFoundError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.ledger import Release
from evctl.rollout.serving.kserve_objects import ServiceObjects
from evctl.rollout.target import ServiceTarget

TARGET = ServiceTarget(name="ev", namespace="ns", backend="kubeflow", store={})
CHANGE = "2026-11-23T07:18:11Z"
Object = dict[str, Any]
RELEASE = Release(2, "v2-b", "s3://m/2/", "b", None, "live", "2026-11-28T08:11:10Z", "ada")
MADE: Object = {"metadata": {"uid": "u1", "generation": 1, "annotations": {"evctl/revision": "2"}}}


class Api:
    """A service, its events, and what was written."""

    def __init__(self, *events: tuple[str, str, str]) -> None:
        self.events = [
            {"involvedObject": {"name": name}, "lastTimestamp": at, "reason": "Why", "message": message, "metadata": {}}
            for name, at, message in events
        ]
        self.away = False
        self.written: list[str] = []

    def get(self, path: str) -> Object:
        if self.away:
            raise UnavailableError("away")
        return {"metadata": {"managedFields": [{"manager": "evctl", "time": CHANGE}]}}

    def list(self, path: str, **query: Any) -> list[Object]:
        return self.events

    def delete(self, path: str, body: Object) -> None:
        self.written.append(f"delete {body['preconditions']['uid']}")


def objects(api: Api) -> ServiceObjects:
    return ServiceObjects(cast(KubeApi, api), TARGET)


@pytest.mark.parametrize("about", ["ev", "ev-predictor-7d5469557d-vhgw4", "ev-r2-predictor-58b4d77955-mp9m2"])
def test_the_last_warning_since_the_change_is_told_of_the_service_and_of_what_kserve_made_of_it(about: str) -> None:
    later = (about, "2026-11-23T07:18:40Z", "later")
    assert objects(Api((about, "2026-11-23T07:18:30Z", "first"), later)).warning() == "Why: later"


def test_a_warning_of_the_rollout_before_or_of_another_service_explains_nothing() -> None:
    api = Api(
        ("ev-predictor-x", "2026-11-23T07:16:00Z", "before"), ("evening-predictor-x", "2026-11-23T07:19:00Z", "x")
    )
    assert objects(api).warning() == ""
    api.away = True
    assert objects(api).warning() == "Why: before", "who cannot tell when it was changed tells what there is"


def test_a_service_that_only_the_failed_release_made_is_deleted_and_an_older_one_is_not() -> None:
    api = Api()
    objects(api).take_away({"metadata": {"generation": 1, "uid": "u1"}}, None)
    assert api.written == ["delete u1"]
    with pytest.raises(FailedError, match="older than the ledger, which knows nothing to restore"):
        objects(api).take_away({"metadata": {"generation": 4, "uid": "u1"}}, None)
    objects(api).take_away(None, None)
    assert api.written == ["delete u1"]


def test_a_service_that_was_just_made_is_deleted_only_as_long_as_it_is_the_one_that_was_made() -> None:
    class Made(Api):
        now: Object | None = MADE

        def get(self, path: str) -> Object:
            if self.now is None:
                raise NotFoundError("gone")
            return self.now

    def left(**changes: Any) -> Made:
        api = Made()
        api.now = {"metadata": {**MADE["metadata"], **changes}}
        return api

    api = left()
    assert objects(api).unmake(RELEASE, MADE)[0] == "InferenceService ev, made for it, was deleted again"
    assert api.written == ["delete u1"]
    for changes in ({"uid": "u2"}, {"generation": 2}, {"annotations": {"evctl/revision": "3"}}):
        api = left(**changes)
        told, hint = objects(api).unmake(RELEASE, MADE)
        assert (told, hint) == (
            "InferenceService ev was changed by another evctl meanwhile; it was left as it is",
            "evctl serving; evctl history",
        )
        assert api.written == []
    gone = Made()
    gone.now = None
    for api in (left(deletionTimestamp=CHANGE), gone):
        assert objects(api).unmake(RELEASE, MADE)[0] == "InferenceService ev was deleted by somebody else meanwhile"
        assert api.written == []


def test_a_service_that_was_just_made_and_cannot_be_deleted_is_named() -> None:
    class Kept(Api):
        def get(self, path: str) -> Object:
            return MADE

        def delete(self, path: str, body: Object) -> None:
            raise NotAllowedError("who may not delete")

    told, hint = objects(Kept()).unmake(RELEASE, MADE)
    assert told == "InferenceService ev, made for it, could not be deleted: who may not delete"
    assert hint == "evctl serving; evctl history"


def test_a_write_of_another_number_of_pods_is_not_taken_for_written_when_only_a_status_moved() -> None:
    """As KServe writes a status in between: the model and the shares are there already, the pods are not."""
    has = {
        "metadata": {"name": "ev", "namespace": "ns", "resourceVersion": "1", "annotations": {"evctl/revision": "2"}},
        "spec": {"predictor": {"minReplicas": 3}},
    }

    class Moving(Api):
        applied: Object = has

        def get(self, path: str) -> Object:
            return {**self.applied, "metadata": {**self.applied["metadata"], "resourceVersion": "2"}}

        def apply(self, path: str, body: Object, manager: str, **more: Any) -> Object:
            if not more.get("dry_run") and body["metadata"]["resourceVersion"] == "1":
                raise ConflictError("the object has been modified")
            if not more.get("dry_run"):
                self.applied = body
            return body

    api = Moving()
    objects(api).write({**has, "spec": {"predictor": {"minReplicas": 1}}}, has)
    assert api.applied["spec"]["predictor"]["minReplicas"] == 1
