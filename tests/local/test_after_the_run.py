"""After the run, through the command line: how it ended is told once and truly; new data is checked, told of, trained on.

One small product is run once; each test has a copy of its state.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from ev_ml.simulate import fleet, simulate, simulate_vehicle
from tests.fakes.receiver import Inbox, Receiver
from tests.local.product import Gate, Product, until

pytestmark = [pytest.mark.local, pytest.mark.slow, pytest.mark.xdist_group("after")]

VERSIONS = {
    "v1": {"fleet": "v1", "vehicles": 64},
    "v2": {"fleet": "v2", "vehicles": 64},
    "v3": {"fleet": "v3", "vehicles": 40},
    "v3-later": {"fleet": "v3", "vehicles": 80, "seed": 5},
}
SECRETS = {"HOOK_KEY": "k3y-of-the-hook"}
TOKEN = "t0ken-in-the-url"
VEHICLES = tuple(simulate_vehicle(fleet("v1"), index)["vehicle_id"][0].as_py() for index in range(8))


def channels(**urls: str) -> dict[str, Any]:
    """Return notify settings of webhooks whose URLs are in the environment."""
    os.environ.update({f"URL_{name.upper()}": url for name, url in urls.items()})
    entries = [{"name": n, "kind": "webhook", "url_env": f"URL_{n.upper()}", "hmac_env": "HOOK_KEY"} for n in urls]
    return {"notify": {"channels": entries, "attempts": 2, "timeout_s": 2}}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("HOOK", "DEAD", "FLAKY", "SLOW", "MAIL"):
        monkeypatch.setenv(f"URL_{name}", "")


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with Receiver(path=f"/hook?token={TOKEN}") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Receiver]]:
    """A product with one registered model, and what its channel heard."""
    folder = tmp_path_factory.mktemp("lived")
    product = Product(folder / "work", folder / "state")
    with Receiver(path=f"/hook?token={TOKEN}") as receiver, pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        product.profile(VERSIONS, **channels(hook=receiver.url))
        code, out, err = product.ask("run", "-o", "json")
        assert code == 0, err
        receiver.run = json.loads(out)
        yield folder, receiver


@pytest.fixture
def registered(lived: tuple[Path, Receiver], product: Product) -> Product:
    """A copy of that product; its store stays where it was."""
    shutil.copytree(lived[0] / "state", product.home, dirs_exist_ok=True)
    store = {"store": {"uri": str(lived[0] / "state" / "store")}}
    write = product.profile
    product.profile = lambda versions, **more: write(versions, **(store | more))  # type: ignore[method-assign]
    return product


def told(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in receiver.requests]


def report_of(product: Product) -> str:
    """Return the newest run's page."""
    code, _, err = product.ask("report", "@latest", "-f", "page.html")
    assert code == 0, err
    return (product.folder / "page.html").read_text()


def hears_no_secret(receiver: Receiver) -> None:
    for headers, body in receiver.requests:
        said = body.decode() + str({k: v for k, v in headers.items() if k != "X-Evctl-Signature"})
        for word in (*SECRETS.values(), TOKEN, *VEHICLES):
            assert word not in said


# --- how a run ended


def test_a_registered_run_is_told_once_signed_and_truly(lived: tuple[Path, Receiver]) -> None:
    receiver, run = lived[1], lived[1].run
    [(headers, body)] = receiver.requests
    message = json.loads(body)
    assert message["event"] == "registered"
    assert message["run_id"] == run["run_id"]
    assert message["model_version"] == run["model"]["version"]
    assert message["accuracy"] == pytest.approx(run["gate"]["accuracy"])
    signed = hmac.new(SECRETS["HOOK_KEY"].encode(), headers["X-Evctl-Timestamp"].encode() + b"." + body, hashlib.sha256)
    assert headers["X-Evctl-Signature"] == f"sha256={signed.hexdigest()}"
    assert run["warnings"] == []
    hears_no_secret(receiver)


def test_a_refused_run_is_told_once_with_the_gates_figures(registered: Product, hook: Receiver) -> None:
    registered.profile(VERSIONS, accuracy_threshold=0.9999, **channels(hook=hook.url))
    code, _, err = registered.ask("run")
    assert code == 5, err
    [message] = told(hook)
    assert message["event"] == "refused"
    assert "refused by the gate" in message["title"]
    assert message["threshold"] == 0.9999
    assert message["accuracy"] < 0.9999
    assert "0.9999" in message["reason"]
    hears_no_secret(hook)
    page = report_of(registered)
    assert "<b>Refused by the gate</b>" in page
    assert "Recall per class" in page


def test_a_failed_run_is_told_once_and_not_again_when_its_retry_ends_the_same(
    product: Product, hook: Receiver, few_vehicles: Path
) -> None:
    source = product.folder / "telemetry.csv"
    source.parent.mkdir(exist_ok=True)
    shutil.copy(few_vehicles, source)
    product.profile({"v1": {"uri": str(source)}}, **channels(hook=hook.url))
    code, _, err = product.ask("run")
    assert code == 1, err
    [message] = told(hook)
    assert message["event"] == "failed"
    assert message["task"] == "validate_battery_data"
    assert "4 vehicle(s) left, at least 20 are needed" in message["reason"]
    hears_no_secret(hook)
    page = report_of(product)
    assert "<b>Failed</b>" in page
    assert "validate_battery_data: 4 vehicle(s) left" in page
    assert product.ask("retry", "@latest")[0] == 1
    assert [m["event"] for m in told(hook)] == ["failed"]
    _, run = product.status()
    assert "channel hook: duplicate" in product.ask("logs", "@latest", "notify_pipeline_status")[1]
    assert run["warnings"] == []


def test_a_cancelled_run_is_told_once(product: Product, gate: Gate, hook: Receiver) -> None:
    product.profile({"v1": {"uri": gate.uri}}, **channels(hook=hook.url))
    assert product.ask("run", "--detach")[0] == 0
    assert gate.asked.wait(60)
    assert "<b>Not finished (running)</b>" in report_of(product)
    assert product.ask("cancel", "@latest")[0] == 0
    code, run = product.ended()
    assert (code, run["state"]) == (1, "CANCELED")
    [message] = told(hook)
    assert message["event"] == "canceled"
    assert "cancelled" in message["title"]
    assert "<b>Cancelled</b>" in report_of(product)


def test_dead_slow_and_failing_channels_are_retried_told_in_status_and_fail_nothing(registered: Product) -> None:
    with (
        Receiver(answers=(500, 200)) as flaky,
        Receiver(delay=30.0) as slow,
        Receiver() as living,
        socket.socket() as reserved,
    ):
        reserved.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{reserved.getsockname()[1]}/x?token={TOKEN}"
        settings = channels(dead=dead, slow=slow.url, flaky=flaky.url, hook=living.url)
        settings["notify"]["timeout_s"] = 0.5
        registered.profile(VERSIONS, **settings)
        code, out, err = registered.ask("run", "-o", "json")
    assert code == 0, err
    run = json.loads(out)
    assert run["state"] == "SUCCEEDED"
    [warning] = run["warnings"]
    assert "dead after 2 attempt(s): no answer: Connection refused" in warning
    assert "slow after 2 attempt(s)" in warning
    assert "flaky" not in warning
    assert TOKEN not in out + err
    assert [len(each.requests) for each in (flaky, slow, living)] == [2, 2, 1]
    assert "warning: not told how it ended: dead" in "".join(registered.ask("status", "@latest")[1:])


def test_notify_test_reaches_each_channel_and_says_which_did_not_take_it(product: Product) -> None:
    with Receiver() as living, Inbox() as mail:
        settings = channels(hook=living.url)
        os.environ["URL_MAIL"] = mail.url
        settings["notify"]["channels"].append({"name": "mail", "kind": "apprise", "url_env": "URL_MAIL"})
        product.profile(VERSIONS, **settings)
        code, out, err = product.ask("notify", "test", "-o", "json")
        assert code == 0, err
        assert [c["status"] for c in json.loads(out)["channels"]] == ["sent", "sent"]
        assert told(living)[0]["event"] == "test"
        assert "A test from evctl" in until(lambda: mail.text() or None)
        os.environ["URL_HOOK"] = "http://127.0.0.1:1/x"
        code, out, err = product.ask("notify", "test", "-o", "json")
    assert code == 9
    assert [(c["name"], c["status"]) for c in json.loads(out)["channels"]] == [("hook", "failed"), ("mail", "sent")]


def test_a_channel_whose_url_is_a_file_of_an_applied_secret_is_found_by_a_test_message_too(
    product: Product, tmp_path: Path
) -> None:
    with Receiver(path=f"/hook?token={TOKEN}") as hook:
        channel = {"name": "hook", "kind": "webhook", "url_file": "/secrets/HOOK_URL", "hmac_file": "/secrets/SIGNING"}
        mount = {"name": "ev-notify", "keys": ["HOOK_URL", "SIGNING"], "tasks": ["notify_pipeline_status"]}
        product.profile(VERSIONS, notify={"channels": [channel]}, secrets=[mount])
        code, out, _ = product.ask("notify", "test")
        assert (code, "evctl secrets apply" in out) == (9, True)
        (tmp_path / "env").write_text(f"HOOK_URL={hook.url}\nSIGNING=k3y\n")
        assert product.ask("secrets", "apply", "ev-notify", "-f", str(tmp_path / "env"))[0] == 0
        code, out, err = product.ask("notify", "test")
    assert code == 0, out
    assert told(hook)[0]["event"] == "test"
    assert hook.requests[0][0]["X-Evctl-Signature"].startswith("sha256=")
    assert TOKEN not in out + err


# --- new data


def rewritten(target: Path, columns: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write telemetry of other vehicles of the first fleet, some columns changed, as CSV or Parquet."""
    raw = target.with_suffix(".raw")
    simulate(fleet("v1", vehicles=24, seed=77), raw)
    table = pq.read_table(raw)
    for name in columns:
        values = pa.array(change(table.column(name).to_numpy()))
        table = table.set_column(table.schema.get_field_index(name), name, values)
    pcsv.write_csv(table, target) if target.suffix == ".csv" else pq.write_table(table, target)
    return target


def drift(product: Product, *line: str) -> tuple[int, dict[str, Any]]:
    code, out, err = product.ask("drift", *line, "-o", "json")
    assert out, err
    return code, json.loads(out)


def test_the_winter_fleet_is_drift_with_what_moved_most_first_and_the_second_fleet_is_none(
    registered: Product,
) -> None:
    registered.profile(VERSIONS)
    code, found = drift(registered, "--data-version", "v3")
    assert (code, found["verdict"]) == (7, "DRIFT")
    moved = [feature["drifted"] for feature in found["features"]]
    assert moved == sorted(moved, reverse=True)
    # winter, and another supplier's cells
    first = [feature["name"] for feature in found["features"][:5]]
    assert {"ambient_mean_c", "step_resistance_ohm"} <= set(first), first
    assert drift(registered, "--data-version", "v2")[0] == 0
    history = json.loads(registered.ask("drift", "--history", "-o", "json")[1])["checks"]
    assert [check["verdict"] for check in history] == ["OK", "DRIFT"]


@pytest.mark.parametrize(
    ("name", "columns", "change", "words"),
    [
        ("f.csv", ("temperature_max_c",), lambda v: v * 1.8 + 32, "temperature_max_c looks in degrees Fahrenheit"),
        ("k.parquet", ("ambient_c",), lambda v: v + 273.15, "degC:ambient_c"),
        ("mv.csv", ("pack_voltage_v",), lambda v: v * 1000, "V:pack_voltage_v"),
        ("share.parquet", ("soc_pct",), lambda v: v / 100, "soc_pct looks 100 times too small"),
        ("gaps.parquet", ("soc_pct",), lambda v: np.where(np.arange(len(v)) % 3, v, np.nan), "missing:soc_pct"),
    ],
)
def test_a_column_in_another_unit_or_missing_is_broken_data_that_names_it_and_trains_nothing(
    registered: Product,
    tmp_path: Path,
    name: str,
    columns: tuple[str, ...],
    change: Callable[[np.ndarray], np.ndarray],
    words: str,
) -> None:
    file = rewritten(tmp_path / name, columns, change)
    registered.profile({**VERSIONS, "feed": {"uri": str(file)}})
    code, found = drift(registered, "--data", str(file))
    assert (code, found["verdict"], found["retrain"]) == (7, "DATA_QUALITY", False)
    assert words in found["reasons"][0]
    code, found = drift(registered, "--data-version", "feed", "--retrain")
    assert (code, found["retrain"], found["retrain_run"]) == (7, False, None)
    assert "teach the model the defect" in found["retrain_reason"]
    assert len(json.loads(registered.ask("runs", "-o", "json")[1])["runs"]) == 1


def test_few_vehicles_are_not_enough_and_a_lost_column_is_broken_data(registered: Product, tmp_path: Path) -> None:
    registered.profile(VERSIONS)
    whole = pq.read_table(rewritten(tmp_path / "whole.parquet", (), lambda v: v))
    few = whole.filter(pc.is_in(whole["vehicle_id"], pc.unique(whole["vehicle_id"])[:5]))
    pq.write_table(few, tmp_path / "few.parquet")
    code, found = drift(registered, "--data", str(tmp_path / "few.parquet"))
    assert (code, found["verdict"], found["vehicles"]) == (8, "INSUFFICIENT_DATA", 5)
    assert "5 vehicles, at least 20 are needed" in found["reasons"]
    pq.write_table(whole.drop_columns(["odometer_km"]), tmp_path / "lost.parquet")
    code, found = drift(registered, "--data", str(tmp_path / "lost.parquet"))
    assert (code, found["verdict"]) == (7, "DATA_QUALITY")
    assert found["reasons"][0].startswith("column odometer_km is missing")
    code, _, err = registered.ask("drift", "--data", str(tmp_path / "none.parquet"))
    assert code == 2
    assert "none.parquet" in err


def test_an_alert_is_raised_once_for_the_same_data_over_http_and_mail(registered: Product, hook: Receiver) -> None:
    with Inbox() as mail:
        settings = channels(hook=hook.url)
        os.environ["URL_MAIL"] = mail.url
        settings["notify"]["channels"].append({"name": "mail", "kind": "apprise", "url_env": "URL_MAIL"})
        registered.profile(VERSIONS, **settings)
        assert registered.ask("drift", "--data-version", "v2", "--notify")[0] == 0
        assert hook.requests == []
        code, out, err = registered.ask("drift", "--data-version", "v3", "--notify", "-o", "json")
        assert code == 7
        assert "hook sent" in err
        assert "mail sent" in err
        assert registered.ask("drift", "--data-version", "v3", "--notify")[0] == 7
        assert "DRIFT" in until(lambda: mail.text() or None)
    [message] = told(hook)
    assert (message["event"], message["verdict"], message["data"]) == ("drift", "DRIFT", "v3")
    assert "step_resistance_ohm" in message["drifted"]
    hears_no_secret(hook)
    assert json.loads(out)["verdict"] == "DRIFT"


def test_drift_that_persists_submits_one_run_whose_gate_still_decides(registered: Product, hook: Receiver) -> None:
    settings = {"drift": {"persistence": 2, "window": 3}, "accuracy_threshold": 0.9999}
    registered.profile(VERSIONS, **settings, **channels(hook=hook.url))
    before = json.loads(registered.ask("runs", "-o", "json")[1])["runs"]

    code, found = drift(registered, "--data-version", "v3", "--retrain")
    assert (code, found["retrain"]) == (7, False)
    assert found["retrain_reason"] == "1 of the last 3 checks said DRIFT, 2 must"
    assert not drift(registered, "--data-version", "v3", "--retrain")[1]["retrain"]

    code, found = drift(registered, "--data-version", "v3-later", "--retrain")
    assert (code, found["retrain"]) == (7, True)
    run_id = found["retrain_run"]
    again = drift(registered, "--data-version", "v3", "--retrain")[1]
    assert again["retrain_run"] is None
    assert "is retraining already" in again["retrain_reason"]

    code, run = registered.ended(run_id)
    assert (code, run["gate"]["decision"]) == (5, "refused")
    assert run["parameters"]["data_version"] == "v3-later"
    assert [m["event"] for m in told(hook)] == ["refused"]
    again = drift(registered, "--data-version", "v3", "--retrain")[1]
    assert again["retrain_run"] is None
    assert "less than 24 h ago" in again["retrain_reason"]
    after = json.loads(registered.ask("runs", "-o", "json")[1])["runs"]
    assert len(after) == len(before) + 1
    assert run_id[:8] in registered.ask("drift", "--history")[1]


def test_a_password_in_the_datas_address_is_neither_shown_nor_kept(registered: Product, tmp_path: Path) -> None:
    file = rewritten(tmp_path / "t.csv", (), lambda v: v)
    registered.profile(VERSIONS)
    with Gate(file.read_bytes()).serving() as source:
        source.open.set()
        uri = source.uri + "?sig=s3cr3t-signature"
        code, out, err = registered.ask("drift", "--data", uri, "-o", "json")
    assert code == 0, err
    assert "s3cr3t" not in out + err
    assert "s3cr3t" not in "".join(path.read_text() for path in (registered.home / "drift").glob("*.jsonl"))


def test_kubeflows_own_page_has_the_confusion_matrix_the_roc_curve_and_the_page(
    lived: tuple[Path, Receiver], registered: Product
) -> None:
    registered.profile(VERSIONS)
    artifacts = json.loads(registered.ask("outputs", lived[1].run["run_id"], "-o", "json")[1])["artifacts"]
    found = {a["name"]: a for a in artifacts if a["task"] == "evaluate_fault_model"}
    shown = found["classification_metrics"]["metadata"]
    assert shown["confusionMatrix"]["annotationSpecs"][0] == {"displayName": "healthy"}
    points = shown["confidenceMetrics"]
    assert points[0]["falsePositiveRate"] == 0.0
    assert points[-1]["recall"] == 1.0
    assert all(0.0 <= p["confidenceThreshold"] <= 1.0 for p in points)
    assert 0.0 < found["metrics"]["metadata"]["ece"] < 0.5
    assert "Calibration" in Path(found["page"]["path"]).read_text()


def test_the_worker_that_starts_again_after_the_message_does_not_repeat_it(
    registered: Product, lived: tuple[Path, Receiver], hook: Receiver
) -> None:
    """A message was sent, then the worker died before it could record the task's end."""
    record = registered.home / "runs" / lived[1].run["run_id"] / "outcome.json"
    registered.profile(VERSIONS, **channels(hook=hook.url))
    code = (
        "import json, sys; from evctl.profile_files import load_profile; from ev_pipeline.components import *\n"
        "from types import SimpleNamespace as S\n"
        "config = load_profile('local').profile.notify.model_dump(mode='json', exclude_none=True)\n"
        "print(notify_pipeline_status(S(), 'r', 'local', config).summary)"
    )
    env = {**os.environ, "EVCTL_RUN_RECORD": str(record), "EVCTL_HOME": str(registered.home)}
    command = [sys.executable, "-c", code]
    summaries = [
        subprocess.run(command, cwd=registered.folder, env=env, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    # the copied run folder remembers that its channel of that name has it
    assert [each.splitlines()[-1] for each in summaries] == ["registered; hook duplicate"] * 2
    assert hook.requests == []
    shutil.rmtree(record.parent / "told")
    subprocess.run(command, cwd=registered.folder, env=env, capture_output=True, check=True)
    assert [m["event"] for m in told(hook)] == ["registered"]
