"""Could a model be promoted here: KServe, its mode and runtime, the rights; and is the artifact store open to us."""

from __future__ import annotations

import contextlib
import json
import secrets
from typing import TYPE_CHECKING, Any

from evctl.doctor import controllers
from evctl.doctor.checks import Finding, failed, passed, warned
from evctl.doctor.cluster import account, lacking
from evctl.doctor.judge import Right, default_mode, image_tag, promoter, provider_session, rights
from evctl.doctor.site import Site, side_by_side
from evctl.errors import EvctlError, NotAllowedError, NotFoundError, TimedOutError, UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.serving import kserve_spec as spec
from evctl.rollout.serving.kserve_checks import KNATIVE_RIGHTS, RIGHTS
from evctl.rollout.serving.kserve_mode import KNOWN

if TYPE_CHECKING:
    from evctl.backends.kubeflow.objects_place import Location

GROUP = "/apis/serving.kserve.io"
CONFIG = "inferenceservice-config"
OLDEST = (0, 16)
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
"""Where KFP keeps artifacts unless `kfp-launcher` or the profile says otherwise."""


def serving_namespace(site: Site) -> str:
    """Return where the service is."""
    return site.profile.serving.namespace or site.profile.namespace


def promoting(site: Site) -> Finding:
    """May we promote?"""
    wanted, space = _needed(site), serving_namespace(site)
    missing = site.missing(wanted, space)
    return lacking(site, space, wanted, missing, "`evctl promote`", lambda who: promoter(space, who))


def deploying(site: Site) -> Finding:
    """May the pipeline's deploy step promote, as the account that its pod runs as?"""
    if site.profile.deploy != "auto":
        return passed("not needed: deploy is manual")
    api, space, wanted = site.cluster(), serving_namespace(site), _needed(site)
    home, name = site.runs_namespace(), account(site)
    user = f"system:serviceaccount:{home}:{name}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]

    def allowed(right: Right) -> bool:
        kind, _, sub = right.resource.partition("/")
        attributes = {
            "verb": right.verb, "group": right.group, "resource": kind, "subresource": sub, "namespace": space,
        }  # fmt: skip
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "LocalSubjectAccessReview",
            "metadata": {"namespace": space},
            "spec": {"user": user, "groups": groups, "resourceAttributes": {k: v for k, v in attributes.items() if v}},
        }
        path = f"/apis/authorization.k8s.io/v1/namespaces/{space}/localsubjectaccessreviews"
        return bool((api.create(path, body).get("status") or {}).get("allowed"))

    try:
        answers = side_by_side(allowed, wanted)
    except NotAllowedError:
        return warned(
            f"what {home}/{name} may do in {space} may not be asked from here",
            f"kubectl auth can-i patch isvc -n {space} --as={user}, as an administrator",
        )
    missing = [right for right, yes in zip(wanted, answers, strict=True) if not yes]
    if not missing:
        return passed(f"{home}/{name} has {len(wanted)} right(s) in {space}")
    said = f"deploy_model_kserve will fail: {home}/{name} may not in {space}: {', '.join(map(str, missing))}"
    return failed(said, promoter(space, user))


def _needed(site: Site) -> list[Right]:
    listed = RIGHTS + (KNATIVE_RIGHTS if _mode(site.cluster(), site)[0] == "Knative" else ())
    return [right for group, resource, verbs in listed for right in rights(" ".join(verbs), resource, group)]


def kserve(site: Site) -> Finding:
    """Is KServe there and awake, and which?"""
    api = site.cluster()
    try:
        api.get(f"{GROUP}/v1beta1")
    except NotFoundError:
        return _worse(site, "KServe is not installed: there is nothing to promote to", "install KServe 0.21")
    if asleep := _asleep(api, site):
        return _worse(site, asleep.message, asleep.hint or "kubectl -n kserve get pods")
    found, _ = _controller(api, site)
    tag = image_tag(found) if found else None
    if tag is None:
        return passed("InferenceService v1beta1; its version is not told")
    with contextlib.suppress(ValueError):
        major, minor = (int(part) for part in tag.lstrip("v").split(".")[:2])
        if (major, minor) < OLDEST:
            why = f"KServe {tag} does not know the modes Standard and Knative by name, and takes its default for them"
            return _worse(site, why, "upgrade KServe to 0.21")
    return passed(f"KServe {tag}")


def _asleep(api: KubeApi, site: Site) -> UnavailableError | None:
    """Return why no service can be made now: its kind is served, and KServe's controller does not take what is made."""
    model = {"modelFormat": {"name": spec.OUR_FORMAT}, "storageUri": site.profile.store.uri}
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "evctl-doctor"},
        "spec": {"predictor": {"model": model}},
    }
    try:
        api.create(spec.isvc_path(serving_namespace(site)), body, dry_run=True)  # nothing is kept
    except TimedOutError:
        raise
    except UnavailableError as error:
        return error
    except EvctlError:
        pass  # a missing right or namespace is told by its own check, and who refuses is awake
    return None


def mode(site: Site) -> Finding:
    """Does KServe deploy as the profile expects?"""
    api = site.cluster()
    controllers.installed(api)
    chosen, found, knative = _mode(api, site)
    if chosen not in KNOWN:
        fix = "set serving: {mode: Standard} in the profile"
        return _worse(site, f"KServe deploys in mode {chosen}, in which no model can be proved", fix)
    if chosen == "Knative" and not knative:
        fix = "set serving: {mode: Standard} in the profile"
        return _worse(site, "the mode is Knative, and Knative is not installed", fix)
    if chosen != found:
        return warned(f"KServe deploys in mode {found}, the profile says {chosen}", "set serving: {mode: auto}")
    return passed(f"{chosen}: canary is possible" if chosen == "Knative" else chosen)


def runtime(site: Site) -> Finding:
    """Is the runtime there that the profile names?"""
    api, name, where = site.cluster(), site.profile.serving.runtime, serving_namespace(site)
    if name is None:
        return passed("made by evctl from the profile's image")
    controllers.installed(api)
    for path in (f"{GROUP}/v1alpha1/namespaces/{where}/servingruntimes", f"{GROUP}/v1alpha1/clusterservingruntimes"):
        try:
            found = api.get(f"{path}/{name}")
        except NotFoundError:
            continue
        except NotAllowedError:
            return warned(f"runtime {name} may not be looked at", "ask for get on servingruntimes")
        if (found.get("spec") or {}).get("disabled"):
            return _worse(site, f"runtime {name} is disabled", f"set serving.runtime, or enable {name}")
        return passed(name)
    return _worse(site, f"there is no runtime {name} for {where}", "remove serving.runtime: evctl makes its own")


def artifacts(site: Site) -> Finding:
    """Can the object store of artifacts be written and read from here?"""
    from evctl.backends.kubeflow.objects_place import location_of, session_of
    from evctl.backends.kubeflow.objects_reach import answers

    if site.forwards:
        site.cluster()
    with contextlib.suppress(EvctlError):
        site.access()
    launcher = _launcher(site)
    root = site.profile.kubeflow.pipeline_root or str(launcher.get("defaultPipelineRoot") or DEFAULT_ROOT)
    where = location_of(root)
    session = provider_session({"data": launcher}, where.provider, where.bucket)
    text = json.dumps({"Provider": where.provider, "Params": session}) if session else None
    try:
        return _written(site, where, text)
    except EvctlError as error:
        endpoint = session_of(text, where.provider, site.profile.kubeflow.system_namespace).endpoint
        if where.provider != "gs" and endpoint and not answers(endpoint):
            site.blame_the_right(error, site.profile.kubeflow.object_store_endpoint)
        if isinstance(error, _Nobody):
            # pods have their own: only what is copied to this machine needs these
            return warned(error.message, error.hint)
        raise


class _Nobody(NotAllowedError):
    """There are no credentials to try."""


def _written(site: Site, where: Location, text: str | None) -> Finding:
    from evctl.backends.kubeflow.objects_reach import stores

    place = f"{where.provider}://{where.bucket}"
    refused: EvctlError | None = None
    try:
        for whose, store in stores(site.connection, where, text):
            try:
                _round_trip(store, f"{where.key}/evctl-doctor-{secrets.token_hex(6)}".lstrip("/"), place, whose)
            except NotAllowedError as refusal:
                refused = refusal
                continue
            return passed(f"{place}, written and read with the credentials of {whose}")
    except NotAllowedError as nobody:
        raise _Nobody(nobody.message, hint=nobody.hint) from nobody
    assert refused is not None
    raise refused


def _round_trip(store: Any, key: str, place: str, whose: str) -> None:
    import obstore

    from evctl.backends.kubeflow.objects_reach import explained

    content = secrets.token_bytes(16)
    try:
        obstore.put(store, key, content)
        found = bytes(obstore.get(store, key).bytes())
        obstore.delete(store, key)
    except Exception as error:  # obstore's own errors have no common base
        raise explained(error, place, whose) from error
    if found != content:
        raise NotFoundError(f"{place} does not give back what was written", hint="look at the store's own health")


def _launcher(site: Site) -> dict[str, Any]:
    """Return the settings of KFP's launcher; {} where they cannot be read, or there are none."""
    for space in dict.fromkeys((site.runs_namespace(), site.profile.kubeflow.system_namespace)):
        with contextlib.suppress(EvctlError):
            return dict(site.access().get(f"/api/v1/namespaces/{space}/configmaps/kfp-launcher").get("data") or {})
    return {}


def _controller(api: KubeApi, site: Site) -> tuple[dict[str, Any] | None, str]:
    """Return KServe's controller, None where it cannot be seen, and its namespace."""
    spaces = tuple(dict.fromkeys(("kserve", site.profile.kubeflow.system_namespace)))
    found = controllers.by_name(api, spaces, controllers.KSERVE).found
    return found, str(found["metadata"]["namespace"]) if found else "kserve"


def _mode(api: KubeApi, site: Site) -> tuple[str, str, bool]:
    """Return the mode a service would have, KServe's own, and whether Knative is there; as `promote` decides it."""
    wanted = site.profile.serving.mode
    knative, (_, space) = _serves_knative(api), _controller(api, site)
    default: str | None = None
    with contextlib.suppress(NotFoundError, NotAllowedError):
        default = default_mode(api.get(f"/api/v1/namespaces/{space}/configmaps/{CONFIG}"))
    found = default or ("Knative" if knative else "Standard")
    return (found if wanted == "auto" else wanted), found, knative


def _serves_knative(api: KubeApi) -> bool:
    try:
        api.get("/apis/serving.knative.dev/v1")
    except (NotFoundError, NotAllowedError):
        return False
    return True


def _worse(site: Site, message: str, fix: str) -> Finding:
    """A failure where a run deploys, a warning where only `promote` would."""
    return failed(message, fix) if site.profile.deploy == "auto" else warned(message, fix)
