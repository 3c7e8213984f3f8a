"""One policy for every request to the KFP API, ours and kfp's own: limits, retries, login, and what errors mean.

A request that may have had an effect is never sent twice here: whoever submits looks first whether it arrived.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3

from evctl.backends.kubeflow.auth import Auth
from evctl.backends.kubeflow.transport_answers import (
    RETRIED,
    explained,
    is_document,
    is_login,
    moved_to,
    retry_after,
)
from evctl.backends.kubeflow.transport_attempt import Attempt, patient, whole
from evctl.errors import EvctlError, NotAllowedError, NotFoundError, TimedOutError, UnavailableError, UsageError, trim
from evctl.resolving import resolve

CONNECT_TIMEOUT_S = 1.5
"""For each address of a name; three dead ones are told within 5 s."""
STREAM_QUIET_S = 120.0
"""How long a followed log may say nothing before its connection is taken for dead."""
LEAST_S = 1.0
"""A request is given so much, however little is left of its deadline."""


class Transport:
    """Requests to one server.

    Args:
        base: URL of the API. timeout_s: for one request. deadline_s: for one request with its retries.
        ca_file: PEM file of the authority that signed the server's certificate; None is the system's.
        blame: what went wrong on the way there, where that is known better than by the broken connection.
    """

    def __init__(
        self,
        base: str,
        auth: Auth,
        *,
        timeout_s: float = 10.0,
        deadline_s: float = 60.0,
        ca_file: str | None = None,
        blame: Callable[[], EvctlError | None] = lambda: None,
    ) -> None:
        self.base, self.auth = base.rstrip("/"), auth
        self.timeout_s, self.deadline_s, self._blame = timeout_s, deadline_s, blame
        self.skew_s: float | None = None
        """The server's clock minus ours at the last answer, in seconds; None where it said nothing."""
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, **_verified(ca_file))

    def json(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        """Return the answer's document."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        return json.loads(self.send(method, _url(path, query), body=content, headers=headers, document=True).data)

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        final: Collection[int] = (),
    ) -> Iterator[bytes]:
        """Yield an answer's body as it comes. UnavailableError when it is cut off.

        Args:
            deadline_s: for its beginning, where the caller has another place to look; None is the policy's.
            final: statuses that are taken for the answer, though the policy would try again.
        """
        answer = self.send("GET", _url(path, query), preload=False, deadline_s=deadline_s, final=final)
        # it had to begin in time as everything has, and may be silent once it has
        patient(answer, STREAM_QUIET_S)
        try:
            # not stream(): that waits until a piece is full, and a followed log is slow
            while piece := answer.read1(1 << 16):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnavailableError(f"{self.base} broke off in the middle: {type(error).__name__}") from error
        finally:
            answer.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        document: bool = False,
        preload: bool = True,
        deadline_s: float | None = None,
        final: Collection[int] = (),
        **content: Any,
    ) -> Any:
        """Send a request and return the response, which is a success.

        Args:
            url: a path, or the whole URL. document: the body must be a JSON document that is not null.
            content: `body`, or `fields` with `encode_multipart`, as urllib3 takes them.

        Raises:
            UnavailableError: no answer, or none that is whole; a submission may have arrived all the same.
            NotAllowedError, NotFoundError, ConflictError, UsageError: the server's own refusals.
        """
        attempt = Attempt(
            method, url if "://" in url else self.base + url, time.monotonic() + (deadline_s or self.deadline_s)
        )
        while True:
            known = {**(headers or {}), **self.auth.headers()}
            try:
                answer = self._once(attempt, known, preload, content)
            except UnavailableError as error:
                attempt.or_raise(self._blamed(attempt, error))
                continue
            if moved := moved_to(attempt.url, answer):
                raise UsageError(f"{self.base} has moved to {moved}", hint="set kubeflow.host to that address")
            if answer.status == 401 or is_login(answer):
                if attempt.renewed or not self.auth.renew():
                    raise NotAllowedError(f"{self.base} does not accept the login", hint=self.auth.what_to_do())
                attempt.renewed = True
                continue
            if answer.status in RETRIED and answer.status not in final:
                refusal = explained(method, url, answer)
                attempt.or_raise(refusal, after=retry_after(answer), processed=answer.status != 429)
                continue
            if answer.status >= 300:
                raise explained(method, url, answer)
            if document and not is_document(answer.data):
                attempt.or_raise(UnavailableError(f"{self.base} answered {urlsplit(url).path} with no document"))
                continue
            return answer

    def _once(self, attempt: Attempt, headers: dict[str, str], preload: bool, content: dict[str, Any]) -> Any:
        attempt.sent = False
        begin_s = min(self.timeout_s, max(LEAST_S, attempt.left()))
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=begin_s)
        try:
            resolve(attempt.url)
        except UnavailableError:
            attempt.hopeless = True
            raise
        try:
            answer = self._pool.request(
                attempt.method,
                attempt.url,
                headers=headers,
                timeout=timeout,
                redirect=False,
                retries=False,
                preload_content=False,
                **content,
            )
            if preload:
                answer = whole(answer, attempt.end)
        except urllib3.exceptions.SSLError as error:
            attempt.hopeless = True
            raise UnavailableError(
                f"the certificate of {self.base} is not trusted: {trim(str(error), 120)}",
                hint="set kubeflow.ca_file to the authority's PEM file",
            ) from error
        except urllib3.exceptions.NameResolutionError as error:
            attempt.hopeless = True
            raise UnavailableError(
                f"{urlsplit(self.base).hostname} has no address", hint="is kubeflow.host right? evctl doctor"
            ) from error
        except urllib3.exceptions.NewConnectionError as error:  # urllib3 derives it from the next
            attempt.unconnected += 1
            raise UnavailableError(
                f"{self.base} does not answer", hint="is kubeflow.host right, and reachable from here? evctl doctor"
            ) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            attempt.unconnected += 1
            raise TimedOutError(
                f"{self.base} timed out: no connection within {CONNECT_TIMEOUT_S:g} s",
                hint="is kubeflow.host right, and reachable from here? evctl doctor",
            ) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            attempt.sent = True
            raise TimedOutError(
                f"{self.base} timed out: no answer within {begin_s:.2g} s",
                hint="the same command again; evctl doctor",
            ) from error
        except TimeoutError as error:
            attempt.sent = True
            raise TimedOutError(f"{self.base} broke off: {error}", hint="the same command again") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            attempt.sent = True
            raise UnavailableError(
                f"{self.base} broke off: {type(error).__name__}", hint="the same command again; evctl doctor"
            ) from error
        attempt.sent = True
        self._note_clock(answer)
        return answer

    def _blamed(self, attempt: Attempt, error: UnavailableError) -> EvctlError:
        reason = self._blame()
        attempt.hopeless = attempt.hopeless or isinstance(reason, NotAllowedError)
        return reason or error

    def _note_clock(self, answer: Any) -> None:
        try:
            theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return
        self.skew_s = theirs - time.time()


class PolicyPool:
    """Stands where kfp's generated client keeps its connection pool, so that its requests follow the policy too."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
        timeout: Any = None,
        **content: Any,
    ) -> Any:
        """Send what urllib3's own pool would; `timeout` is the policy's."""
        # kfp asks for documents only: anything else is a proxy's page
        return self._transport.send(
            method, url, headers=headers, preload=preload_content, document=preload_content, **content
        )


def _verified(ca_file: str | None) -> dict[str, Any]:
    if ca_file is None:
        return {}
    from pathlib import Path

    ca_file = str(Path(ca_file).expanduser())
    if not Path(ca_file).is_file():
        raise NotFoundError(f"there is no CA file {ca_file}", hint="see kubeflow.ca_file in the profile")
    return {"ca_certs": ca_file, "cert_reqs": "CERT_REQUIRED"}


def _url(path: str, query: Mapping[str, Any] | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return f"{path}{'&' if '?' in path else '?'}{urlencode(given)}" if given else path
