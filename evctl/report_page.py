"""One run as one self-contained page: the decision first, then what it rests on. All values are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ev_ml import html_charts as charts
from ev_ml.evaluation_html import evaluation_sections, figures
from ev_ml.html_page import facts, page, section, table

TOP_FEATURES = 12


def report_page(
    run: Mapping[str, Any],
    *,
    evaluation: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    drift: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        run: `evctl status -o json`'s document.
        evaluation: `ev_ml.evaluate.Evaluation` as a dict.
        validation: `ev_ml.validate.ValidationReport` as a dict.
        drift: the newest check against this run's model, as kept in the history.
        provenance: names and values from the bundle's manifest and the run's artifacts.
    """
    name = str(run.get("name") or run.get("run_id"))
    finished = run.get("finished_at") or "not finished"
    head = (
        f"<h1>{escape(name)}</h1>"
        f'<p class="soft">run <code>{escape(str(run.get("run_id")))}</code>, {escape(str(run.get("env")))}, '
        f"{escape(str(finished))}</p>"
    )
    body = (
        head
        + decision(run)
        + (figures(evaluation) if evaluation else "")
        + (evaluation_sections(evaluation) if evaluation else _no_evaluation())
        + section("Drift against this model's reference", _drift(drift))
        + section("Data quality", _quality(validation))
        + section("Tasks", _tasks(run.get("tasks") or ()))
        + section("Provenance", facts({**_parameters(run), **(provenance or {})}))
    )
    return page(f"{name}: {_verdict(run)[1]}", body)


def decision(run: Mapping[str, Any]) -> str:
    """Return the box that says what came of the run and why."""
    style, verdict = _verdict(run)
    gate = run.get("gate") or {}
    lines = []
    if gate.get("accuracy") is not None and gate.get("threshold") is not None:
        lines.append(f"accuracy {float(gate['accuracy']):.4f} against a threshold of {float(gate['threshold']):.4f}")
    lines += [str(reason) for reason in gate.get("reasons") or ()]
    failed = next((t for t in run.get("tasks") or () if t.get("state") == "FAILED"), None)
    if failed:
        lines.append(f"{failed.get('name')}: {failed.get('reason') or 'no reason recorded'}")
    elif run.get("reason"):
        lines.append(str(run["reason"]))
    model = run.get("model") or {}
    if model.get("version"):
        lines.append(f"model {model['version']} at {model.get('uri')}")
    lines += [f"warning: {warning}" for warning in run.get("warnings") or ()]
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="decision {style}"><b>{escape(verdict)}</b>{text}</div>'


def _verdict(run: Mapping[str, Any]) -> tuple[str, str]:
    state, gate = str(run.get("state")), (run.get("gate") or {}).get("decision")
    if state == "CANCELED":
        return "warn", "Cancelled"
    if state == "FAILED":
        return "bad", "Failed"
    if gate == "refused":
        return "bad", "Refused by the gate"
    if run.get("model"):
        return "good", "Registered"
    return "warn", "Finished without a model" if state == "SUCCEEDED" else f"Not finished ({state.lower()})"


def _no_evaluation() -> str:
    return section(
        "Evaluation", '<p class="soft">The run has no evaluation: it ended before, or its files are gone.</p>'
    )


def _drift(check: Mapping[str, Any] | None) -> str:
    if not check:
        return '<p class="soft">No drift check of this model yet: <code>evctl drift --data-version V</code></p>'
    said = f"{check.get('verdict')}: {check.get('data')} on {check.get('at')}, "
    said += f"{check.get('rows', 0):,} rows of {check.get('vehicles', 0):,} vehicles"
    reasons = "".join(f"<p>{escape(str(reason))}</p>" for reason in check.get("reasons") or ())
    key = '<ul class="legend"><li class="ref">reference</li><li>new data</li></ul>'
    drawn = "".join(
        charts.histograms(
            h["reference"],
            h["new"],
            low=f"{h['low']:.4g}",
            high=f"{h['high']:.4g} {h.get('unit') or ''}".strip(),
            title=str(h["name"]).replace("_", " "),
        )
        for h in check.get("histograms") or ()
    )
    rows = [
        (
            f["name"],
            f["metric"],
            f"{f['value']:.3f}",
            f"{f['threshold']:.3f}",
            "drifted" if f["drifted"] else "",
        )
        for f in [*(check.get("features") or ())[:TOP_FEATURES], *_outputs(check.get("score") or {})]
    ]
    heads = ("feature", "metric", "value", "threshold", "")
    listed = table(heads, rows, frozenset({2, 3})) if rows else ""
    grid = f'{key}<div class="grid">{drawn}</div>' if drawn else ""
    return f"<p>{escape(said)}</p>{reasons}{grid}{listed}"


def _outputs(score: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the model's score and class rates as two more lines of the table."""
    classes = score.get("classes")
    found = [{**score, "name": "the model's score"}] if score else []
    return [*found, {**classes, "name": "predicted classes"}] if classes else [*found]


def _quality(validation: Mapping[str, Any] | None) -> str:
    if not validation:
        return ""
    total = max(1, int(validation.get("rows") or 0))
    said = facts(
        {
            "rows": f"{validation.get('rows', 0):,}",
            "kept": f"{validation.get('kept', 0):,}",
            "set aside": f"{validation.get('quarantined', 0):,} ({float(validation.get('share') or 0):.2%})",
            "vehicles": f"{validation.get('vehicles', 0):,}",
        }
    )
    reasons = sorted((validation.get("reasons") or {}).items(), key=lambda item: item[1], reverse=True)
    rows = [(reason.replace("_", " "), f"{count:,}", f"{count / total:.3%}") for reason, count in reasons]
    return said + (table(("set aside because", "rows", "share"), rows, frozenset({1, 2})) if rows else "")


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            task.get("name"),
            str(task.get("state", "")).lower(),
            "" if task.get("duration_s") is None else f"{float(task['duration_s']):.1f} s",
            task.get("attempts") or "",
            task.get("reason") or "",
        )
        for task in tasks
    ]
    return table(("task", "state", "time", "attempts", "why"), rows, frozenset({2, 3})) if rows else ""


def _parameters(run: Mapping[str, Any]) -> dict[str, Any]:
    return {f"parameter {name}": value for name, value in (run.get("parameters") or {}).items()}
