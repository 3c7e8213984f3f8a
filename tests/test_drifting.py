from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from ev_pipeline.settings import SecretMount
from evctl.commands.drift import check_lines, history_lines
from evctl.drift import actions, checking, history
from evctl.errors import NotFoundError, UnavailableError, UsageError
from evctl.notify.message import drift_message
from evctl.profile import ChannelSettings, DriftSettings, NotifySettings, Profile, StoreSettings

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
PAST = [{"verdict": "DRIFT", "model": "v1-a", "at": "2026-11-23T10:00:00Z"}]


def decide(verdict="DRIFT", past=(), open_run=None, **settings):
    return history.decide(verdict, "v1-a", past, DriftSettings(**settings), NOW, open_run)


def test_drift_alone_retrains_by_default():
    assert decide().retrain


@pytest.mark.parametrize("verdict", ["OK", "WARN", "DATA_QUALITY", "INSUFFICIENT_DATA"])
def test_nothing_but_drift_retrains(verdict):
    assert not decide(verdict, PAST, persistence=1, window=3).retrain


def test_broken_data_says_why_it_does_not_retrain():
    assert "teach the model the defect" in decide("DATA_QUALITY").reason


def test_drift_must_persist_over_the_window():
    assert not decide(persistence=2, window=3).retrain
    assert decide(past=PAST, persistence=2, window=3).retrain
    gone = [*PAST, {"verdict": "OK", "model": "v1-a"}, {"verdict": "OK", "model": "v1-a"}]
    assert not decide(past=gone, persistence=2, window=3).retrain


def test_checks_of_another_model_do_not_count():
    assert not decide(past=[PAST[0] | {"model": "v0-z"}], persistence=2, window=3).retrain


def test_the_same_data_checked_again_is_no_further_window():
    past = [PAST[0] | {"data_digest": "week-1"}]
    again = history.decide("DRIFT", "v1-a", past, DriftSettings(persistence=2, window=3), NOW, None, "week-1")
    assert again.reason == "1 of the last 3 checks said DRIFT, 2 must"
    assert history.decide("DRIFT", "v1-a", past, DriftSettings(persistence=2, window=3), NOW, None, "b").retrain


def test_a_window_counts_as_its_newest_check_says():
    past = [PAST[0] | {"data_digest": "w1"}, PAST[0] | {"data_digest": "w1", "verdict": "DATA_QUALITY"}]
    settings = DriftSettings(persistence=2, window=3)
    assert not history.decide("DRIFT", "v1-a", past, settings, NOW, None, "w2").retrain


def test_a_second_run_waits_for_the_first_and_for_the_cool_down():
    past = [PAST[0] | {"retrain_run": "r1"}]
    assert "r1 is retraining" in decide(past=past, open_run="r1").reason
    assert "less than 24 h" in decide(past=past).reason
    assert decide(past=past, cooldown_h=9.0).retrain


def test_the_history_keeps_each_check_in_order_and_survives_a_torn_line(stranger):
    history.append("local", {"verdict": "OK", "at": "1"})
    with history.history_file("local").open("ab") as file:
        file.write(b'{"verdict": "DRI')
    history.append("local", {"verdict": "DRIFT", "at": "2"})
    assert [check["verdict"] for check in history.read("local")] == ["OK", "DRIFT"]
    assert history.read("prod") == []


def test_a_history_that_cannot_be_written_is_one_clear_error(monkeypatch):
    # nobody makes folders in /sys, root neither
    monkeypatch.setenv("EVCTL_HOME", "/sys/evctl")
    with pytest.raises(UnavailableError, match="drift history"):
        history.append("local", {"verdict": "OK"})


def test_a_history_where_a_file_is_in_the_way_is_one_clear_error(stranger):
    stranger.mkdir(parents=True)
    (stranger / "drift").write_text("")
    with pytest.raises(UnavailableError, match="drift history"):
        history.append("local", {"verdict": "OK"})


@pytest.fixture
def profile(stranger) -> Profile:
    return Profile(name="local", store=StoreSettings(uri=str(stranger / "store")))


def test_without_a_model_there_is_nothing_to_compare_with(profile):
    with pytest.raises(NotFoundError, match="no model is registered"):
        checking.check(profile, data_version="v2")


def test_the_data_must_be_named_once(profile):
    with pytest.raises(UsageError):
        checking.check(profile)
    with pytest.raises(UsageError):
        checking.check(profile, data_version="v2", uri="x.csv")


def test_a_file_cannot_be_retrained_on_without_a_version(profile):
    with pytest.raises(UsageError, match="data version"):
        checking.check(profile, uri="x.csv", submit=lambda version: "r")


CHECK = {
    "verdict": "DRIFT",
    "env": "local",
    "data": "v3",
    "data_digest": "abc",
    "model": "v1-a",
    "rows": 100,
    "vehicles": 5,
    "reasons": ["vehicle_id=veh-0042 <!channel>"],
    "features": [{"name": "f<b>", "metric": "psi", "value": 1.0, "threshold": 0.1, "drifted": True}],
    "score": {},
    "retrain": True,
    "retrain_reason": "1 of 1",
    "retrain_run": None,
    "at": "2026-11-23T10:00:00Z",
}


def test_an_alert_names_the_verdict_and_holds_no_vehicle_or_markup():
    message = drift_message(CHECK)
    assert "DRIFT" in message.title
    assert "0042" not in message.text
    assert "<" not in message.text + json.dumps(dict(message.facts))


def test_an_alert_holds_no_secret_that_the_reasons_quote():
    hostile = CHECK | {"data": "https://host/x?sig=s3cr3t-url", "reasons": ["such as s3cr3t-url"], "data_digest": ""}
    message = drift_message(hostile, secrets=("s3cr3t-url",))
    assert "s3cr3t" not in message.title + message.text + json.dumps(dict(message.facts))


def test_each_check_of_data_that_could_not_be_brought_in_is_news():
    check = CHECK | {"data_digest": ""}
    assert drift_message(check).key != drift_message(check | {"at": "later"}).key


def test_an_alert_is_only_for_drift_and_broken_data(profile):
    assert actions.alert(profile, CHECK | {"verdict": "OK"}) is None
    assert "no channel is configured" in actions.alert(profile, CHECK)


def test_an_alert_whose_secrets_cannot_be_read_is_said_and_ends_no_check(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    channel = ChannelSettings(name="ops", kind="webhook", url_file="/secrets/HOOK")
    secret = SecretMount(name="ev-notify", keys=("HOOK",), tasks=("notify_pipeline_status",))
    notify = NotifySettings(channels=(channel,))
    changes = {"backend": "kubeflow", "namespace": "kubeflow", "notify": notify, "secrets": (secret,)}
    said = actions.alert(profile.model_copy(update=changes), CHECK)
    assert said.startswith("notify: FAILED: ")
    assert "; next: " in said


def test_an_alert_has_one_key_for_the_same_data_model_and_verdict():
    assert drift_message(CHECK).key == drift_message(CHECK | {"at": "later"}).key
    assert drift_message(CHECK).key != drift_message(CHECK | {"model": "v1-b"}).key


def test_a_check_reads_verdict_first_and_ends_with_what_follows():
    lines = list(check_lines(CHECK))
    assert lines[0].startswith("DRIFT")
    assert lines[-1] == "  next: evctl drift --data-version v3 --retrain"


def test_the_history_reads_newest_first():
    lines = history_lines([CHECK, CHECK | {"verdict": "OK"}])
    assert "OK" in lines[1]
    assert "no drift check yet" in history_lines([])[0]


def test_the_cool_down_ends_on_the_hour():
    at = (NOW - timedelta(hours=24)).isoformat()
    assert decide(past=[{"verdict": "DRIFT", "model": "v1-a", "at": at, "retrain_run": "r"}]).retrain
