"""Schedules: cron expressions, what has to change, this user's crontab, KFP's recurring runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evctl.cli import run
from evctl.cron import cron_fields
from evctl.errors import NotFoundError, UsageError
from evctl.profile_files import load_profile
from evctl.schedules.base import Schedule, Standing, changes, declared, kubeflow_cron, next_fire
from evctl.schedules.kubeflow import API, RecurringRuns, Target
from evctl.schedules.local import Crontab
from tests import needs
from tests.kubeflow.recorded import load

PROFILE = """
backend: local
store: {uri: "${EVCTL_HOME}/store"}
image: {mode: prebuilt, name: python-local}
schedules:
  - {name: nightly, cron: "0 3 * * mon-fri", parameters: {data_version: v1, accuracy_threshold: 0.85}}
  - {name: drift, verb: drift, cron: "*/30 * * * 7", parameters: {data_version: v2, retrain: true}}
"""


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("0 3 * * *", "0 3 * * *"),
        ("*/15 * * * *", "*/15 * * * *"),
        ("0 3 * * MON-fri", "0 3 * * 1,2,3,4,5"),
        ("5/20 0-2 1 jan,dec 7", "5,25,45 0,1,2 1 1,12 0"),
    ],
)
def test_a_cron_expression_is_written_so_that_both_crons_read_it_alike(typed: str, normal: str) -> None:
    assert " ".join(cron_fields(typed)) == normal
    assert kubeflow_cron(normal) == f"0 {normal}"


@pytest.mark.parametrize(
    "typed",
    [
        "every day",
        "@daily",
        "0 0 3 * * *",
        "61 * * * *",
        "0 3 * * L",
        "0 3 * * 5#2",
        "0 3 LW * *",
        "0 3 30 2 *",
        "",
        "a b c d e",
    ],
)
def test_what_is_no_cron_expression_is_refused(typed: str) -> None:
    with pytest.raises(UsageError) as caught:
        cron_fields(typed)
    assert repr(typed) in caught.value.message


def test_the_next_time_is_in_utc_and_a_disabled_schedule_has_none() -> None:
    schedule = Schedule("nightly", "run", "0 3 * * *")
    assert next_fire(schedule, datetime(2026, 11, 23, 12, tzinfo=UTC)) == datetime(2026, 11, 24, 3, tzinfo=UTC)
    assert next_fire(Schedule("n", "run", "0 3 * * *", enabled=False), datetime.now(UTC)) is None


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "profiles with space"
    folder.mkdir()
    (folder / "local.yaml").write_text(PROFILE)
    monkeypatch.setenv("EVCTL_PROFILES", str(folder))
    return folder / "local.yaml"


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ('{name: x, cron: "0 3 * *"}', "five"),
        ('{name: X_y, cron: "0 3 * * *"}', "lower case"),
        ('{name: x, cron: "0 3 * * *", parameters: {data_version: v9}}', "v9"),
        ('{name: x, verb: drift, cron: "0 3 * * *"}', "name the data"),
        ('{name: x, verb: drift, cron: "0 3 * * *", parameters: {data_version: v1, force: true}}', "force"),
        ('{name: x, verb: drift, cron: "0 3 * * *", parameters: {data_version: v1, retrain: "yes"}}', "retrain"),
        ('{name: x, cron: "0 3 * * *", parameters: {nope: 1}}', "nope"),
        ('{name: nightly, cron: "0 3 * * *"}', "twice"),
        ('{name: x, cron: "0 3 * * *", catchup: true}', "catchup"),
    ],
)
def test_a_wrong_declaration_is_a_usage_error_and_touches_nothing(
    profiles: Path, schedule: str, said: str, capsys: pytest.CaptureFixture[str], crontab: Path
) -> None:
    profiles.write_text(PROFILE + f"  - {schedule}\n")
    assert run(["schedule", "apply"]) == 2
    assert said in capsys.readouterr().err
    assert not crontab.exists()


def test_what_changes_is_decided_by_name_content_and_detail() -> None:
    one, two = Schedule("one", "run", "0 3 * * *"), Schedule("two", "run", "0 4 * * *")
    later = Schedule("one", "run", "0 5 * * *")
    there = [Standing(one, "kubeflow", "id1", "v1"), Standing(Schedule("gone", "run", "1 1 * * *"), "kubeflow")]

    def decided(wanted: list[Any], *, prune: bool = False) -> list[tuple[str, str]]:
        return [(step.name, step.change) for step in changes(wanted, there, "kubeflow", prune=prune)]

    assert decided([(one, "v1"), (two, "v1")]) == [("one", "unchanged"), ("two", "created")]
    assert decided([(later, "v1")]) == decided([(one, "v2")]) == [("one", "updated")]
    assert decided([], prune=True) == [("one", "deleted"), ("gone", "deleted")]


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab command over a file, answering as Debian's does."""
    kept, command = tmp_path / "crontab.kept", tmp_path / "bin" / "crontab"
    command.parent.mkdir()
    command.write_text(
        f"""#!/bin/sh
case "$1" in
-l) if [ -f {kept} ]; then cat {kept}; else echo "no crontab for tester" >&2; exit 1; fi ;;
-) cat > {kept} ;;
*) echo "crontab: invalid option -- 'V'" >&2; exit 1 ;;
esac
"""
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return kept


def answer(capsys: pytest.CaptureFixture[str], *line: str, code: int = 0) -> Any:
    assert run([*line, "-o", "json"]) == code
    out, err = capsys.readouterr()
    return json.loads(out or err.splitlines()[-1])


def test_the_crontab_holds_what_is_declared_and_other_peoples_lines_stay(
    profiles: Path, crontab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crontab.write_text("MAILTO=me\n5 4 * * * backup\n")
    changed = {each["name"]: each["change"] for each in answer(capsys, "schedule", "apply")["schedules"]}
    assert changed == {"nightly": "created", "drift": "created"}
    before = crontab.read_text()
    assert before.startswith("MAILTO=me\n5 4 * * * backup\n")
    crontab.write_text(before + "6 4 * * * another\n")
    assert answer(capsys, "schedule", "apply")["changed"] is False
    assert {each["state"] for each in answer(capsys, "schedule", "list")["schedules"]} == {"applied"}

    profiles.write_text(PROFILE.replace("0 3 * *", "0 4 * *").replace("verb: drift,", "verb: drift, enabled: false,"))
    assert {e["state"] for e in answer(capsys, "schedule", "list")["schedules"]} == {"differs"}
    assert {e["change"] for e in answer(capsys, "schedule", "apply")["schedules"]} == {"updated"}
    lines = crontab.read_text().splitlines()
    assert any(line.startswith("0 4 * * 1,2,3,4,5 env ") for line in lines)
    assert any(line.startswith("#off */30 * * * 0 ") for line in lines)

    profiles.write_text(PROFILE.partition("  - {name: drift")[0])
    assert [e["state"] for e in answer(capsys, "schedule", "list")["schedules"]] == ["not declared", "differs"]
    steps = {e["name"]: e["change"] for e in answer(capsys, "schedule", "apply", "--prune")["schedules"]}
    assert steps == {"nightly": "updated", "drift": "deleted"}
    assert answer(capsys, "schedule", "delete", "nope", code=3)["error"]["code"] == "not_found"
    assert answer(capsys, "schedule", "delete", code=2)["error"]["code"] == "usage"
    assert answer(capsys, "schedule", "delete", "--all") == {"deleted": ["nightly"]}
    assert crontab.read_text() == "MAILTO=me\n5 4 * * * backup\n6 4 * * * another\n"


def test_the_line_works_with_the_empty_environment_that_cron_gives(
    profiles: Path, crontab: Path, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles.write_text(
        profiles.read_text().replace("data_version: v2, retrain: true", 'data: "/nowhere/100% gone.csv"')
    )
    answer(capsys, "schedule", "apply")
    line = next(x for x in crontab.read_text().splitlines() if x.startswith("*/30"))
    command = line.split(" ", 5)[5]
    assert "\\%" in command
    done = subprocess.run(
        [
            "/usr/bin/env",
            "-i",
            f"HOME={stranger.parent}",
            "PATH=/usr/bin:/bin",
            "/bin/sh",
            "-c",
            command.replace("\\%", "%"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    log = (stranger / "schedules" / "local-drift.log").read_text()
    assert done.stdout + done.stderr == ""
    error = json.loads(log.splitlines()[-1])["error"]
    assert (done.returncode, error["code"]) == (3, "not_found"), log  # no model is registered yet
    assert "no model" in error["message"]


def test_no_credential_is_written_into_the_crontab(
    profiles: Path, crontab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-in-a-crontab")
    monkeypatch.setenv("KUBECONFIG", "/etc/my kube")
    answer(capsys, "schedule", "apply")
    text = crontab.read_text()
    assert "never-in-a-crontab" not in text
    assert shlex.quote("KUBECONFIG=/etc/my kube") in text


def test_a_machine_in_another_zone_is_refused_where_cron_knows_no_zones(
    profiles: Path, crontab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    assert answer(capsys, "schedule", "apply", code=5)["error"]["code"] == "refused"
    command = crontab.parent / "bin" / "crontab"
    command.write_text(command.read_text().replace("crontab: invalid option -- 'V'", "cronie 1.7.2"))
    crontab.write_text("5 4 * * * backup\n")
    answer(capsys, "schedule", "apply")
    lines = crontab.read_text().splitlines()
    assert lines[0] == "5 4 * * * backup"
    assert lines.index("CRON_TZ=UTC") == 2


def test_without_cron_it_says_what_to_install(
    profiles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = answer(capsys, "schedule", "list", code=9)["error"]
    assert "cron" in error["hint"]


@needs.command("crontab", "cron")
def test_the_real_crontab_takes_the_lines_and_gives_them_back(profiles: Path) -> None:
    table = Crontab("local")
    wanted = declared(load_profile("local").profile)
    try:
        assert [step.change for step in table.apply(wanted)] == ["created", "created"]
        assert [each.schedule for each in table.standing()] == list(wanted)
        assert [step.change for step in table.apply(wanted)] == ["unchanged", "unchanged"]
    finally:
        table.delete([each.name for each in wanted])
    assert table.standing() == ()


class FakeApi:
    """KFP's five calls for recurring runs, over the recorded answers' fields."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = load("api/recurring_list.json")["body"]["recurringRuns"]
        self.calls: list[str] = []

    def request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None, raw: bool = False
    ) -> Any:
        self.calls.append(f"{method} {path.removeprefix(API)}")
        tail = path.removeprefix(API).lstrip("/")
        if method == "GET":
            start = int((query or {}).get("page_token") or 0)
            more = {"next_page_token": str(start + 2)} if start + 2 < len(self.kept) else {}
            return {"recurringRuns": self.kept[start : start + 2], **more}
        if method == "POST" and not tail:
            recorded = load("api/recurring_create.json")["body"]
            made = {
                **recorded,
                **body,
                "recurring_run_id": f"id-{len(self.calls)}",
                "created_at": f"T{len(self.calls)}",
            }
            made["status"] = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
            self.kept.append(json.loads(json.dumps(made)))
            return made
        key, _, verb = tail.partition(":")
        found = [each for each in self.kept if each["recurring_run_id"] == key]
        if not found:
            raise NotFoundError(f"{key} not found")
        if method == "DELETE":
            self.kept.remove(found[0])
        else:
            found[0] |= {"mode": verb.upper(), "status": f"{verb.upper()}D"}
        return {}

    def changed(self) -> list[str]:
        found = [call.split(" ")[0] for call in self.calls if not call.startswith("GET")]
        self.calls.clear()
        return found


@pytest.fixture
def runs(profiles: Path) -> Iterator[tuple[RecurringRuns, FakeApi]]:
    api = FakeApi()
    yield RecurringRuns(api, load_profile("local").profile), api


def test_recurring_runs_are_made_found_again_changed_and_taken_away(runs: tuple[RecurringRuns, FakeApi]) -> None:
    recurring, api = runs
    target = Target("p", "v1", "e")
    nightly = Schedule("nightly", "run", "0 3 * * *", {"data_version": "v1"})
    weekly = Schedule("weekly", "run", "0 4 * * 0", enabled=False)

    def applied(*wanted: Schedule, to: Target = target, prune: bool = False) -> list[str]:
        return [step.change for step in recurring.apply(wanted, to, prune=prune)]

    assert applied(nightly, weekly) == ["created", "created"]
    assert api.changed() == ["POST", "POST"]
    assert api.kept[-2]["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert [each.schedule for each in recurring.standing()] == [nightly, weekly]
    assert applied(nightly, weekly) == ["unchanged", "unchanged"]
    assert api.changed() == []

    on = Schedule("weekly", "run", "0 4 * * 0")
    assert applied(nightly, on) == ["unchanged", "updated"]
    assert api.calls[-1].endswith(":enable")
    api.changed()
    assert applied(nightly, on, to=Target("p", "v2", "e")) == ["updated", "updated"]
    assert api.changed() == ["POST", "DELETE", "POST", "DELETE"]
    assert applied(nightly, to=Target("p", "v2", "e"), prune=True) == ["unchanged", "deleted"]
    recurring.delete(["nightly"])
    assert recurring.standing() == ()
    assert {each["display_name"] for each in api.kept} == {"nightly", "n3"}  # other people's stay


def test_a_five_field_cron_on_the_server_and_a_double_are_put_right(runs: tuple[RecurringRuns, FakeApi]) -> None:
    recurring, api = runs
    target = Target("p", "v1", "e")
    nightly = Schedule("nightly", "run", "0 3 * * *")
    recurring.apply([nightly], target)
    api.kept[-1]["trigger"]["cron_schedule"]["cron"] = "0 3 * * *"
    api.kept.append({**api.kept[-1], "recurring_run_id": "double"})
    assert [step.change for step in recurring.apply([nightly], target)] == ["updated"]
    assert [each.schedule for each in recurring.standing()] == [nightly]
