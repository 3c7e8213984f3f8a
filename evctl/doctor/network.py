"""Is there a way to Kubeflow: names, ports, certificates, the login, the API, ML Metadata, clocks."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from evctl.backends.kubeflow.connect import API_PORT, API_SERVICE, METADATA_PORT, METADATA_SERVICE, in_pod
from evctl.doctor.checks import Finding, failed, passed, warned
from evctl.doctor.site import NotCheckedError, Site, side_by_side
from evctl.errors import EvctlError, NotAllowedError, NotFoundError, TimedOutError

PROBE_S = 3.0
TESTED = (2, 17)
"""The KFP that evctl is held to by recordings."""
SKEW_WARN_S, SKEW_FAIL_S = 30.0, 300.0
"""Object stores refuse signatures, and logins tokens, from clocks that differ by minutes."""
EXPIRES_SOON_D = 14


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something on the network that the profile leads to. `ca` is a PEM file; None is the system's authorities."""

    what: str
    host: str
    port: int
    tls: bool = False
    ca: str | None = None

    @property
    def address(self) -> str:
        """Return `host:port`."""
        return f"{self.host}:{self.port}"


def endpoints(site: Site) -> list[Endpoint]:
    """Return what is connected to directly: services by URL, or the Kubernetes API that forwards their ports."""
    settings = site.profile.kubeflow
    found = []
    if settings.host:
        found.append(_endpoint("kubeflow.host", settings.host, settings.ca_file))
    elif in_pod():
        found.append(Endpoint("the KFP API", f"{API_SERVICE}.{settings.system_namespace}", API_PORT))
    if settings.metadata_host:
        found.append(_endpoint("kubeflow.metadata_host", settings.metadata_host, settings.ca_file))
    elif in_pod():
        found.append(Endpoint("ML Metadata", f"{METADATA_SERVICE}.{settings.system_namespace}", METADATA_PORT))
    if settings.object_store_endpoint:
        found.append(_endpoint("kubeflow.object_store_endpoint", settings.object_store_endpoint, settings.ca_file))
    if site.forwards and (api := site.connection.kubernetes()) is not None:
        found.append(_endpoint("the Kubernetes API", api.host, api.client.configuration.ssl_ca_cert))
    if not found:
        raise NotCheckedError("there is no access to a cluster, see kubernetes")
    return found


def _endpoint(what: str, url: str, ca: str | None) -> Endpoint:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    tls = parts.scheme in ("https", "grpcs")
    return Endpoint(what, parts.hostname or "", parts.port or (443 if tls else 80), tls, ca)


def _together(found: list[Endpoint], probe: Callable[[Endpoint], Finding]) -> Finding:
    """Return one finding over all endpoints, the worst one's fix with it."""
    findings = side_by_side(probe, found)
    for status in ("fail", "warn"):
        bad = [each for each in findings if each.status == status]
        if bad:
            fix = next((each.fix for each in bad if each.fix), None)
            return Finding(bad[0].status, "; ".join(each.message for each in bad), fix)
    return passed("; ".join(dict.fromkeys(each.message for each in findings)))


def dns(site: Site) -> Finding:
    """Does each name have an address?"""
    return _together(endpoints(site), _resolves)


def _resolves(endpoint: Endpoint) -> Finding:
    if _is_address(endpoint.host):
        return passed(f"{endpoint.host} is an address")
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no name"
        return failed(
            f"{endpoint.host or 'an empty name'} of {endpoint.what} has no address ({why})",
            f"correct {endpoint.what} in the profile, or join the network (VPN) that knows the name",
        )
    return passed(f"{endpoint.host} is {found[0][4][0]}")


def tcp(site: Site) -> Finding:
    """Does each port take a connection?"""
    return _together(endpoints(site), _connects)


def _connects(endpoint: Endpoint) -> Finding:
    start = time.monotonic()
    try:
        socket.create_connection((endpoint.host, endpoint.port), PROBE_S).close()
    except socket.gaierror:
        return warned(f"not checked: {endpoint.host} has no address")
    except (OSError, UnicodeError) as error:
        why = (
            f"timed out after {PROBE_S:g} s"
            if isinstance(error, TimeoutError)
            else getattr(error, "strerror", None) or "refused"
        )
        return failed(
            f"{endpoint.address} of {endpoint.what} does not take a connection ({why})",
            f"is {endpoint.what} right, the service up, and no firewall between? "
            "Without the setting evctl forwards a port through the Kubernetes API",
        )
    return passed(f"{endpoint.address} in {1000 * (time.monotonic() - start):.0f} ms")


def tls(site: Site) -> Finding:
    """Is each certificate trusted, and for how long?"""
    found = endpoints(site)
    login = site.profile.kubeflow.auth.kind != "none"
    open_ones = [e for e in found if not e.tls and e.what == "kubeflow.host" and not _is_loopback(e.host)]
    if login and open_ones:
        return warned(
            f"the login travels to {open_ones[0].address} unencrypted", "set kubeflow.host in the profile to https://"
        )
    encrypted = [each for each in found if each.tls]
    return _together(encrypted, _trusted) if encrypted else passed("not used")


def _trusted(endpoint: Endpoint) -> Finding:
    fix = "set kubeflow.ca_file to the authority's PEM file"
    try:
        context = ssl.create_default_context(cafile=endpoint.ca)
        with (
            socket.create_connection((endpoint.host, endpoint.port), PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=endpoint.host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
    except FileNotFoundError:
        return failed(f"there is no CA file {endpoint.ca}", fix)
    except ssl.SSLCertVerificationError as error:
        return failed(f"the certificate of {endpoint.address} is not trusted: {error.verify_message}", fix)
    except TimeoutError as error:
        raise TimedOutError(f"{endpoint.address} timed out: no TLS answer within {PROBE_S:g} s") from error
    except ssl.SSLError as error:
        return failed(f"{endpoint.address} does not speak TLS ({error.reason or 'error'})", "is it http:// instead?")
    except OSError:
        return warned(f"not checked: {endpoint.address} does not take a connection")
    days = int((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) // 86400)
    said = f"the certificate of {endpoint.host} is good for {days} days"
    return warned(said, "renew it") if days < EXPIRES_SOON_D else passed(said)


def login(site: Site) -> Finding:
    """Are we let in?"""
    settings = site.profile.kubeflow.auth
    try:
        _health(site, refusals=True)
    except NotAllowedError as error:
        return _not_let_in(error)
    query: dict[str, object] = {"page_size": 1}
    if site.multi_user():
        query["namespace"] = site.profile.namespace
    try:
        site.connection.request("GET", "/apis/v2beta1/experiments", query=query)
    except NotAllowedError as error:
        return _not_let_in(error)
    return passed("none needed" if settings.kind == "none" else f"accepted ({settings.kind})")


def _not_let_in(error: NotAllowedError) -> Finding:
    fix = error.hint if error.hint and "evctl doctor" not in error.hint else "set kubeflow.auth in the profile"
    return failed(error.message, fix)


def kfp(site: Site) -> Finding:
    """Is this a Kubeflow Pipelines that evctl knows?"""
    try:
        health = _health(site)
    except NotFoundError:
        return failed(
            "there is no v2beta1 API at kubeflow.host: a KFP 1.x, or another path",
            "set kubeflow.host to the URL that ends in /pipeline, or to the ml-pipeline service",
        )
    tag = str(health.get("tag_name") or "unknown")
    users = "multi-user" if health.get("multi_user") else "single-user"
    try:
        major, minor = (int(part) for part in tag.lstrip("v").split(".")[:2])
    except ValueError:
        return passed(f"v2beta1, {users}; it does not tell its version")
    if major != TESTED[0]:
        return failed(f"KFP {tag}: evctl speaks to 2.x", "upgrade Kubeflow Pipelines")
    if (major, minor) != TESTED:
        return warned(f"KFP {tag}, {users}: evctl is tested with {TESTED[0]}.{TESTED[1]}", "evctl status after a run")
    return passed(f"KFP {tag}, {users}")


def metadata(site: Site) -> Finding:
    """Does ML Metadata answer?"""
    settings = site.profile.kubeflow
    if site.forwards and settings.metadata_host is None:
        site.cluster()
    try:
        store = site.connection.metadata()
        store.read("evctl-doctor", artifacts=False)
    except EvctlError as error:
        site.blame_the_right(error, settings.metadata_host)
        raise
    return passed(f"answers at {settings.metadata_host or store.host}")


def clock(site: Site) -> Finding:
    """Do the server's clock and ours agree?"""
    try:
        site.health()
    except EvctlError as error:
        if site.transport().skew_s is None:
            raise NotCheckedError("the KFP API does not answer, see kfp") from error
    skew = site.transport().skew_s
    if skew is None:
        raise NotCheckedError("the KFP API does not tell its time")
    said = f"{_spelled(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours"
    fix = "set the clock: timedatectl set-ntp true, here or on the cluster's nodes"
    if abs(skew) >= SKEW_FAIL_S:
        return failed(f"the server's clock is {said}: tokens and signed requests are refused", fix)
    if abs(skew) >= SKEW_WARN_S:
        return warned(f"the server's clock is {said}", fix)
    return passed("in step with the server's")


def _spelled(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "h" and seconds >= size - 60):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _health(site: Site, *, refusals: bool = False) -> dict[str, object]:
    """Return what the API says; with `refusals` only those are raised, as `kfp` tells the rest."""
    try:
        return site.health()
    except NotAllowedError as error:
        if refusals:
            raise
        raise NotCheckedError("the login is not accepted, see login") from error
    except EvctlError as error:
        if refusals:
            raise NotCheckedError("the KFP API does not answer, see kfp") from error
        raise


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
