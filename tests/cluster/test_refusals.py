"""What a promotion refuses, and tells, before anything on the cluster is changed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evctl.errors import ConflictError, EvctlError, NotAllowedError, RefusedError
from evctl.kube import KubeApi
from evctl.rollout.cluster_lease import ClusterLease
from evctl.rollout.serving import kserve_checks as checks
from tests.cluster.conftest import Rule
from tests.cluster.player import Player
from tests.cluster.stage import CREATE, Stage

ROLE = Path(checks.__file__).parents[1] / "role.yaml"


def documented() -> list[dict[str, list[str]]]:
    rules: list[dict[str, list[str]]] = yaml.safe_load(ROLE.read_text())["rules"]
    return rules


def refused(stage: Stage, error: type[EvctlError], *, model: str = "a", **settings: Any) -> EvctlError:
    """Promote, expect a refusal, and see that neither the ledger nor the service was changed."""
    revisions = len(stage.statuses())
    with pytest.raises(error) as told:
        stage.promote_in(stage.world(**settings), model)
    assert len(stage.statuses()) == revisions, "a refusal records no revision"
    return told.value


def service(stage: Stage, manager: str = "kubectl-create", **metadata: Any) -> dict[str, Any]:
    """Make the service as somebody else would."""
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices"
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": stage.target.name, **metadata},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://theirs/"}}},
    }
    return stage.api().apply(f"{base}/{stage.target.name}", body, manager)


class Sparing(Player):
    """Leaves pods alone that are not the predictor's."""

    def _present(self) -> dict[str, Any]:
        return {name: pod for name, pod in super()._present().items() if name != "transformer"}


def test_a_service_that_others_made_is_left_and_its_maker_named(stage: Stage) -> None:
    service(stage)
    told = refused(stage, ConflictError)
    assert "not made by evctl, but by kubectl-create" in told.message
    assert "s3://theirs/" in told.message
    assert stage.service()["spec"]["predictor"]["model"]["storageUri"] == "s3://theirs/"


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "ml:x"}}, r"Argo CD \(argocd\.argoproj\.io/tracking-id"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, r"Flux \(kustomize"),
    ],
)
def test_a_service_kept_by_a_repository_is_refused_with_its_owner(
    metadata: dict[str, Any], owner: str, stage: Stage
) -> None:
    service(stage, **metadata)
    assert re.search(owner, refused(stage, RefusedError).message)


def test_a_gitops_controller_is_known_by_its_field_manager_alone(stage: Stage) -> None:
    service(stage, manager="argocd-controller")
    assert "Argo CD (manager argocd-controller)" in refused(stage, RefusedError).message


def test_a_field_somebody_else_keeps_is_a_conflict_that_names_who_and_what(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote("a")
    base = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices"
    edit = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "spec": {"predictor": {"deploymentStrategy": {"rollingUpdate": {"maxSurge": 2}}}},
    }
    stage.api().apply(f"{base}/{stage.target.name}", edit, "rollout-team", force=True)
    told = refused(stage, ConflictError, model="b")
    assert "rollout-team" in told.message
    assert ".spec.predictor.deploymentStrategy.rollingUpdate.maxSurge" in told.message
    stage.plays("b", "2_update_good")
    assert stage.promote_in(stage.world(take_over=True), "b").changed, "taken over when the profile says so"


def test_a_stopped_service_is_refused_with_the_command_that_starts_it(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote("a")
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices/{stage.target.name}"
    stage.api().patch(path, {"metadata": {"annotations": {"serving.kserve.io/stop": "true"}}})
    assert stage.world().read().state == "stopped"
    told = refused(stage, RefusedError, model="b")
    assert "serving.kserve.io/stop=true" in told.message
    assert told.hint
    assert told.hint.endswith("serving.kserve.io/stop-")


def test_a_service_that_is_being_deleted_is_refused_until_it_is_gone(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote("a")
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices/{stage.target.name}"
    stage.api().patch(path, {"metadata": {"finalizers": ["inferenceservice.finalizers"]}})
    stage.api().delete(path)
    told = refused(stage, ConflictError)
    assert "is being deleted, since" in told.message
    assert "held by the finalizer inferenceservice.finalizers" in told.message
    assert "kubectl wait" in (told.hint or "")
    assert stage.world().read().state == "failing"
    assert "is being deleted" in stage.world().read().detail
    stage.api().patch(path, {"metadata": {"finalizers": None}})
    assert stage.promote("a").changed


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("RawDeployment", "0.15 and older do not know the name Standard"),
        ("ModelMesh", "runs in mode ModelMesh: evctl can prove a model in Standard and Knative mode only"),
        ("LLMInference", "runs in mode LLMInference"),
    ],
)
def test_a_mode_that_cannot_be_proved_is_refused_with_the_reason(mode: str, reason: str, stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote("a")
    assert stage.player
    stage.player.stop()
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices/{stage.target.name}"
    stage.api().patch(f"{path}/status", {"status": {"deploymentMode": mode}})
    assert reason in refused(stage, RefusedError, model="b", mode="auto").message
    assert stage.world().read().state in ("serving", "failing"), "it is told of all the same"


def test_a_transformers_pod_is_none_of_the_predictors(stage: Stage, admin: KubeApi) -> None:
    stage.plays("a", CREATE)
    labels = {"serving.kserve.io/inferenceservice": stage.target.name, "component": "transformer"}
    source = {"internal.serving.kserve.io/storage-initializer-sourceuri": stage.models["a"].uri}
    container = {"name": "kserve-container", "image": "played"}
    pods = f"/api/v1/namespaces/{stage.target.namespace}/pods"
    body = {
        "apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "played", "containers": [container]},
        "metadata": {"name": "transformer", "labels": labels, "annotations": source},
    }  # fmt: skip
    admin.create(pods, body)
    crashed = {"name": "kserve-container", "restartCount": 9, "ready": False, "image": "", "imageID": "", "state": {}}
    admin.patch(f"{pods}/transformer/status", {"status": {"phase": "Running", "containerStatuses": [crashed]}})
    stage.start(make=Sparing)
    assert stage.promote("a").changed


def test_annotations_of_others_are_told_and_stay(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.plays("b", "2_update_good")
    stage.start()
    stage.promote("a")
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices/{stage.target.name}"
    stage.api().patch(path, {"metadata": {"annotations": {"team.example/pager": "42"}}})
    stage.promote("b")
    assert "warning: annotations of others stay: team.example/pager" in stage.told
    assert stage.service()["metadata"]["annotations"]["team.example/pager"] == "42"


def test_a_missing_service_account_is_found_before_the_patch(stage: Stage, admin: KubeApi) -> None:
    told = refused(stage, RefusedError, service_account="ev-serving")
    assert told.message.startswith("there is no service account ev-serving")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ev-serving"}}
    admin.create(f"/api/v1/namespaces/{stage.target.namespace}/serviceaccounts", account)
    stage.target.store["secret"] = "ev-store"  # type: ignore[index]
    told = refused(stage, RefusedError, service_account="ev-serving")
    assert "does not name the store's secret ev-store" in told.message
    assert told.hint == "evctl secrets apply --store"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image": ""}, "names no image for the predictor"),
        ({"image": "ev-battery:latest"}, "is not named by digest"),
        ({"runtime": "nope"}, "there is no ServingRuntime nope"),
        ({"min_replicas": 0}, "leaves no pod to prove"),
    ],
)
def test_what_the_servers_dry_run_lets_pass_is_checked_here(
    settings: dict[str, Any], reason: str, stage: Stage
) -> None:
    assert reason in refused(stage, RefusedError, **settings).message


def test_the_first_release_is_refused_as_a_canary(stage: Stage) -> None:
    with pytest.raises(RefusedError, match="nothing to split with"):
        stage.promote("a", canary=10)


def test_another_mode_than_the_service_runs_in_is_refused(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote("a")
    told = refused(stage, RefusedError, model="b", mode="Knative")
    assert "runs in Standard mode, which KServe does not change to Knative" in told.message


def test_an_admission_policys_no_is_found_by_the_dry_run_and_is_no_missing_right(stage: Stage, admin: KubeApi) -> None:
    name, base = stage.target.namespace, "/apis/admissionregistration.k8s.io/v1"
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    rule = {
        "apiGroups": ["serving.kserve.io"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
        "resources": ["inferenceservices"],
    }  # fmt: skip
    only = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    forbids = {"expression": "false", "message": "no service here", "reason": "Forbidden"}
    policy = {"matchConstraints": {"resourceRules": [rule]}, "validations": [forbids]}
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": only}}
    admin.create(f"{base}/validatingadmissionpolicies", {**kind, "kind": "ValidatingAdmissionPolicy", "spec": policy})
    admin.create(
        f"{base}/validatingadmissionpolicybindings",
        {**kind, "kind": "ValidatingAdmissionPolicyBinding", "spec": bound},
    )
    end = time.monotonic() + 20
    while time.monotonic() < end:  # the server takes a policy up a moment later
        try:
            service(stage)
        except RefusedError:
            break
        path = f"/apis/serving.kserve.io/v1beta1/namespaces/{name}/inferenceservices/{stage.target.name}"
        admin.delete(path)
        time.sleep(0.1)
    assert "no service here" in refused(stage, RefusedError).message


def test_kserves_own_sklearn_server_is_warned_about_when_versions_differ(stage: Stage, admin: KubeApi) -> None:
    runtime = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "kserve-sklearnserver"},
        "spec": {"supportedModelFormats": [{"name": "sklearn", "version": "1"}]},
    }
    admin.create(f"/apis/serving.kserve.io/v1alpha1/namespaces/{stage.target.namespace}/servingruntimes", runtime)
    stage.plays("a", CREATE)
    stage.start()
    stage.promote_in(stage.world(runtime="kserve-sklearnserver"), "a")
    assert any("the model was trained with scikit-learn" in line for line in stage.told)
    assert stage.service()["spec"]["predictor"]["model"]["modelFormat"]["name"] == "sklearn"


def test_the_documented_role_is_what_the_code_asks_for() -> None:
    listed = checks.RIGHTS + checks.KNATIVE_RIGHTS + checks.SPLIT_RIGHTS
    asked = {(group, name, verb) for group, name, verbs in listed for verb in verbs}
    told = {
        (group, name, verb)
        for rule in documented()
        for group in rule["apiGroups"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }
    assert told == asked


def test_an_operator_with_exactly_the_documented_role_promotes(
    stage: Stage, operator: Callable[[list[Rule]], Path]
) -> None:
    kubeconfig = operator(documented())
    stage.plays("a", CREATE)
    stage.plays("b", "5_update_corrupt")
    stage.start()
    assert stage.promote_in(stage.world(kubeconfig), "a").changed
    with pytest.raises(EvctlError, match=r"kserve-container ended twice"):
        stage.promote_in(stage.world(kubeconfig), "b")
    assert stage.statuses() == ["live", "failed"]


def test_an_operator_with_one_verb_less_is_told_which_and_nothing_is_changed(
    stage: Stage, operator: Callable[[list[Rule]], Path]
) -> None:
    stage.plays("a", CREATE)
    stage.start()
    rules = documented()
    for group, resource, verbs in checks.RIGHTS:
        for verb in verbs:
            less = [
                {**rule, "verbs": [v for v in rule["verbs"] if v != verb]} if resource in rule["resources"] else rule
                for rule in rules
                if rule["apiGroups"] == [group] or resource not in rule["resources"]
            ]
            less = [rule for rule in less if rule["verbs"]]
            with pytest.raises(NotAllowedError) as told:
                stage.promote_in(stage.world(operator(less)), "a")
            assert told.value.exit_code == 4
            assert verb in told.value.message, f"{verb} {resource}: {told.value.message}"
            assert resource.split("/")[0] in told.value.message
    assert stage.statuses() == []
    assert stage.world().read().state == "absent"


def test_a_promoter_is_told_who_holds_the_lease_and_takes_over_an_expired_one(stage: Stage) -> None:
    stage.plays("a", CREATE)
    stage.start()
    api, where = stage.api(), (stage.target.namespace, stage.target.name)
    theirs = ClusterLease(api, *where, by="boris", seconds=2)
    theirs.acquire()
    with pytest.raises(ConflictError, match=r"boris, process \d+ on .* is promoting; the lease ends in [12] s") as told:
        stage.promote("a")
    assert told.value.exit_code == 6
    time.sleep(2.1)
    assert stage.promote("a").changed
    with pytest.raises(ConflictError, match="lost to somebody else"):
        theirs.renew()
