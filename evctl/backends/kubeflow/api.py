"""The KFP API's calls that evctl makes, as plain documents. Transport, authentication and errors are the connection's."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evctl.backends import spec as specs
from evctl.errors import ConflictError, NotAllowedError, NotFoundError, UnavailableError, UsageError, trim
from evctl.state import home

V2 = "/apis/v2beta1"
PAGE = 200
"""The most the API gives at once; it clamps what is over (kubeflow-facts 9)."""
NEWEST_FIRST = "created_at desc"
Document = Mapping[str, Any]


class Requests(Protocol):
    """What is needed of a connection: JSON over the KFP API, errors of `evctl.errors` only."""

    def request(
        self, method: str, path: str, *, query: Document | None = None, body: Any = None, raw: bool = False
    ) -> Any:
        """Return the answer's document."""
        ...


def equals(key: str, value: str) -> dict[str, Any]:
    """Return the API's predicate that a field has a value."""
    return {"operation": "EQUALS", "key": key, "stringValue": value}


def contains(key: str, value: str) -> dict[str, Any]:
    """Return the API's predicate that a field holds a text."""
    return {"operation": "IS_SUBSTRING", "key": key, "stringValue": value}


def one_of(key: str, values: Sequence[str]) -> dict[str, Any]:
    """Return the API's predicate that a field has one of some values."""
    return {"operation": "IN", "key": key, "stringValues": {"values": list(values)}}


class Api:
    """One server's API for one namespace."""

    def __init__(self, connection: Requests, namespace: str) -> None:
        self.connection, self._namespace = connection, namespace
        self._multi_user: bool | None = None
        self._specs: dict[str, Document] = {}
        self.asked = 0
        """Documents that were asked for one at a time, which is how a run is read."""

    def run(self, run_id: str) -> Document:
        """Return a run's document. NotFoundError if there is none; UnavailableError for an answer that is no run."""
        found = self._get(f"{V2}/runs/{_safe(run_id)}")
        if not found.get("run_id"):
            raise _no_answer(found, f"run {run_id}")
        return found

    def create_run(self, body: Document) -> Document:
        """Start a run."""
        answer: Document = self.connection.request("POST", f"{V2}/runs", body=body)
        return answer

    def terminate(self, run_id: str) -> None:
        """Ask for a run's end."""
        self.connection.request("POST", f"{V2}/runs/{_safe(run_id)}:terminate", body={})

    def retry(self, run_id: str) -> None:
        """Ask for another life of a failed run."""
        self.connection.request("POST", f"{V2}/runs/{_safe(run_id)}:retry", body={})

    def runs(
        self, *, predicates: Sequence[Document] = (), experiment_id: str | None = None, page: int = PAGE
    ) -> Iterator[Document]:
        """Yield runs, newest first, a page in memory at a time."""
        query: dict[str, Any] = {"page_size": min(page, PAGE), "sort_by": NEWEST_FIRST}
        if experiment_id:
            query["experiment_id"] = experiment_id
        elif self.multi_user():
            query["namespace"] = self._namespace
        return self._pages(f"{V2}/runs", "runs", query, predicates)

    def experiments(self) -> Iterator[Document]:
        """Yield the experiments, newest first."""
        query = {"page_size": PAGE, "sort_by": NEWEST_FIRST, **self.scope()}
        return self._pages(f"{V2}/experiments", "experiments", query, ())

    def experiment_id(self, name: str) -> str | None:
        """Return an experiment's id; None if there is none of that name."""
        query = {"page_size": 2, **self.scope()}
        found = next(self._pages(f"{V2}/experiments", "experiments", query, [equals("display_name", name)]), None)
        return str(found["experiment_id"]) if found else None

    def made_experiment_id(self, name: str, description: str) -> str:
        """Return an experiment's id, making it when it is missing; another maker may be faster."""
        found = self.experiment_id(name)
        if found is None:
            body = {"display_name": name, "description": description, **self.scope()}
            try:
                return str(self.connection.request("POST", f"{V2}/experiments", body=body)["experiment_id"])
            except (ConflictError, UnavailableError) as error:
                # somebody else made it, or our own making whose answer was lost
                found = self.experiment_id(name)
                if found is None:
                    raise error
        return found

    def pipeline_id(self, name: str) -> str | None:
        """Return a pipeline's id; None if none was uploaded under that name."""
        query = {"page_size": 2, **self.scope()}
        found = next(self._pages(f"{V2}/pipelines", "pipelines", query, [equals("display_name", name)]), None)
        return str(found["pipeline_id"]) if found else None

    def version_named(self, pipeline_id: str, name: str) -> Document | None:
        """Return a pipeline's version by its name."""
        path = f"{V2}/pipelines/{_safe(pipeline_id)}/versions"
        return next(self._pages(path, "pipeline_versions", {"page_size": 2}, [equals("display_name", name)]), None)

    def newest_version(self, pipeline_id: str) -> Document | None:
        """Return the version that was uploaded last, which is the one KFP takes where none is named."""
        query = {"page_size": 1, "sort_by": NEWEST_FIRST}
        path = f"{V2}/pipelines/{_safe(pipeline_id)}/versions"
        return next(self._pages(path, "pipeline_versions", query, ()), None)

    def spec_of(self, run: Document) -> Document | None:
        """Return a run's pipeline spec: its own, or its version's, which never changes and is kept on disk.

        None where the version has been deleted, or is not for us to see.
        """
        own, _ = specs.unwrap(run.get("pipeline_spec"))
        reference = run.get("pipeline_version_reference") or {}
        pipeline, version = reference.get("pipeline_id"), reference.get("pipeline_version_id")
        if own is not None or not (pipeline and version):
            return own
        if version not in self._specs:
            found = self._version_spec(str(pipeline), str(version))
            if found is None:
                return None
            self._specs[version] = found
        return self._specs[version]

    def scope(self) -> dict[str, str]:
        """Return the namespace where the server wants one; a server for one user refuses it."""
        return {"namespace": self._namespace} if self.multi_user() else {}

    def multi_user(self) -> bool:
        """Whether the server keeps its users apart by namespace."""
        if self._multi_user is None:
            self._multi_user = bool(self._get(f"{V2}/healthz").get("multi_user"))
        return self._multi_user

    def _version_spec(self, pipeline: str, version: str) -> Document | None:
        kept = home() / "cache" / "versions" / f"{_safe(version)}.json"
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(kept.read_text())
            if isinstance(known, dict) and "root" in known:
                return known
        try:
            answer = self._get(f"{V2}/pipelines/{_safe(pipeline)}/versions/{_safe(version)}")
        except (NotFoundError, NotAllowedError, UsageError):
            return None
        found, _ = specs.unwrap(answer.get("pipeline_spec"))
        if found is not None:
            # a folder that cannot be written costs one request each time, nothing else
            with contextlib.suppress(OSError):
                _write(kept, json.dumps(found))
        return found

    def _get(self, path: str) -> Document:
        self.asked += 1
        answer: Document = self.connection.request("GET", path)
        return answer

    def _pages(self, path: str, key: str, query: Document, predicates: Sequence[Document]) -> Iterator[Document]:
        asked = dict(query)
        if predicates:
            asked["filter"] = json.dumps({"predicates": list(predicates)})
        while True:
            answer = self.connection.request("GET", path, query=asked)
            if "error" in answer and key not in answer:
                raise _no_answer(answer, key)
            yield from answer.get(key) or ()
            token = answer.get("next_page_token")
            if not token:
                return
            asked["page_token"] = token


def _safe(part: str) -> str:
    """Return a path's part that stays one: an id comes from a command line."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", part) or part in (".", ".."):
        raise NotFoundError(f"no run, pipeline or version {part!r}", hint="evctl runs")
    return part


def _no_answer(document: Document, what: str) -> UnavailableError:
    """Return the error for a success that holds none: what a gateway says once it has promised a success."""
    error = document.get("error")
    said = error.get("message") if isinstance(error, Mapping) else error
    return UnavailableError(
        f"the KFP API answered with no {what}" + (f": {trim(str(said))}" if said else ""),
        hint="the same command again; evctl doctor",
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text)
    partial.replace(path)
