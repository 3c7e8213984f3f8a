"""Is the cluster ready for a run: access, namespace, rights, secrets, service account, image, nodes, retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evctl.doctor.checks import Finding, failed, passed, warned
from evctl.doctor.judge import FORWARD, Right, grant, homeless, needs, retry_policy, rights, usable
from evctl.doctor.site import Site
from evctl.errors import EvctlError, NotAllowedError, NotFoundError, TimedOutError
from evctl.kube import KubeApi
from evctl.profile import Profile
from evctl.secrets.store import store_keys

CONTROLLER_CONFIG = "workflow-controller-configmap"
STATUS = (*rights("list", "pods events"), *rights("list", "workflows", "argoproj.io"))
"""Workflows say why a pod was refused or lost; without them what pods and logs say has to do."""
LOGS = rights("get", "pods/log")
SECRETS = rights("get list create patch", "secrets")


def kubernetes(site: Site) -> Finding:
    """Is there access to the cluster?"""
    try:
        api = site.access()
    except EvctlError as error:
        if site.forwards and isinstance(error, TimedOutError):
            raise
        fix = error.hint or "export KUBECONFIG=FILE, or set kubeflow.context in the profile"
        if site.forwards:
            return failed(error.message, fix)
        return warned(f"{error.message}; secrets, pods and promotions need it", fix)
    version = str(api.get("/version").get("gitVersion"))
    who = user(api)
    return passed(f"{version} at {api.host}" + (f" as {who}" if who else ""))


def user(api: KubeApi) -> str | None:
    """Return who we are to the cluster; None where it does not say."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        status = api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", body).get("status") or {}
    except EvctlError:
        return None
    name = (status.get("userInfo") or {}).get("username")
    return str(name) if name else None


def namespace(site: Site) -> Finding:
    """Do the namespaces exist?"""
    api, profile = site.cluster(), site.profile
    wanted = dict.fromkeys((site.runs_namespace(), profile.namespace, profile.serving.namespace or profile.namespace))
    unseen = []
    for name in wanted:
        try:
            phase = (api.get(f"/api/v1/namespaces/{name}").get("status") or {}).get("phase")
        except NotFoundError:
            return failed(f"there is no namespace {name}", f"kubectl create namespace {name}")
        except NotAllowedError:
            unseen.append(name)
            continue
        if phase == "Terminating":
            return failed(f"namespace {name} is being deleted", f"wait, then: kubectl create namespace {name}")
    if unseen:
        return warned(f"{', '.join(unseen)}: may not be looked at", "ask for get on namespaces")
    return passed(", ".join(wanted))


def may(purpose: str, where: Callable[[Site], str], wanted: Sequence[Right], command: str) -> Callable[[Site], Finding]:
    """Return a check of the rights that a command needs; without them that command alone does not work."""

    def ask(site: Site) -> Finding:
        space = where(site)
        missing = site.missing(wanted, space)
        return lacking(site, space, wanted, missing, command, lambda who: grant(purpose, space, missing, who))

    return ask


def lacking(
    site: Site,
    namespace: str,
    wanted: Sequence[Right],
    missing: Sequence[Right],
    command: str,
    fix: Callable[[str | None], str],
) -> Finding:
    """Return a pass where no right is missing, else a warning that names those; `fix` is told who we are."""
    if not missing:
        return passed(f"{len(wanted)} right(s) in {namespace}")
    said = f"{command} will not work: not allowed in {namespace}: {', '.join(map(str, missing))}"
    return warned(said, fix(user(site.cluster())))


def forwarding(site: Site) -> Finding:
    """May we forward ports, if the profile needs it?"""
    if not site.forwards:
        return passed("not needed: the profile names hosts")
    where, missing = site.profile.kubeflow.system_namespace, site.unforwardable()
    found = lacking(site, where, FORWARD, missing, "every command", lambda who: grant("forward", where, missing, who))
    return failed(found.message, found.fix) if missing else found


def secrets(site: Site) -> Finding:
    """Are the secrets and keys there that pods mount?"""
    api, profile, where = site.cluster(), site.profile, site.runs_namespace()
    wanted = {(where, mount.name): tuple(mount.keys) for mount in profile.secrets}
    if profile.store.secret:
        serving = profile.serving.namespace or profile.namespace
        for each in dict.fromkeys((where, serving)):
            mounted = wanted.get((each, profile.store.secret), ())
            wanted[each, profile.store.secret] = tuple(dict.fromkeys((*mounted, *store_keys(profile))))
    if not wanted:
        return passed("none required")
    lacking, unseen = [], []
    for (space, name), keys in wanted.items():
        try:
            found = set(api.get(f"/api/v1/namespaces/{space}/secrets/{name}").get("data") or {})
        except NotFoundError:
            lacking.append(f"there is no secret {name} in {space}")
            continue
        except NotAllowedError:
            unseen.append(f"{name} in {space}")
            continue
        gone = [key for key in keys if key not in found]
        lacking += [f"secret {name} in {space} lacks {', '.join(gone)}"] if gone else []
    if lacking and site.multi_user() is None and where != profile.kubeflow.system_namespace:
        said = f"{'; '.join(lacking)}, but KFP does not say where its runs are, see kfp"
        return warned(said, _secrets_fix(site, lacking[0]))
    if lacking:
        return failed("; ".join(lacking), _secrets_fix(site, lacking[0]))
    if unseen:
        return warned(f"may not be looked at: {', '.join(unseen)}", "ask for get on secrets")
    return passed(f"{len(wanted)} secret(s) with their keys")


def _secrets_fix(site: Site, first: str) -> str:
    profile = site.profile
    name = next((mount.name for mount in profile.secrets if f"secret {mount.name} " in first), None)
    return f"evctl secrets apply --env {site.env} {name or '--store'} -f FILE"


def account(site: Site) -> str:
    """Return the service account of runs: the profile's, else KFP's own."""
    return site.profile.kubeflow.service_account or ("default-editor" if site.multi_user() else "pipeline-runner")


def service_account(site: Site) -> Finding:
    """Does the runs' service account exist?"""
    api, where = site.cluster(), site.runs_namespace()
    named, name = site.profile.kubeflow.service_account, account(site)
    try:
        api.get(f"/api/v1/namespaces/{where}/serviceaccounts/{name}")
    except NotFoundError:
        said = f"there is no service account {name} in {where}"
        if site.multi_user() is None and named is None:
            return warned(
                f"{said}, and KFP does not say which one its runs use", "set kubeflow.service_account in the profile"
            )
        return failed(said, f"set kubeflow.service_account in the profile, or: kubectl -n {where} create sa {name}")
    except NotAllowedError:
        return warned(f"{name} in {where} may not be looked at", "ask for get on serviceaccounts")
    return passed(f"{name} in {where}")


def image(profile: Profile) -> Finding:
    """Is the image named so that every pod gets the same one?"""
    name = profile.image.name
    example = "REGISTRY/NAME@sha256:DIGEST"
    if name is None:
        return failed("image.name is unset: upload and run refuse", f"set image: {{name: {example}}} in the profile")
    if "@sha256:" in name:
        digest = name.rpartition("@sha256:")[2]
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            return failed(f"{name} has no whole digest", f"set image: {{name: {example}}} in the profile")
        return passed(f"{name[: -len(digest) + 12]}…")
    if profile.image.mode == "embedded":
        return passed(f"{name}, with the source embedded in the pipeline")
    return failed(
        f"{name} is named by a tag: upload and run refuse",
        f"docker buildx imagetools inspect {name} shows the digest; set image: {{name: {example}}}",
    )


def nodes(site: Site) -> Finding:
    """Is there a node for the largest task?"""
    wanted = needs(site.profile)
    if not wanted:
        return passed("no task has limits")
    try:
        listed = site.cluster().list("/api/v1/nodes")
        found = usable(listed)
    except NotAllowedError:
        return warned(
            f"nodes may not be listed: whether {wanted[0].task} ({wanted[0].said}) fits is not known",
            "kubectl create clusterrole evctl-nodes --verb=list --resource=nodes, and bind it to you",
        )
    if not found:
        return failed("no node takes pods", "kubectl get nodes; uncordon one, or add one")
    lost = homeless(wanted, found)
    if lost:
        cpu = max(node.get("cpu", 0) for node in found)
        memory = max(node.get("memory", 0) for node in found) / 2**30
        tasks = ", ".join(need.task for need in lost)
        return failed(
            f"no node has {lost[0].said}, so {tasks} would stay Pending; the largest give cpu {cpu:g}, {memory:.1f}Gi",
            f"lower steps.{lost[0].task} in the profile, or add a node",
        )
    said = f"{wanted[0].task} ({wanted[0].said}) fits"
    try:
        pods = site.cluster().list("/api/v1/pods", fieldSelector="status.phase!=Succeeded,status.phase!=Failed")
    except NotAllowedError:
        return passed(f"{said} on a node by its size; {len(found)} node(s), whose pods may not be listed")
    if waits := homeless(wanted, usable(listed, pods)):
        tasks = ", ".join(need.task for need in waits)
        return warned(
            f"{tasks} would wait until other pods have ended: no node has {waits[0].said} left",
            "kubectl describe nodes shows what is taken; add a node where that is usual",
        )
    return passed(f"{said}; {len(found)} node(s)")


def retries(site: Site) -> Finding:
    """What becomes of a task's retries here (kubeflow-facts 15)?"""
    where = site.profile.kubeflow.system_namespace
    path = f"/api/v1/namespaces/{where}/configmaps/{CONTROLLER_CONFIG}"
    settings = site.profile.pipeline_settings()
    used = [name for name in ("train_fault_classifier", *settings.steps) if settings.step(name).retries]
    try:
        policy = retry_policy(site.cluster().get(path))
    except NotFoundError:
        return warned(f"there is no {CONTROLLER_CONFIG} in {where}", "set kubeflow.system_namespace in the profile")
    except NotAllowedError:
        return warned(
            f"{CONTROLLER_CONFIG} may not be read: what becomes of retries is not known", f"ask for get on {path}"
        )
    fix = f"kubectl -n {where} edit configmap {CONTROLLER_CONFIG}: remove retryStrategy from templateDefaults"
    if policy == "exact":
        return passed("a task is retried as often as the profile says")
    if policy == "multiplied":
        return failed("its default retries failed DAGs too, so attempts multiply", fix)
    if not used:
        return passed("only infrastructure errors are retried, and no task asks for more")
    return warned(
        f"a step that exits non-zero is not retried: retries of {', '.join(dict.fromkeys(used))} are void", fix
    )
