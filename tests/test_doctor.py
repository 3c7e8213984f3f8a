from __future__ import annotations

import json
import socket
import time

import pytest

from ev_pipeline.settings import SecretMount
from evctl.doctor import local
from evctl.doctor.checks import Check, Finding, checks_for, diagnose, document, failed, passed, warned, worst
from evctl.errors import TimedOutError, UnavailableError
from evctl.profile import ChannelSettings, NotifySettings, Profile, ServingSettings, StoreSettings


def profile(stranger, **values) -> Profile:
    return Profile(name="local", store=StoreSettings(uri=str(stranger / "store")), **values)


def test_a_fresh_machine_passes(stranger):
    results = diagnose(checks_for(profile(stranger)))
    assert [r.name for r in results if r.status == "fail"] == []
    assert {"python", "versions", "state folder", "disk", "store", "port"} <= {r.name for r in results}
    json.dumps(document("local", results), allow_nan=False)


def test_checks_run_side_by_side_and_one_that_hangs_is_left_behind():
    slow = Check("slow", lambda: time.sleep(30) or passed(""), timeout_s=0.3)
    start = time.monotonic()
    results = diagnose([slow, Check("a", lambda: passed("x")), Check("b", lambda: warned("y"))])
    assert time.monotonic() - start < 5
    assert [r.status for r in results] == ["fail", "pass", "warn"]
    assert "0.3 s" in results[0].message


def test_a_timeout_is_told_as_one_with_what_to_do_and_is_laid_to_nothing_else() -> None:
    def slow() -> Finding:
        raise TimedOutError("http://kfp timed out: no answer within 3 s", hint="is the URL right? evctl doctor")

    look = "kubectl get pods"
    found = diagnose(
        [
            Check("kfp", slow, fix=look),
            Check("login", slow),
            Check("hangs", lambda: time.sleep(30) or passed(""), timeout_s=0.1, fix=look),
        ]
    )
    again = "the same command again, when there is less load"
    assert [each.fix for each in found] == [
        f"{again}; if it stays so: {look}",
        again,
        f"{again}; if it stays so: {look}",
    ]
    assert found[0].message == "http://kfp timed out: no answer within 3 s"
    assert found[2].message == "timed out: no answer within 0.1 s"
    assert {each.status for each in found} == {"fail"}


def test_a_check_that_breaks_is_a_failure_and_its_neighbours_are_told():
    def broken():
        raise ValueError("boom")

    def unavailable():
        raise UnavailableError("no answer", hint="try later")

    class Panic(BaseException):
        pass

    def panics():
        raise Panic("in a library")

    checks = [Check("a", broken), Check("b", unavailable), Check("c", lambda: passed("x")), Check("d", panics)]
    results = diagnose(checks)
    assert [r.status for r in results] == ["fail", "fail", "pass", "fail"]
    assert results[3].message == "Panic: in a library"
    assert results[0].message == "ValueError: boom"
    assert results[1].fix == "try later"


@pytest.mark.parametrize(
    ("statuses", "expected"), [((), "pass"), (("pass", "warn"), "warn"), (("warn", "fail", "pass"), "fail")]
)
def test_the_worst_status_wins(statuses, expected):
    make = {"pass": passed, "warn": warned, "fail": failed}
    results = diagnose([Check(str(i), lambda s=s: make[s]("")) for i, s in enumerate(statuses)])
    assert worst(results) == expected


def test_a_state_folder_that_is_a_file_is_told(stranger):
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("")
    finding = local.state_folder()
    assert finding.status == "fail"
    assert "EVCTL_HOME" in finding.fix


def test_a_damaged_run_index_is_a_warning(stranger):
    stranger.mkdir()
    (stranger / "state.db").write_bytes(b"not a database at all" * 100)
    assert local.ledger().status == "warn"


def test_a_full_disk_is_a_failure(stranger, monkeypatch):
    usage = type("U", (), {"free": 1000})
    monkeypatch.setattr(local.shutil, "disk_usage", lambda path: usage)
    assert local.disk_space().status == "fail"


def test_missing_secret_keys_are_named_and_never_shown(stranger):
    mount = SecretMount(name="s", keys=("TOKEN", "OTHER"))
    (stranger / "secrets" / "s").mkdir(parents=True)
    (stranger / "secrets" / "s" / "TOKEN").write_text("hunter2")
    finding = local.secret_keys(profile(stranger, secrets=(mount,)))
    assert finding.status == "fail"
    assert finding.message == "missing: OTHER"


def test_a_channel_without_its_url_is_a_warning(stranger, monkeypatch):
    settings = NotifySettings(channels=(ChannelSettings(name="ops", kind="webhook", url_env="HOOK"),))
    assert "ops" in local.channels(profile(stranger, notify=settings)).message
    monkeypatch.setenv("HOOK", "http://127.0.0.1:1/")
    assert local.channels(profile(stranger, notify=settings)).status == "pass"


def test_a_channel_finds_its_url_in_the_secret_that_was_applied_for_it(stranger):
    secret = SecretMount(name="ev-notify", keys=("HOOK",), tasks=("notify_pipeline_status",))
    settings = NotifySettings(channels=(ChannelSettings(name="ops", kind="webhook", url_file="/secrets/HOOK"),))
    ours = profile(stranger, notify=settings, secrets=(secret,))
    assert local.channels(ours).status == "warn"
    (stranger / "secrets" / "ev-notify").mkdir(parents=True)
    (stranger / "secrets" / "ev-notify" / "HOOK").write_text("http://127.0.0.1:1/")
    assert local.channels(ours).status == "pass"


def test_a_taken_port_is_a_warning(stranger):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = local.serving_port(profile(stranger, serving=ServingSettings(port=port)))
    assert found.status == "warn"


def test_a_store_that_cannot_be_opened_is_a_failure(stranger):
    stranger.mkdir()
    (stranger / "store").write_text("")
    results = diagnose([Check("store", lambda: local.store_works(profile(stranger)))])
    assert results[0].status == "fail"


def test_contradicting_drift_settings_are_told(stranger):
    from evctl.profile import DriftSettings

    found = local.profile_valid(profile(stranger, drift=DriftSettings(persistence=3, window=2)))
    assert found.status == "fail"


def test_the_verb_exits_5_on_a_failure(stranger, capsys, monkeypatch):
    from evctl import cli

    stranger.write_text("")
    monkeypatch.setenv("EVCTL_HOME", str(stranger))
    assert cli.run(["doctor", "-o", "json"]) == 5
    assert json.loads(capsys.readouterr().out)["status"] == "fail"


def test_a_person_gets_long_findings_on_lines_of_their_own_and_each_command_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from evctl import cli

    rights = ", ".join(f"get things{number}.example.com" for number in range(30))
    commands = [f"kubectl create role {'x' * 150} --verb=get", "kubectl create rolebinding y"]
    finding = failed(f"it will fail: {rights}", " && ".join(commands))
    check = Check("right: deploy step", lambda: finding)
    monkeypatch.setattr("evctl.commands.doctor.checks_for", lambda profile: (check, Check("b", lambda: passed("x"))))
    assert cli.run(["doctor"]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✗ right: deploy step  it will fail: get things0.example.com, ")
    told = [line for line in lines if "kubectl" not in line]
    assert max(map(len, told)) < 140
    assert " ".join(line[22:].strip() for line in told[:-1]) == f"it will fail: {rights}"
    assert [line.strip() for line in lines if "kubectl" in line] == [f"next: {commands[0]} &&", commands[1]]
    assert lines[-1].split() == ["✓", "b", "x"]
    assert cli.run(["doctor", "-o", "json"]) == 5
    (first, _) = json.loads(capsys.readouterr().out)["checks"]
    assert (first["message"], first["fix"]) == (finding.message, finding.fix)


def test_a_fix_never_sends_back_to_doctor() -> None:
    def unreachable() -> Finding:
        raise UnavailableError("no answer", hint="the same command again; evctl doctor")

    fixes = [result.fix for result in diagnose([Check("kfp", unreachable, fix="kubectl get pods")])]
    assert fixes == ["kubectl get pods"]
