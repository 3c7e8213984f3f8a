"""An evaluation as one HTML page, for KFP's own viewer and as the middle of `evctl report`.

    Path(html.path).write_text(evaluation_html(json.loads(found.to_json())))    # html: dsl.Output[dsl.HTML]

`evaluation` is `Evaluation.to_json()` parsed. What a document lacks is left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ev_ml import html_charts as charts
from ev_ml.html_page import page, section, table, tiles


def evaluation_html(evaluation: Mapping[str, Any], *, title: str = "Evaluation on held-out vehicles") -> str:
    """Return a whole page about an evaluation."""
    from html import escape

    return page(title, f"<h1>{escape(title)}</h1>{figures(evaluation)}{evaluation_sections(evaluation)}")


def figures(evaluation: Mapping[str, Any]) -> str:
    """Return the headline figures as tiles."""
    named = (
        ("accuracy", "accuracy", "{:.3f}"),
        ("recall", "recall over faults", "{:.3f}"),
        ("pr_auc", "PR-AUC, any fault", "{:.3f}"),
        ("roc_auc", "ROC-AUC", "{:.3f}"),
        ("false_alarms_per_1000", "false alarms per 1,000", "{:.1f}"),
        ("ece", "calibration error", "{:.3f}"),
        ("vehicles", "held-out vehicles", "{:,.0f}"),
    )
    values = {
        label: form.format(float(evaluation[key]))
        for key, label, form in named
        if isinstance(evaluation.get(key), (int, float))
    }
    return tiles(values) if values else ""


def evaluation_sections(evaluation: Mapping[str, Any]) -> str:
    """Return the sections of plots."""
    return "".join(
        (
            section("Which fault is taken for which", _confusion(evaluation)),
            section("Recall per class", _recalls(evaluation)),
            section("Any fault against healthy", _curves(evaluation)),
            section("As sure as it is right", _calibration(evaluation)),
            section("What the model looks at", _importances(evaluation)),
        )
    )


def _confusion(evaluation: Mapping[str, Any]) -> str:
    labels, counts = evaluation.get("classes") or (), evaluation.get("confusion") or ()
    if not labels or not counts:
        return ""
    return charts.matrix(labels, counts, title="Sessions of held-out vehicles; a row adds up to 100 %")


def _recalls(evaluation: Mapping[str, Any]) -> str:
    per_class: Mapping[str, Mapping[str, Any]] = evaluation.get("per_class") or {}
    if not per_class:
        return ""
    bars = [
        charts.Bar(
            name,
            value.get("recall", 0.0),
            value.get("low"),
            value.get("high"),
            f"{value.get('recall', 0):.3f}",
        )
        for name, value in per_class.items()
    ]
    rows = [
        (
            name.replace("_", " "),
            f"{value.get('recall', 0.0):.3f}",
            f"{value['low']:.3f} to {value['high']:.3f}" if "low" in value and "high" in value else "",
            f"{value.get('precision', 0.0):.3f}",
            f"{value.get('support', 0):,.0f}",
        )
        for name, value in per_class.items()
    ]
    heads = ("class", "recall", "95 % interval", "precision", "sessions")
    drawn = charts.bars(bars, title="Recall with its 95 % bootstrap interval over vehicles", top=1.0)
    listed = table(heads, rows, frozenset({1, 2, 3, 4}))
    return f'<div class="grid">{drawn}<figure><figcaption>In figures</figcaption>{listed}</figure></div>'


def _curves(evaluation: Mapping[str, Any]) -> str:
    drawn = []
    if evaluation.get("roc"):
        lines = [
            charts.Line("model", [(x, y) for x, y in evaluation["roc"]]),
            charts.Line("chance", [(0, 0), (1, 1)], dashed=True),
        ]
        drawn.append(charts.curve(lines, x="false alarm rate", y="recall", title="ROC"))
    if evaluation.get("pr"):
        base = float(evaluation.get("prevalence") or 0.0)
        lines = [
            charts.Line("model", [(x, y) for x, y in evaluation["pr"]]),
            charts.Line("chance", [(0, base), (1, base)], dashed=True),
        ]
        drawn.append(charts.curve(lines, x="recall", y="precision", title="Precision against recall"))
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else ""


def _calibration(evaluation: Mapping[str, Any]) -> str:
    bins = evaluation.get("calibration") or ()
    if not bins:
        return ""
    lines = [
        charts.Line("model", [(sure, right) for sure, right, _ in bins]),
        charts.Line("perfect", [(0, 0), (1, 1)], dashed=True),
    ]
    drawn = charts.curve(lines, x="confidence", y="share that was right", title="Calibration")
    rows = [(f"{sure:.3f}", f"{right:.3f}", f"{count:,.0f}") for sure, right, count in bins]
    listed = table(("confidence", "right", "sessions"), rows, frozenset({0, 1, 2}))
    return f'<div class="grid">{drawn}<figure><figcaption>In figures</figcaption>{listed}</figure></div>'


def _importances(evaluation: Mapping[str, Any]) -> str:
    items = sorted((evaluation.get("importances") or {}).items(), key=lambda item: item[1], reverse=True)[:15]
    bars = [charts.Bar(name, float(value)) for name, value in items if value > 0]
    return charts.bars(bars, title="Accuracy lost when a feature is shuffled") if bars else ""
