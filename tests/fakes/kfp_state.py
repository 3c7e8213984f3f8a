"""What the fake Kubeflow remembers: experiments, pipelines, versions, runs and recurring runs; errors as recorded."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

import yaml

from tests.fakes.kfp_life import NEVER, Life, Moment, Plan, Played, Recorded, load, stamp

CHANGING = ("state", "finished_at", "state_history", "run_details")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "NUMBER_DOUBLE": ((int, float), "requires type double or integer, but the parameter value is not of number value type"),
    "NUMBER_INTEGER": ((int, float), "requires type double or integer, but the parameter value is not of number value type"),
    "STRING": ((str,), "requires type string, but the parameter value is not of string value type"),
    "BOOLEAN": ((bool,), "requires type bool, but the parameter value is not of bool value type"),
    "LIST": ((list,), "requires type list, but the parameter value is not of list value type"),
    "STRUCT": ((dict,), "requires type struct, but the parameter value is not of struct value type"),
}  # fmt: skip


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def refusal(recording: str, **replaced: str) -> Refusal:
    """Return a recorded error answer with its ids (`id=`) or other words replaced."""
    answer = load(f"api/{recording}.json")
    text = json.dumps(answer["body"])
    if new := replaced.pop("id", None):
        text = _ID.sub(new, text)
    for old, word in replaced.items():
        text = text.replace(old.replace("__", "-"), json.dumps(word)[1:-1])
    return Refusal(answer["status"], json.loads(text))


@dataclass
class FakeRun:
    """A run: what does not change, and its life."""

    document: dict[str, Any]
    life: Life
    began: float = field(default_factory=time.monotonic)
    frozen: float | None = None
    """Seconds to show for ever, for a test that wants to look twice at the same instant."""

    def age(self) -> float:
        return time.monotonic() - self.began if self.frozen is None else self.frozen

    def moment(self) -> Moment:
        return self.life.at(self.age())

    def shown(self) -> dict[str, Any]:
        own = {key: value for key, value in self.document.items() if key != "life"}
        changed = {k: v for k, v in self.moment().run.items() if k not in own or k in CHANGING}
        return {**own, **changed}

    @property
    def finished(self) -> bool:
        return self.moment().run.get("state") in ("SUCCEEDED", "FAILED", "CANCELED")


class Synthetic(Sequence[dict[str, Any]]):
    """Many finished runs, newest first, made as they are asked for."""

    def __init__(self, count: int, experiment: str, *, details: int = 30) -> None:
        self.count, self.experiment = count, experiment
        self.newest = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
        self.details = [
            {"display_name": "executor", "state": "SUCCEEDED", "task_id": str(uuid.UUID(int=at)), "create_time": NEVER,
             "child_tasks": [{"pod_name": f"ev-battery-health-fault-pipeline-x-{at}"}]}
            for at in range(details)
        ]  # fmt: skip

    def __len__(self) -> int:
        return self.count

    def state(self, index: int) -> str:
        return "FAILED" if index % 10 == 9 else "SUCCEEDED"

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        at = self.newest - timedelta(minutes=index)
        return {
            "run_id": str(uuid.UUID(int=(0xABC << 116) + index)), "display_name": f"synthetic-{index}",
            "experiment_id": self.experiment, "storage_state": "AVAILABLE", "state": self.state(index),
            "created_at": stamp(at), "scheduled_at": stamp(at), "finished_at": stamp(at + timedelta(seconds=40)),
            "runtime_config": {"parameters": {"data_version": "v1"}}, "service_account": "pipeline-runner",
            "run_details": {"task_details": self.details},
        }  # fmt: skip


class World:
    """A Kubeflow's memory. Every public method is one API call; refusals are raised."""

    def __init__(self, *, multi_user: bool = False, namespace: str = "kubeflow") -> None:
        self.lock = threading.RLock()
        self.multi_user, self.namespace = multi_user, namespace
        self.experiments: dict[str, dict[str, Any]] = {}
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, FakeRun] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.synthetic: Sequence[dict[str, Any]] = ()
        self.logs: dict[str, str] = {}
        self.workflows: dict[str, dict[str, Any]] | None = None
        """Argo's own objects, by run id; None for a cluster that shows none."""
        self.plan = Plan()
        self.lives: list[Callable[[str, Mapping[str, Any], Mapping[str, Any]], Life]] = []
        """What the next created runs live through; a played life of their spec where there is none."""
        self.experiment("Default", "All runs created without specifying an experiment will be grouped here.")

    # -- making

    def experiment(self, name: str, description: str = "", namespace: str | None = None) -> dict[str, Any]:
        with self.lock:
            if any(each["display_name"] == name for each in self.experiments.values()):
                raise refusal("experiment_duplicate", contract__exp=name)
            made = {
                "experiment_id": str(uuid.uuid4()), "display_name": name, "created_at": stamp(datetime.now(UTC)),
                "storage_state": "AVAILABLE", "last_run_created_at": NEVER,
            }  # fmt: skip
            if description:
                made["description"] = description
            if namespace:
                made["namespace"] = namespace
            self.experiments[made["experiment_id"]] = made
            return made

    def recorded(self, situation: str, *, run_id: str | None = None, experiment: str | None = None) -> str:
        """Put a recorded run here, its pipeline version too; return its id."""
        life = Recorded(situation)
        document = dict(life.at(0).run)
        document["run_id"] = run_id or document["run_id"]
        if experiment:
            document["experiment_id"] = experiment
        for version in load("api/pipeline_versions.json")["body"]["pipeline_versions"]:
            self.versions.setdefault(version["pipeline_version_id"], version)
            for pipeline in load("api/pipelines_list.json")["body"]["pipelines"]:
                self.pipelines.setdefault(pipeline["pipeline_id"], pipeline)
        self.runs[document["run_id"]] = FakeRun(document, life)
        return str(document["run_id"])

    def upload(self, package: bytes, query: Mapping[str, str]) -> dict[str, Any]:
        spec = _package(package)
        name = query.get("name") or query.get("display_name") or spec["pipeline_spec"]["pipelineInfo"]["name"]
        with self.lock:
            if any(each["display_name"] == name for each in self.pipelines.values()):
                raise refusal("upload_duplicate")
            pipeline = {
                "pipeline_id": str(uuid.uuid4()), "display_name": name, "name": name,
                "created_at": stamp(datetime.now(UTC)), **_optional(query, "description", "namespace"),
            }  # fmt: skip
            self.pipelines[pipeline["pipeline_id"]] = pipeline
            self._version(pipeline["pipeline_id"], name, spec, query)
            return pipeline

    def create_pipeline(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a pipeline without a version."""
        with self.lock:
            name = body.get("name") or body["display_name"]
            if any(each["name"] == name for each in self.pipelines.values()):
                raise Refusal(409, {"code": 6, "message": f"The name {name} already exist", "details": []})
            made = {
                "pipeline_id": str(uuid.uuid4()), "display_name": body.get("display_name") or name, "name": name,
                "created_at": stamp(datetime.now(UTC)), **_optional(body, "description", "namespace"),
            }  # fmt: skip
            self.pipelines[made["pipeline_id"]] = made
            return made

    def upload_version(self, package: bytes, query: Mapping[str, str]) -> dict[str, Any]:
        spec = _package(package)
        pipeline = query.get("pipelineid", "")
        with self.lock:
            if pipeline not in self.pipelines:
                raise Refusal(
                    404, {"error_message": "Failed to create a pipeline version", "error_details": "not found"}
                )
            name = query.get("name") or query.get("display_name") or str(uuid.uuid4())
            if any(v["display_name"] == name and v["pipeline_id"] == pipeline for v in self.versions.values()):
                raise refusal("upload_version_duplicate")
            return self._version(pipeline, name, spec, query)

    def _version(self, pipeline: str, name: str, spec: Any, query: Mapping[str, str]) -> dict[str, Any]:
        made = {
            "pipeline_id": pipeline, "pipeline_version_id": str(uuid.uuid4()), "display_name": name, "name": name,
            "created_at": stamp(datetime.now(UTC)), "pipeline_spec": spec, **_optional(query, "description"),
        }  # fmt: skip
        if query.get("tags"):
            made["tags"] = json.loads(query["tags"])
        self.versions[made["pipeline_version_id"]] = made
        return made

    def create_run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        reference = body.get("pipeline_version_reference") or {}
        if reference:
            version = self.versions.get(reference.get("pipeline_version_id", ""))
            if version is None:
                raise Refusal(404, {"code": 5, "message": "pipeline version not found", "details": []})
            wrapped = version["pipeline_spec"]
        else:
            wrapped = body.get("pipeline_spec")
        if not wrapped:
            raise Refusal(400, {"code": 3, "message": "Failed to create a new run: no pipeline spec", "details": []})
        spec = wrapped.get("pipeline_spec", wrapped)
        parameters = (body.get("runtime_config") or {}).get("parameters") or {}
        _check(spec, parameters)
        run_id = str(uuid.uuid4())
        now = stamp(datetime.now(UTC))
        with self.lock:
            experiment = body.get("experiment_id") or next(iter(self.experiments))
            document = {
                "experiment_id": experiment, "run_id": run_id, "display_name": body.get("display_name", ""),
                "storage_state": "AVAILABLE", **_optional(body, "description"),
                **({"pipeline_version_reference": reference} if reference else {"pipeline_spec": wrapped}),
                "runtime_config": body.get("runtime_config") or {},
                "service_account": body.get("service_account") or "pipeline-runner",
                "created_at": now, "scheduled_at": now,
            }  # fmt: skip
            make = self.lives.pop(0) if self.lives else None
            played = Played(spec, run_id, datetime.now(UTC), parameters, self.plan)
            self.runs[run_id] = FakeRun(document, make(run_id, spec, parameters) if make else played)
            return self.runs[run_id].shown()

    # -- asking

    def run(self, run_id: str) -> FakeRun:
        if run_id not in self.runs:
            kind = "run_not_found" if _ID.fullmatch(run_id) else "run_bad_id"
            raise refusal(kind, id=run_id) if kind == "run_not_found" else refusal(kind, not__a__uuid=run_id)
        return self.runs[run_id]

    def terminate(self, run_id: str) -> dict[str, Any]:
        run = self.run(run_id)
        if run.finished:
            raise refusal("terminate_finished", id=run_id)
        run.life = run.life.terminated(run.age())
        return {}

    def retry(self, run_id: str) -> dict[str, Any]:
        run = self.run(run_id)
        if run.moment().run.get("state") != "FAILED":
            raise refusal("retry_succeeded", id=run_id)
        run.life = run.life.retried(run.age())
        return {}

    def delete_run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.runs:
            raise refusal("delete_not_found", id=run_id)
        del self.runs[run_id]
        return {}

    def list_runs(self, query: Mapping[str, str]) -> dict[str, Any]:
        own = [run.shown() for run in self.runs.values()]
        own.sort(key=lambda run: run["created_at"], reverse="desc" in query.get("sort_by", ""))
        rows: Iterator[dict[str, Any]] = chain(own, self.synthetic) if self.synthetic else iter(own)
        if wanted := query.get("experiment_id"):
            rows = (run for run in rows if run["experiment_id"] == wanted)
        total = len(own) + len(self.synthetic)
        return _page("runs", rows, query, "run_id", total, "runs_bad_token")

    def create_recurring(self, body: Mapping[str, Any]) -> dict[str, Any]:
        cron = ((body.get("trigger") or {}).get("cron_schedule") or {}).get("cron", "")
        if len(cron.split()) not in (5, 6) or not re.fullmatch(r"[\d\s*/,?LW#A-Z-]+", cron):
            raise refusal("recurring_bad_cron", **{"every day": cron})
        now = stamp(datetime.now(UTC))
        enabled = body.get("mode", "ENABLE") != "DISABLE"
        made = {
            "recurring_run_id": str(uuid.uuid4()), "created_at": now, "updated_at": now,
            "service_account": "pipeline-runner", "status": "ENABLED" if enabled else "DISABLED",
            "namespace": self.namespace, **{key: value for key, value in body.items() if value is not None},
        }  # fmt: skip
        self.recurring[made["recurring_run_id"]] = made
        return made

    def switch_recurring(self, recurring_id: str, action: str) -> dict[str, Any]:
        if recurring_id not in self.recurring:
            raise refusal("recurring_delete_again", id=recurring_id)
        if action == "delete":
            del self.recurring[recurring_id]
        else:
            self.recurring[recurring_id] |= {"mode": action.upper(), "status": f"{action.upper()}D"}
        return {}

    def metadata(self, run_id: str) -> dict[str, Any] | None:
        """Return ML Metadata's recorded-shape answers of a run."""
        run = self.runs.get(run_id)
        return run.moment().metadata if run else None


def listed(key: str, rows: Iterator[dict[str, Any]], query: Mapping[str, str], id_name: str) -> dict[str, Any]:
    """Answer a listing of a small collection."""
    kept = sorted(rows, key=lambda row: row["created_at"], reverse="desc" in query.get("sort_by", ""))
    return _page(key, iter(kept), query, id_name, len(kept), "runs_bad_token")


def _page(
    key: str, rows: Iterator[dict[str, Any]], query: Mapping[str, str], id_name: str, total: int, bad: str
) -> dict[str, Any]:
    size = min(int(query.get("page_size") or 0) or 20, 200)
    start = 0
    if token := query.get("page_token"):
        try:
            start = int(json.loads(base64.b64decode(token, validate=True))["KeyFieldPrefix"])
        except (ValueError, KeyError) as error:
            raise refusal(bad) from error
    kept = (row for row in rows if _matches(row, query.get("filter")))
    page = list(islice(kept, start, start + size + 1))
    if not page:
        return {}
    answer: dict[str, Any] = {key: page[:size], "total_size": total}
    if len(page) > size:
        raw = {"KeyFieldName": "UUID", "KeyFieldValue": page[size][id_name], "KeyFieldPrefix": str(start + size)}
        answer["next_page_token"] = base64.b64encode(json.dumps(raw).encode()).decode()
    return answer


def _matches(row: Mapping[str, Any], text: str | None) -> bool:
    for predicate in json.loads(text).get("predicates", ()) if text else ():
        known = row.get({"name": "display_name", "id": "run_id"}.get(predicate["key"], predicate["key"]))
        operation = predicate["operation"]
        value = next((v for k, v in predicate.items() if k.lower().replace("_", "").endswith("value")), None)
        several = next(
            (v["values"] for k, v in predicate.items() if k.lower().replace("_", "").endswith("values")), None
        )
        if operation in ("EQUALS", 1):
            good = known == value
        elif operation in ("IN", 8):
            good = several is not None and known in several
        elif operation in ("IS_SUBSTRING", 9):
            good = str(value) in str(known or "")
        elif operation in ("GREATER_THAN_EQUALS", 5):
            good = str(known or "") >= str(value)
        else:
            raise Refusal(400, {"code": 3, "message": f"unknown operation {operation}", "details": []})
        if not good:
            return False
    return True


def _package(text: bytes) -> dict[str, Any]:
    try:
        documents = list(yaml.safe_load_all(text))
        spec = documents[0]
        assert "root" in spec and "pipelineInfo" in spec
    except (yaml.YAMLError, AssertionError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise refusal("upload_invalid") from error
    return {"pipeline_spec": spec, "platform_spec": documents[1]} if len(documents) > 1 else spec


def _check(spec: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, value in parameters.items():
        if name not in known:
            raise refusal("run_unknown_param", nope=name)
        types, said = _KINDS[known[name]["parameterType"]]
        if not isinstance(value, types) or (bool not in types and isinstance(value, bool)):
            answer = refusal("run_wrong_type").body
            prefix = answer["message"].partition("input parameter")[0]
            words = f"input parameter {name} {said}"
            raise Refusal(
                400, {**answer, "message": prefix + words, "details": [{**answer["details"][0], "message": words}]}
            )


def _optional(query: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: query[name] for name in names if query.get(name)}
