"""What can be known before a change: rights, mode, runtime, credentials, owners. Raises before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from evctl.errors import ConflictError, EvctlError, NotAllowedError, NotFoundError, RefusedError
from evctl.kube import KubeApi
from evctl.rollout.ledger import Release
from evctl.rollout.registry import manifest_of, missing_files
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving import kserve_split as split
from evctl.rollout.serving.kserve_golden import Golden
from evctl.rollout.target import ServiceTarget

RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("serving.kserve.io", "inferenceservices", ("get", "create", "patch", "delete")),
    ("serving.kserve.io", "servingruntimes", ("get", "create", "patch")),
    ("apps", "deployments", ("get",)),
    ("", "pods", ("list",)),
    ("", "events", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "services/proxy", ("get", "create")),
    ("", "serviceaccounts", ("get",)),
    ("", "configmaps", ("get", "create", "patch")),
    ("coordination.k8s.io", "leases", ("get", "create", "update")),
)
"""What a promotion needs in the service's namespace; `role.yaml` beside this package says the same."""
KNATIVE_RIGHTS = (
    ("serving.knative.dev", "services", ("get",)),
    ("serving.knative.dev", "revisions", ("get",)),
    ("", "pods/proxy", ("get", "create")),
)
SPLIT_RIGHTS = (("gateway.networking.k8s.io", "httproutes", ("get",)),)
"""A canary in Standard mode is proved by its share of the route."""
OTHERS = "evctl models list, then evctl promote one of them"
ROLE = "evctl help role | kubectl apply -n {namespace} -f -"
WORKLOAD_IDENTITY = (
    "eks.amazonaws.com/role-arn",
    "iam.gke.io/gcp-service-account",
    "azure.workload.identity/client-id",
)


def rights(api: KubeApi, target: ServiceTarget, mode: str, *, canary: bool = False) -> None:
    """Raise NotAllowedError naming each verb that is missing."""
    needed = RIGHTS + (KNATIVE_RIGHTS if mode == "Knative" else SPLIT_RIGHTS if canary else ())
    missing = [
        f"{verb} {resource}{'.' + group if group else ''}"
        for group, resource, verbs in needed
        for verb in verbs
        if not api.can_i(verb, group, resource, target.namespace)[0]
    ]
    if missing:
        raise NotAllowedError(
            f"missing rights in namespace {target.namespace}: {', '.join(missing)}",
            hint=ROLE.format(namespace=target.namespace),
        )


def runtime_format(api: KubeApi, target: ServiceTarget, name: str) -> str:
    """Return the model format that a named runtime serves. RefusedError: it does not exist, or serves neither of ours."""
    found: dict[str, Any] | None = None
    for path in (
        spec.runtime_path(target.namespace, name),
        f"/apis/serving.kserve.io/v1alpha1/clusterservingruntimes/{name}",
    ):
        try:
            found = api.get(path)
            break
        except NotFoundError:
            continue
        except NotAllowedError:
            if name == spec.STOCK_RUNTIME:
                return spec.STOCK_FORMAT  # every KServe has it; reading it needs a right on the whole cluster
            raise
    if found is None:
        raise RefusedError(
            f"there is no ServingRuntime {name}", hint="kubectl get servingruntimes,clusterservingruntimes"
        )
    formats = [str(each.get("name")) for each in (found.get("spec") or {}).get("supportedModelFormats") or ()]
    for each in (spec.OUR_FORMAT, spec.STOCK_FORMAT):
        if each in formats:
            return each
    raise RefusedError(
        f"ServingRuntime {name} serves {', '.join(formats) or 'nothing'}, not {spec.OUR_FORMAT}",
        hint="name another under serving.runtime in the profile, or none for our own",
    )


def service(target: ServiceTarget, found: Mapping[str, Any] | None) -> Sequence[str]:
    """Check who keeps the standing InferenceService. Returns warnings. RefusedError, ConflictError: it is another's."""
    if found is None:
        return ()
    refuse_going(target, found)
    if owner := spec.gitops_owner(found):
        raise RefusedError(
            f"InferenceService {target.name} is kept by {owner}, which would take the change back",
            hint="change the model in its repository, or take the service out of it",
        )
    notes = spec.annotations_of(found)
    if spec.REVISION not in notes:
        raise ConflictError(
            f"InferenceService {target.name} in {target.namespace} was not made by evctl, but by "
            f"{spec.last_other(found)}; it serves {spec.storage_uri(found)}",
            hint="set serving: {name: ANOTHER}, or delete it and promote again",
        )
    if key := spec.pause(found):
        raise RefusedError(
            f"InferenceService {target.name} has {key}=true: KServe would not act on a change",
            hint=f"kubectl annotate -n {target.namespace} isvc {target.name} {key}-",
        )
    foreign = spec.foreign_annotations(found)
    return (f"annotations of others stay: {', '.join(foreign)}",) if foreign else ()


def refuse_going(target: ServiceTarget, found: Mapping[str, Any] | None) -> None:
    """Raise ConflictError for a service that is being deleted: what is written to it goes with it."""
    if found is not None and (going := spec.deletion(found)):
        raise ConflictError(
            f"InferenceService {target.name} is being deleted, {going}",
            hint=f"kubectl wait -n {target.namespace} --for=delete isvc/{target.name}, then the same command",
        )


def credentials(api: KubeApi, target: ServiceTarget) -> Sequence[str]:
    """Check that the pods can read the store. Returns warnings. RefusedError with what to make."""
    uri = str(target.store.get("uri") or "")
    scheme = urlsplit(uri).scheme
    if scheme not in spec.SCHEMES:
        raise RefusedError(
            f"pods cannot read the store {uri}", hint=f"set store: {{uri: ...}} to one of {', '.join(spec.SCHEMES)}"
        )
    name, secret = target.settings.get("service_account"), target.store.get("secret")
    if not name:
        if scheme in ("s3", "gs"):
            return (f"no service account: pods read {uri} without credentials",)
        return ()
    make = "evctl secrets apply --store" if secret else f"kubectl create serviceaccount -n {target.namespace} {name}"
    try:
        account = api.get(f"/api/v1/namespaces/{target.namespace}/serviceaccounts/{name}")
    except NotFoundError as error:
        raise RefusedError(f"there is no service account {name} in {target.namespace}", hint=make) from error
    if secret and secret not in [each.get("name") for each in account.get("secrets") or ()]:
        raise RefusedError(f"service account {name} does not name the store's secret {secret}", hint=make)
    identity = any(key in spec.annotations_of(account) for key in WORKLOAD_IDENTITY)
    if scheme in ("s3", "gs") and not identity and not account.get("secrets"):
        return (f"service account {name} has no secret and no workload identity: pods may not read {uri}",)
    return ()


def bundle(target: ServiceTarget, release: Release) -> None:
    """Check that the store still has the release's model, with the golden rows that are to prove it.

    A recorded release's may be gone. NotFoundError, RefusedError: it is, or a part. FailedError: it is another one.
    """
    try:
        gone = missing_files(release.uri, manifest_of(release.uri, target.store), target.store)
    except NotFoundError as error:
        raise NotFoundError(error.message, hint=OTHERS) from error
    if gone:
        raise RefusedError(f"{release.uri} lacks {', '.join(gone)}: it was emptied", hint=OTHERS)
    Golden.of(release, target.store, identity=True)


def canary(percent: int | None, *, first: bool) -> None:
    """Raise RefusedError for a canary without a release beside it."""
    if percent is not None and first:
        raise RefusedError("the first release gets all requests: there is nothing to split with", hint="evctl promote")


def undivided(target: ServiceTarget, taken: Mapping[str, Any], percent: int | None) -> None:
    """Raise ConflictError when a change, as the server would take it, leaves requests with what somebody set by hand."""
    names = [name for name, *_ in split.told(taken)]
    path = "/spec/canary" if names else f"/spec/predictor/{spec.SHARE}"
    if names or spec.share(taken) != (100 if percent is None else percent):
        patch = f'[{{"op": "remove", "path": "{path}"}}]'
        raise ConflictError(
            f"InferenceService {target.name} divides its requests by {', '.join(names) or spec.SHARE}, set by "
            f"{spec.last_other(taken)}: a release would not get what it is promoted to",
            hint=f"kubectl patch -n {target.namespace} isvc {target.name} --type=json -p '{patch}'",
        )


def replicas(target: ServiceTarget, mode: str) -> None:
    """Raise RefusedError for a service without a pod to prove."""
    if mode == "Standard" and int(target.settings.get("min_replicas", 1)) < 1:
        raise RefusedError(
            "min_replicas: 0 leaves no pod to prove in Standard mode", hint="set serving: {min_replicas: 1}"
        )


def stock(manifest_versions: Mapping[str, str], model_format: str) -> Sequence[str]:
    """Return warnings about serving with KServe's own sklearn server."""
    if model_format != spec.STOCK_FORMAT:
        return ()
    trained = str(manifest_versions.get("scikit-learn", "?"))
    told = [f"{spec.STOCK_RUNTIME} does not tell which model answers: its storageUri is taken for it"]
    if not trained.startswith(spec.STOCK_SKLEARN + "."):
        told.append(
            f"the model was trained with scikit-learn {trained}, {spec.STOCK_RUNTIME} has {spec.STOCK_SKLEARN}: "
            "it may load and then fail on each request"
        )
    return tuple(told)


def dry_run(api: KubeApi, path: str, body: Mapping[str, Any], *, force: bool = False) -> dict[str, Any]:
    """Return a change as the server would take it. RefusedError, ConflictError naming who and what."""
    try:
        return api.apply(path, body, spec.MANAGER, dry_run=True, force=force)
    except ConflictError as error:
        raise conflict(body, error) from error
    except NotFoundError as error:
        raise RefusedError(
            f"the cluster knows no {body['kind']}, or there is no namespace {body['metadata'].get('namespace')}",
            hint="install KServe; kubectl create namespace ...",
        ) from error


def conflict(body: Mapping[str, Any], error: EvctlError) -> ConflictError:
    """Return a server-side apply's conflict in our words; the server's name the manager and the fields."""
    what = f"{body['kind']} {body['metadata']['name']}"
    return ConflictError(
        f"{what} is kept by somebody else: {error.message}",
        hint="agree with them, or set serving: {take_over: true} once",
    )
