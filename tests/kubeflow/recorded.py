"""The recordings as the join wants them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from evctl.backends.kubeflow import pods as pod_reader
from evctl.backends.kubeflow.join import Sources
from evctl.backends.metadata import proto, values
from evctl.backends.spec import unwrap

ROOT = Path(__file__).parents[1] / "recordings" / "kubeflow-2.17"
SITUATIONS = tuple(sorted(folder.name for folder in (ROOT / "runs").iterdir()))


def load(name: str) -> Any:
    return json.loads((ROOT / name).read_text())


def uploaded_spec() -> dict[str, Any]:
    body = load("api/pipeline_versions.json")["body"]
    spec, _ = unwrap(body["pipeline_versions"][0]["pipeline_spec"])
    assert spec is not None
    return spec


def metadata(answers: dict[str, Any]) -> values.RunMetadata:
    def parse(method: str) -> Any:
        return json_format.ParseDict(
            answers.get(method, {}), proto.message(f"{method}Response")(), ignore_unknown_fields=True
        )

    executions = tuple(
        sorted((values.execution(e) for e in parse("GetExecutionsByContext").executions), key=lambda e: e.id)
    )
    return values.RunMetadata(
        executions,
        tuple(values.link(e) for e in parse("GetEventsByExecutionIDs").events),
        {a.id: values.artifact(a) for a in parse("GetArtifactsByID").artifacts},
    )


def situation(name: str, *, mlmd: bool = True, pods: bool = True, **changes: Any) -> Sources:
    folder = ROOT / "runs" / name
    run = load(f"runs/{name}/run.json")
    spec, _ = unwrap(run.get("pipeline_spec"))
    has_mlmd = (folder / "mlmd.json").exists() and mlmd
    events = load(f"runs/{name}/pod_events.json") if (folder / "pod_events.json").exists() else []
    items = load(f"runs/{name}/pods.json")
    return Sources(
        run=run,
        spec=spec or uploaded_spec(),
        metadata=metadata(load(f"runs/{name}/mlmd.json")) if has_mlmd else None,
        metadata_down=not has_mlmd,
        pods=pod_reader.read(items, events) if pods else None,
        env="dev",
        **changes,
    )


def timeline(name: str) -> list[tuple[float, Sources]]:
    # these runs were made from an uploaded version, whose spec is fetched apart
    found = []
    for sample in (s for s in load(f"timelines/{name}.json") if "run" in s):
        own, _ = unwrap(sample["run"].get("pipeline_spec"))
        spec = own or uploaded_spec()
        answers = {
            "GetExecutionsByContext": {"executions": sample["mlmd"].get("executions", [])},
            "GetEventsByExecutionIDs": {"events": sample["mlmd"].get("events", [])},
        }
        found.append((sample["t"], Sources(run=sample["run"], spec=spec, metadata=metadata(answers), env="dev")))
    return found
