"""What is written to the cluster for a release, as plain dicts. Pure.

KServe copies an InferenceService's annotations to its pods, so a changed annotation is a rolling restart: provenance is
written in the same patch as the model, and never touched afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import RefusedError
from evctl.rollout.ledger import Release
from evctl.rollout.target import ServiceTarget

MANAGER = "evctl"
MANAGED = {"app.kubernetes.io/managed-by": MANAGER}
PREFIX = "evctl/"
REVISION, DIGEST, MODEL, URI = (PREFIX + key for key in ("revision", "digest", "model", "uri"))
SHARE = "canaryTrafficPercent"
MODE = "serving.kserve.io/deploymentMode"
STOP = "serving.kserve.io/stop"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
OUR_FORMAT, STOCK_FORMAT, STOCK_RUNTIME = "ev-battery", "sklearn", "kserve-sklearnserver"
STOCK_SKLEARN = "1.5"
"""What `kserve-sklearnserver` of KServe 0.18 to 0.21 carries."""
SCHEMES = ("s3", "gs", "https", "http", "pvc", "oci", "hf")
CONTAINER_PORT = 8080
EXAMPLES = (".example.com", ".example.org", ".example.net", ".example")
"""Domains that are nobody's (RFC 2606)."""
LINGER_S = 5
"""How long a pod that goes still takes requests: each node's proxy hears a moment later that it does."""


def isvc_path(namespace: str, name: str = "") -> str:
    """Return the API path of an InferenceService, or of all."""
    return f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices" + (f"/{name}" if name else "")


def runtime_path(namespace: str, name: str) -> str:
    """Return the API path of a ServingRuntime."""
    return f"/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/servingruntimes/{name}"


def own_runtime(image: str, *, cpu: str, memory: str, mode: str = "Standard") -> dict[str, Any]:
    """Return a ServingRuntime of our image, named by its content: one that services use is never edited.

    KServe rolls every service of a runtime that changes, so another image is another runtime. Knative drains by itself,
    and takes no container that has a hook.
    """
    amounts = {"cpu": cpu, "memory": memory}
    container: dict[str, Any] = {
        "name": "kserve-container",
        "image": image,
        "command": ["python", "-m", "ev_serving"],
        "args": ["--host=0.0.0.0", f"--port={CONTAINER_PORT}", "--bundle=/mnt/models", "--name={{.Name}}"],
        "ports": [{"containerPort": CONTAINER_PORT, "protocol": "TCP"}],
        # the pod's status then says why it ended, and nobody has to wait for its log
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "readinessProbe": {
            "httpGet": {"path": "/v2/models/{{.Name}}/ready", "port": CONTAINER_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
        },
    }
    if mode == "Standard":
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(LINGER_S)]}}}
    spec = {
        "supportedModelFormats": [{"name": OUR_FORMAT, "version": "1", "autoSelect": False}],
        "protocolVersions": ["v1", "v2"],
        "containers": [container],
    }
    return named(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": {"labels": MANAGED, "annotations": {PREFIX + "image": image}},
            "spec": spec,
        }
    )


def named(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return a runtime under the name of its content."""
    digest = hashlib.sha256(json.dumps(runtime["spec"], sort_keys=True).encode()).hexdigest()
    return {**runtime, "metadata": {**runtime["metadata"], "name": f"ev-battery-{digest[:12]}"}}


def image_of(target: ServiceTarget) -> str:
    """Return the predictor's image, by digest. RefusedError when the profile names none."""
    image = str(target.settings.get("image") or "")
    if not image:
        raise RefusedError(
            "the profile names no image for the predictor: an embedded one cannot serve",
            hint="set serving: {image: NAME@sha256:...}, or serving: {runtime: NAME} of one the cluster has",
        )
    if "@sha256:" not in image:
        raise RefusedError(
            f"the predictor's image {image} is not named by digest", hint="use NAME@sha256:... as the push printed it"
        )
    return image


def predictor(target: ServiceTarget, uri: str, *, runtime: str, model_format: str, mode: str) -> dict[str, Any]:
    """Return the predictor of an InferenceService for a model's URI."""
    amounts = {"cpu": str(target.settings.get("cpu", "1")), "memory": str(target.settings.get("memory", "2Gi"))}
    model: dict[str, Any] = {
        "modelFormat": {"name": model_format},
        "runtime": runtime,
        "protocolVersion": "v2",
        # a prefix without the slash also fetches its longer neighbours
        "storageUri": uri.rstrip("/") + "/",
        "resources": {"requests": amounts, "limits": amounts},
    }
    if model_format == STOCK_FORMAT:
        model["env"] = [{"name": "PREDICT_PROBA", "value": "true"}]
    made: dict[str, Any] = {"minReplicas": int(target.settings.get("min_replicas", 1)), "model": model}
    if account := target.settings.get("service_account"):
        made["serviceAccountName"] = str(account)
    if mode == "Standard":
        # a cluster's default may take the old pod away first
        made["deploymentStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return made


def provenance(manifest: Mapping[str, Any], uri: str) -> dict[str, str]:
    """Return what a model came from, as annotations."""
    told = {
        MODEL: str(manifest["version"]),
        DIGEST: str(manifest["digest"]),
        URI: uri.rstrip("/") + "/",
    }
    for key, value in sorted((manifest.get("provenance") or {}).items()):
        if isinstance(value, str | int | float) and str(value):
            told[PREFIX + key.replace("_", "-")] = str(value)[:256]
    return told


def service_body(target: ServiceTarget, release: Release, *, canary: int | None = None) -> dict[str, Any]:
    """Return the InferenceService of a release, as it is applied."""
    spec = release.spec
    annotations = {**spec["annotations"], REVISION: str(release.revision)}
    wanted = dict(spec["predictor"])
    if canary is not None:
        wanted[SHARE] = canary
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "labels": MANAGED,
            "annotations": annotations,
        },
        "spec": {"predictor": wanted},
    }


def least(predictor: Mapping[str, Any]) -> int:
    """Return how many pods a predictor asks for at least."""
    return int(predictor.get("minReplicas") or 1)


def holding(body: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a service's body that asks for no fewer pods than the one before: what serves until the proof is of them."""
    predictor, had = body["spec"]["predictor"], ((before or {}).get("spec") or {}).get("predictor") or {}
    kept = {**predictor, "minReplicas": max(least(predictor), least(had))}
    return {**body, "spec": {**body["spec"], "predictor": kept}}


def annotations_of(document: Mapping[str, Any] | None) -> dict[str, str]:
    """Return an object's annotations."""
    return dict(((document or {}).get("metadata") or {}).get("annotations") or {})


def addresses(service: Mapping[str, Any]) -> list[str]:
    """Return the addresses that a service answers at, the outer one first, of those that KServe tells.

    Its outer one is under example.com until somebody sets an ingress's domain: nothing of ours answers there.
    """
    status = service.get("status") or {}
    told = [str(url) for url in (status.get("url"), (status.get("address") or {}).get("url")) if url]
    return list(dict.fromkeys(url for url in told if not _is_example(url)))


def _is_example(url: str) -> bool:
    host = (urlsplit(url).hostname or "").rstrip(".")
    return f".{host}".endswith(EXAMPLES)


def storage_uri(service: Mapping[str, Any]) -> str | None:
    """Return the model's URI in an InferenceService."""
    model = ((service.get("spec") or {}).get("predictor") or {}).get("model") or {}
    found = model.get("storageUri")
    return str(found) if found else None


def gitops_owner(document: Mapping[str, Any]) -> str | None:
    """Return who keeps an object as a repository says, and how that shows; None if nobody does."""
    metadata = document.get("metadata") or {}
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    for key in ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"):
        if key in notes or key in labels:
            return f"Argo CD ({key}={notes.get(key) or labels.get(key)})"
    for key in ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"):
        if key in labels:
            return f"Flux ({key}={labels[key]})"
    known = {
        "argocd-controller": "Argo CD", "argocd-application-controller": "Argo CD",
        "kustomize-controller": "Flux", "helm-controller": "Flux",
    }  # fmt: skip
    for manager, _, _ in managers(document):
        if manager in known:
            return f"{known[manager]} (manager {manager})"
    return None


def managers(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (manager, time, fields) of an object's managedFields, without those of its status."""
    for entry in (document.get("metadata") or {}).get("managedFields") or ():
        if not entry.get("subresource"):
            yield str(entry.get("manager")), str(entry.get("time") or ""), entry.get("fieldsV1") or {}


def changed_at(document: Mapping[str, Any]) -> str:
    """Return when evctl changed an object last, by the API server's clock; "" if it never did."""
    return max((time for manager, time, _ in managers(document) if manager == MANAGER), default="")


def deletion(document: Mapping[str, Any]) -> str | None:
    """Return since when an object is being deleted and what holds it, in words; None if it is not."""
    metadata = document.get("metadata") or {}
    if not (since := metadata.get("deletionTimestamp")):
        return None
    held = ", ".join(metadata.get("finalizers") or ())
    return f"since {since}" + (f", and held by the finalizer {held}" if held else "")


def pause(document: Mapping[str, Any]) -> str | None:
    """Return the annotation by which somebody keeps KServe from acting on a service; None if nobody does."""
    notes = annotations_of(document)
    return next((key for key in (STOP, "serving.kserve.io/disable-auto-update") if notes.get(key) == "true"), None)


def last_other(document: Mapping[str, Any]) -> str:
    """Return who else changed an object last, and when, in words."""
    others = sorted((time, manager) for manager, time, _ in managers(document) if manager != MANAGER)
    return f"{others[-1][1]} at {others[-1][0]}" if others else "another evctl"


def foreign_annotations(document: Mapping[str, Any]) -> list[str]:
    """Return the annotations that others put on a service, sorted."""
    # KServe itself writes modelFormat
    usual = (MODE, "kubectl.kubernetes.io/last-applied-configuration", "modelFormat")
    return sorted(key for key in annotations_of(document) if not key.startswith(PREFIX) and key not in usual)


def intent(document: Mapping[str, Any]) -> Any:
    """Return what of a service is somebody's will; the rest is the cluster's own bookkeeping."""
    metadata = document.get("metadata") or {}
    return document.get("spec"), metadata.get("annotations"), metadata.get("labels"), metadata.get("uid")


def share(service: Mapping[str, Any]) -> int:
    """Return the percent of requests that the service's newest revision is to get."""
    percent = ((service.get("spec") or {}).get("predictor") or {}).get(SHARE)
    return 100 if percent is None else int(percent)


def routed_to_newest(service: Mapping[str, Any], release: Release) -> bool:
    """Does Knative route requests to this release's revision, which is the newest one and ready?"""
    if annotations_of(service).get(REVISION) != str(release.revision):
        return False
    predictor = ((service.get("status") or {}).get("components") or {}).get("predictor") or {}
    created = predictor.get("latestCreatedRevision")
    return bool(created) and created == predictor.get("latestReadyRevision")
