"""ML Metadata over gRPC: the five calls evctl makes, answered from recordings or from a World's lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import json_format

from evctl.backends.metadata import proto

Answers = Mapping[str, Any]


class MlmdServer:
    """Serves `lookup(run id)` as ML Metadata; the answers have the recordings' shape.

    Args:
        lookup: answers of a run, None for a run nobody knows.
        known: the ids of the runs, to find a context or execution by number.
    """

    def __init__(
        self, lookup: Callable[[str], Answers | None], known: Callable[[], list[str]], *, port: int = 0
    ) -> None:
        self.lookup, self.known = lookup, known
        self.calls: list[tuple[str, float]] = []
        self.error: grpc.StatusCode | None = None
        """What every call is refused with, while it is set."""
        self._server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[_Handler(self)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.host = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> MlmdServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.stop(0).wait(5)

    def reply(self, method: str, request: Any) -> Any:
        return getattr(self, f"_{method}")(request)

    def _all(self, method: str, name: str) -> list[Any]:
        found = []
        for run in self.known():
            found += getattr(_parsed(method, self.lookup(run)), name)
        return found

    def _GetContextByTypeAndName(self, request: Any) -> Any:
        answers = self.lookup(request.context_name) if request.type_name == "system.PipelineRun" else None
        return _parsed("GetContextByTypeAndName", answers)

    def _GetExecutionsByContext(self, request: Any) -> Any:
        found: list[Any] = []
        for run in self.known():
            answers = self.lookup(run)
            if _parsed("GetContextByTypeAndName", answers).context.id == request.context_id:
                found = list(_parsed("GetExecutionsByContext", answers).executions)
        size = request.options.max_result_size or 20
        start = int(request.options.next_page_token or 0)
        answer = proto.message("GetExecutionsByContextResponse")()
        answer.executions.extend(sorted(found, key=lambda e: -e.id)[start : start + size])
        if len(found) > start + size:
            answer.next_page_token = str(start + size)
        return answer

    def _GetEventsByExecutionIDs(self, request: Any) -> Any:
        wanted = set(request.execution_ids)
        answer = proto.message("GetEventsByExecutionIDsResponse")()
        answer.events.extend(e for e in self._all("GetEventsByExecutionIDs", "events") if e.execution_id in wanted)
        return answer

    def _GetArtifactsByID(self, request: Any) -> Any:
        wanted = set(request.artifact_ids)
        answer = proto.message("GetArtifactsByIDResponse")()
        found = {each.id: each for each in self._all("GetArtifactsByID", "artifacts")}
        answer.artifacts.extend(found[at] for at in sorted(wanted) if at in found)
        return answer


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, owner: MlmdServer) -> None:
        self.owner = owner

    def service(self, call: Any) -> Any:
        service, _, method = call.method.strip("/").partition("/")
        if service != proto.SERVICE or not hasattr(self.owner, f"_{method}"):
            return None

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self.owner.calls.append((method, time.monotonic()))
            if self.owner.error is not None:
                context.abort(self.owner.error, "as the test wants it")
            return self.owner.reply(method, request)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=proto.message(f"{method}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


def _parsed(method: str, answers: Answers | None) -> Any:
    known = (answers or {}).get(method, {})
    return json_format.ParseDict(known, proto.message(f"{method}Response")(), ignore_unknown_fields=True)
