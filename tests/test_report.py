from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ev_ml.evaluation_html import evaluation_html
from evctl.backends.base import Artifact, Gate, Outputs, RegisteredModel, Run, RunState, TaskState, TaskStatus
from evctl.commands.compare import compare_lines
from evctl.compare import comparison
from evctl.drift import history
from evctl.errors import FailedError
from evctl.profile import Profile, StoreSettings
from evctl.report import render
from evctl.report_page import report_page

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'</style></svg>&amp;\u202e"
VOID = {"meta", "br", "img", "path", "rect", "input", "hr", "link"}
EVALUATION = {
    "accuracy": 0.95,
    "recall": 0.9,
    "pr_auc": 0.97,
    "roc_auc": 0.98,
    "prevalence": 0.3,
    "false_alarms_per_1000": 12.5,
    "vehicles": 79,
    "classes": ["healthy", "internal_short"],
    "confusion": [[90, 10], [5, 95]],
    "per_class": {
        "healthy": {"recall": 0.9, "precision": 0.94, "support": 100, "low": 0.8, "high": 0.95},
        "internal_short": {"recall": 0.95, "precision": 0.9, "support": 100, "low": 0.9, "high": 1.0},
    },
    "roc": [[0, 0], [0.1, 0.9], [1, 1]],
    "pr": [[0, 1], [0.9, 0.9], [1, 0.3]],
    "importances": {"spread_mean_v": 0.2, "gap": 0.1, "none": -0.01},
    "chosen": "hist_gradient_boosting",
    "ece": 0.02,
    "calibration": [[0.5, 0.45, 20], [0.97, 0.99, 180]],
}
RUN = {
    "run_id": "3f2a91c0",
    "name": "ev-battery",
    "env": "local",
    "state": "SUCCEEDED",
    "finished_at": "2026-11-23T19:00:00Z",
    "parameters": {"data_version": "v1"},
    "tasks": [{"name": "train", "state": "SUCCEEDED", "attempts": 1, "duration_s": 3.0, "reason": None}],
    "gate": {"decision": "passed", "accuracy": 0.95, "threshold": 0.9, "reasons": []},
    "model": {"version": "v1-abc", "uri": "file:///s/v1-abc/"},
    "url": None,
}
CHECK = {
    "verdict": "DRIFT",
    "data": "v3",
    "at": "2026-11-23T20:00:00Z",
    "model": "v1-abc",
    "rows": 10,
    "vehicles": 2,
    "reasons": ["moved"],
    "features": [{"name": "f", "metric": "psi", "value": 1.0, "threshold": 0.1, "drifted": True}],
    "score": {
        "metric": "psi",
        "value": 0.5,
        "threshold": 0.1,
        "drifted": True,
        "classes": {"metric": "psi", "value": 0.01, "threshold": 0.2, "drifted": False},
    },
    "histograms": [{"name": "f", "unit": "V", "low": 0, "high": 1, "reference": [0.5, 0.5], "new": [0.1, 0.9]}],
}
VALIDATION = {"rows": 100, "kept": 90, "quarantined": 10, "share": 0.1, "vehicles": 5, "reasons": {"gap:x": 10}}


class Structure(HTMLParser):
    """Checks that tags close in order and keeps tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def poisoned(value):
    """Put a hostile string in the place of every string, keys of free mappings too."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [poisoned(entry) for entry in value]
    if isinstance(value, dict):
        free = not set(value) & (
            set(RUN) | set(CHECK) | set(EVALUATION) | {"recall", "decision", "version", "name", "metric"}
        )
        return {(key + HOSTILE if free else key): poisoned(entry) for key, entry in value.items()}
    return value


def test_the_page_says_the_decision_before_everything_else():
    html = report_page(RUN, evaluation=EVALUATION, validation=VALIDATION, drift=CHECK)
    text = Structure(html).text
    assert text.index("Registered") < text.index("accuracy") < text.index("Recall per class")
    assert text.index("Recall per class") < text.index("Drift against") < text.index("Provenance")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None, "gate": {"decision": "refused", "accuracy": 0.8, "threshold": 0.9}}, "Refused by the gate"),
        ({"state": "FAILED", "model": None}, "Failed"),
        ({"state": "CANCELED", "model": None}, "Cancelled"),
        ({"state": "RUNNING", "model": None}, "Not finished"),
    ],
)
def test_each_end_is_named(change, words):
    assert words in Structure(report_page(RUN | change)).text


def test_the_models_own_outputs_are_in_the_drift_table_and_whom_nobody_told_is_said():
    run = RUN | {"warnings": ["not told how it ended: hook after 3 attempt(s): no answer"]}
    text = Structure(report_page(run, drift=CHECK)).text
    assert "the model's scorepsi0.5000.100drifted" in text
    assert "predicted classes" in text
    assert "not told how it ended: hook" in text


def test_a_run_that_failed_before_any_task_says_why():
    change = {"state": "FAILED", "model": None, "reason": "the worker died"}
    assert "the worker died" in Structure(report_page(RUN | change)).text


def test_hostile_strings_in_every_field_stay_text():
    html = report_page(
        poisoned(RUN),
        evaluation=poisoned(EVALUATION),
        validation=poisoned(VALIDATION),
        drift=poisoned(CHECK),
        provenance={HOSTILE: HOSTILE},
    )
    page = Structure(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "\u202e" not in html


def test_the_page_needs_no_network_and_knows_dark_light_and_print():
    html = report_page(RUN, evaluation=EVALUATION, drift=CHECK)
    page = Structure(html)
    assert not [value for name, value in page.attributes if name in {"src", "href"}]
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme:dark" in html
    assert "@media print" in html


def test_a_run_that_left_nothing_still_makes_a_page():
    text = Structure(report_page({"run_id": "x", "state": "FAILED"})).text
    assert "no evaluation" in text


def test_an_evaluation_is_a_page_of_its_own_for_kubeflow():
    page = Structure(evaluation_html(EVALUATION))
    assert page.tags.count("svg") == 5
    assert "internal short" in page.text
    Structure(evaluation_html({}))


def test_not_a_number_draws_nothing_broken():
    nan = float("nan")
    html = evaluation_html(EVALUATION | {"roc": [[0, nan], [nan, 1], [1, 1]], "recall": nan})
    assert 'points="nan' not in html
    Structure(html)


def a_run(**changes) -> Run:
    at = datetime(2026, 11, 23, 19, tzinfo=UTC)
    later = datetime(2026, 11, 23, 19, 1, tzinfo=UTC)
    task = TaskStatus("train_fault_classifier", TaskState.SUCCEEDED, attempts=1, started_at=at, finished_at=later)
    values = {
        "run_id": "r1",
        "name": "n",
        "env": "local",
        "state": RunState.SUCCEEDED,
        "created_at": at,
        "finished_at": later,
        "parameters": {"data_version": "v1"},
        "tasks": (task,),
        "gate": Gate("passed", 0.95, 0.9),
        "model": RegisteredModel("v1-abc", "file:///s/v1-abc/"),
    }
    return Run(**(values | changes))


def some_outputs(folder: Path, **metrics) -> Outputs:
    path = folder / "evaluation.json"
    path.write_text(json.dumps(EVALUATION))
    return Outputs(
        "r1",
        {"evaluate_fault_model.recall": 0.9, "register_fault_model.model_digest": "d1"},
        (
            Artifact("evaluate_fault_model", "evaluation", "Artifact", "u", str(path)),
            Artifact("evaluate_fault_model", "metrics", "system.Metrics", "u", metadata={"pr_auc": 0.97, **metrics}),
            Artifact("ingest_battery_data", "raw_data", "Dataset", "u", metadata={"digest": "abc", "rows": 7}),
        ),
    )


def no_fetch(artifact, target):
    raise FailedError("gone")


def test_a_report_gathers_artifacts_and_the_newest_check_of_its_model(tmp_path, stranger):
    profile = Profile(name="local", store=StoreSettings(uri=str(tmp_path)))
    history.append("local", CHECK | {"verdict": "OK", "model": "other"})
    history.append("local", CHECK)
    text = Structure(render(profile, a_run(), some_outputs(tmp_path), no_fetch)).text
    for word in ("Registered", "DRIFT: v3", "hist_gradient_boosting", "abc", "d1", "Recall per class"):
        assert word in text


def test_the_commit_and_the_libraries_come_from_the_models_manifest(tmp_path, stranger):
    folder = tmp_path / "store" / "models" / "m" / "v1-abc"
    folder.mkdir(parents=True)
    made = {"git_commit": "c0ffee", "pipeline_digest": "d1ce"}
    manifest = {"digest": "abcdef", "provenance": made, "versions": {"numpy": "2.4.6", HOSTILE: HOSTILE}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    profile = Profile(name="local", store=StoreSettings(uri=str(tmp_path / "store")))
    run = a_run(model=RegisteredModel("v1-abc", f"file://{folder}/"))
    page = Structure(render(profile, run, some_outputs(tmp_path), no_fetch))
    for word in ("c0ffee", "d1ce", "abcdef", "numpy 2.4.6"):
        assert word in page.text
    assert "script" not in page.tags


def test_artifacts_that_are_gone_or_no_json_are_left_out(tmp_path, stranger):
    profile = Profile(name="local", store=StoreSettings(uri=str(tmp_path)))
    outputs = some_outputs(tmp_path)
    (tmp_path / "evaluation.json").write_text("{torn")
    assert "no evaluation" in Structure(render(profile, a_run(), outputs, no_fetch)).text
    (tmp_path / "evaluation.json").unlink()
    assert "no evaluation" in Structure(render(profile, a_run(), outputs, no_fetch)).text


def test_a_comparison_gives_differences_and_what_changed(tmp_path):
    other = a_run(
        run_id="r2",
        parameters={"data_version": "v2"},
        gate=Gate("refused", 0.85, 0.9, ("0.85 < 0.90",)),
        model=None,
        tasks=(TaskStatus("train_fault_classifier", TaskState.CACHED, cached=True),),
    )
    found = comparison(a_run(), some_outputs(tmp_path), other, some_outputs(tmp_path, pr_auc=0.9))
    assert found["parameters"]["data_version"] == {"first": "v1", "second": "v2", "changed": True}
    assert found["metrics"]["accuracy"]["difference"] == -0.1
    assert found["metrics"]["pr_auc"]["difference"] == pytest.approx(-0.07)
    assert list(found["metrics"])[:3] == ["accuracy", "recall", "pr_auc"]
    assert found["gate"]["decision"]["changed"]
    assert found["tasks"][0]["states"] == ["SUCCEEDED", "CACHED"]
    json.dumps(found, allow_nan=False)


def test_whole_numbers_read_whole_and_what_changed_is_marked(tmp_path):
    rows = {"first": 208737.0, "second": 10752.0, "changed": True}
    found = comparison(a_run(), None, a_run(run_id="r2"), None) | {"data": {"rows": rows}}
    [line] = [line for line in map(str, compare_lines(found)) if "data rows" in line]
    assert "208,737" in line
    assert line.rstrip().endswith("changed")


def test_a_comparison_fits_a_terminal_and_json_keeps_whole_digests(tmp_path):
    digests = {"first": "a" * 64, "second": "b" * 64, "changed": True}
    found = comparison(a_run(), None, a_run(run_id="r2"), None) | {"data": {"digest": digests}}
    [line] = [line for line in compare_lines(found) if line.startswith("data digest")]
    assert line.split()[2:] == ["a" * 12, "b" * 12, "changed"]
    assert max(map(len, compare_lines(found))) < 120
    assert found["data"]["digest"]["first"] == "a" * 64


def test_a_run_compared_with_itself_changes_nothing(tmp_path):
    outputs = some_outputs(tmp_path)
    found = comparison(a_run(), outputs, a_run(), outputs)
    assert found["tasks"] == []
    assert all(entry["difference"] == 0 for entry in found["metrics"].values())


def test_runs_without_outputs_can_be_compared():
    found = comparison(a_run(), None, a_run(run_id="r2", state=RunState.FAILED, finished_at=None), None)
    assert found["durations"]["run"] == {"first": 60.0, "second": None, "difference": None}
