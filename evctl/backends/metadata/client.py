"""The gRPC seam to ML Metadata: one run's executions, events and artifacts; errors of our own only."""

from __future__ import annotations

import time
from typing import Any

import grpc

from evctl.backends.metadata import proto, values
from evctl.errors import EvctlError, NotAllowedError, TimedOutError, UnavailableError

PAGE = 100
"""Executions asked for at a time; ML Metadata's own limit."""
READ_S = 15.0
"""For all of a run's metadata: a store in which each request takes seconds is as good as down."""
IDS_AT_ONCE = 500
"""Ids in one request: keeps messages well under gRPC's 4 MiB."""
ARTIFACT_REQUESTS = 2
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)
_DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class MetadataStore:
    """ML Metadata at `host:port`.

    Args:
        host: `host:port` of the gRPC service.
        timeout_s: seconds for one request with its retries.
        patience_s: seconds in which a server that nobody listens for is tried again; None is `timeout_s`.
        ca: PEM bytes of a CA; None speaks plain text, as KFP installs it.
    """

    def __init__(
        self, host: str, *, timeout_s: float = 5.0, ca: bytes | None = None, patience_s: float | None = None
    ) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 64 << 20)]
        # a proxy meant for the internet answers for cluster-internal names otherwise
        options.append(("grpc.enable_http_proxy", 0))
        self.host = host
        self.timeout_s = timeout_s
        self.patience_s = timeout_s if patience_s is None else patience_s
        self._asked = 0
        if ca is None:
            self._channel = grpc.insecure_channel(host, options=options)
        else:
            self._channel = grpc.secure_channel(host, grpc.ssl_channel_credentials(ca), options=options)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def read(self, run_id: str, *, artifacts: bool = True, within: int | None = None) -> values.RunMetadata | None:
        """Return what is known of a run, or None when no driver has written anything yet.

        Two requests, four with artifacts (more only for runs of more than 100 tasks).

        Args:
            within: requests for which artifacts are worth it; a run that is read in more comes without them.
        """
        end = time.monotonic() + max(READ_S, self.timeout_s)
        begun = self._asked
        context = self._context(run_id, end)
        if context is None:
            return None
        executions = self._executions(context.id, end)
        known = {key: values.plain(value) for key, value in context.custom_properties.items()}
        links: tuple[values.Link, ...] = ()
        stored: dict[int, values.StoredArtifact] = {}
        affordable = within is None or self._asked - begun + ARTIFACT_REQUESTS <= within
        if artifacts and executions and affordable:
            links = self._links([e.id for e in executions], end)
            stored = self._artifacts(sorted({entry.artifact for entry in links}), end)
        root, session = known.get("pipeline_root"), known.get("store_session_info")
        return values.RunMetadata(executions, links, stored, root, session, self._asked - begun)

    def _context(self, run_id: str, end: float) -> Any:
        request = proto.message("GetContextByTypeAndNameRequest")(type_name="system.PipelineRun", context_name=run_id)
        answer = self._call("GetContextByTypeAndName", request, end)
        return answer.context if answer is not None and answer.HasField("context") else None

    def _executions(self, context: int, end: float) -> tuple[values.Execution, ...]:
        found: list[values.Execution] = []
        token = ""
        while True:
            request = proto.message("GetExecutionsByContextRequest")(context_id=context)
            request.options.max_result_size = PAGE
            if token:
                request.options.next_page_token = token
            answer = self._call("GetExecutionsByContext", request, end)
            if answer is None:
                break
            found += [values.execution(entry) for entry in answer.executions]
            token = answer.next_page_token
            if not token:
                break
        return tuple(sorted({e.id: e for e in found}.values(), key=lambda e: e.id))

    def _links(self, ids: list[int], end: float) -> tuple[values.Link, ...]:
        found: list[values.Link] = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            chunk = ids[start : start + IDS_AT_ONCE]
            request = proto.message("GetEventsByExecutionIDsRequest")(execution_ids=chunk)
            answer = self._call("GetEventsByExecutionIDs", request, end)
            found += [values.link(entry) for entry in answer.events] if answer is not None else []
        return tuple(found)

    def _artifacts(self, ids: list[int], end: float) -> dict[int, values.StoredArtifact]:
        found: dict[int, values.StoredArtifact] = {}
        for start in range(0, len(ids), IDS_AT_ONCE):
            chunk = ids[start : start + IDS_AT_ONCE]
            request = proto.message("GetArtifactsByIDRequest")(artifact_ids=chunk)
            answer = self._call("GetArtifactsByID", request, end)
            if answer is not None:
                found |= {entry.id: values.artifact(entry) for entry in answer.artifacts}
        return found

    def _call(self, method: str, request: Any, until: float) -> Any:
        """Return the answer, None for NOT_FOUND. UnavailableError and NotAllowedError otherwise."""
        self._asked += 1
        call = self._channel.unary_unary(
            f"/{proto.SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=proto.message(f"{method}Response").FromString,
        )
        end = min(until, time.monotonic() + self.timeout_s)
        give_up = time.monotonic() + self.patience_s
        pause = 0.1
        while True:
            try:
                return call(request, timeout=max(0.05, end - time.monotonic()))
            except grpc.RpcError as error:
                code = error.code()
                if code == grpc.StatusCode.NOT_FOUND:
                    return None
                if code not in _RETRIED or time.monotonic() + pause >= min(end, give_up):
                    raise self._explain(code) from error
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _explain(self, code: Any) -> EvctlError:
        name = code.name if code is not None else "UNKNOWN"
        if code in _DENIED:
            return NotAllowedError(
                f"ML Metadata at {self.host} refuses us ({name})",
                hint="set kubeflow.metadata_host to an address that needs no login, or let evctl forward a port",
            )
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimedOutError(
                f"ML Metadata at {self.host} does not answer: it timed out",
                hint="the same command again; evctl doctor shows whether metadata-grpc-service runs",
            )
        return UnavailableError(
            f"ML Metadata at {self.host} does not answer ({name})",
            hint="evctl doctor shows whether metadata-grpc-service runs",
        )
