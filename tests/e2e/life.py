"""The whole life through the `evctl` command, on whatever a profile names: `make e2e PROFILE=dev`.

It needs nothing but the profile. A copy of it is used, with a service, an experiment and a store prefix of its own
(`...-e2e`), small data, and a data version that is not there; state is kept in a folder that goes away.
A secret that the profile requires is made only where it is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
SMALL, OTHER, MISSING = "e2e", "e2e-other", "e2e-missing"
VEHICLES = 96
"""Enough to train and judge a model on, small enough for minutes on a small cluster."""


class Failed(Exception):
    """A step did not do what it should; the message says what it did."""


class Skipped(Exception):
    """A step could not be tried, since an earlier one failed."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        try:
            return json.loads(self.out)
        except ValueError as error:
            raise Failed(f"stdout is not one JSON document: {self.out[:120]!r}") from error


@dataclass
class Life:
    """One life: the commands, and what earlier steps found."""

    env: str
    profile: dict[str, Any]
    environment: dict[str, str]
    folder: Path
    timeout: float
    known: dict[str, Any] = field(default_factory=dict)
    values: list[str] = field(default_factory=list)
    """Secret values that may never be seen again."""

    def evctl(
        self, *line: str, expect: int | Sequence[int] = 0, text: str | None = None, as_json: bool = True
    ) -> Answer:
        """Run one command; Failed when its exit code is another, or a secret's value is shown."""
        script = Path(sys.executable).with_name("evctl")
        command = [str(script)] if script.exists() else ["evctl"]
        whole = [*command, *line, "--env", self.env, *(["-o", "json"] if as_json else [])]
        try:
            done = subprocess.run(
                whole,
                input=text,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                env=self.environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{' '.join(line)}: no end after {self.timeout:g} s") from error
        answer = Answer(done.returncode, done.stdout, done.stderr)
        if any(value in done.stdout + done.stderr for value in self.values):
            raise Failed(f"{' '.join(line)} shows a secret's value")
        if answer.code not in ([expect] if isinstance(expect, int) else expect):
            raise Failed(f"{' '.join(line)}: exit {answer.code}, not {expect}: {_last(answer)}")
        return answer

    def need(self, key: str) -> Any:
        """Return what an earlier step found."""
        if key not in self.known:
            raise Skipped(f"needs {key}")
        return self.known[key]


def _last(answer: Answer) -> str:
    lines = [line for line in answer.err.splitlines() if line.strip()] or answer.out.splitlines()
    try:
        error = json.loads(lines[-1])["error"]
        return f"{error['message']} (next: {error['hint']})" if error.get("hint") else str(error["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        return lines[-1][:200] if lines else "it said nothing"


def check(condition: Any, said: str) -> None:
    if not condition:
        raise Failed(said)


def doctor(life: Life) -> str:
    answer = life.evctl("doctor", expect=(0, 5))
    failed = [f"{each['name']}: {each['message']}" for each in answer.document["checks"] if each["status"] == "fail"]
    check(not failed, "; ".join(failed))
    return f"{len(answer.document['checks'])} checks"


def secret(life: Life) -> str:
    there = {each["name"] for each in life.evctl("secrets", "list").document["secrets"] if each["keys"]}
    wanted = {"evctl-e2e-secret": ["E2E_TOKEN"]}
    wanted |= {
        each["name"]: each.get("keys", []) for each in life.profile.get("secrets", []) if each["name"] not in there
    }
    for name, keys in wanted.items():
        values = {key: secrets.token_hex(16) for key in keys}
        life.values += values.values()
        lines = "".join(f"{key}={value}\n" for key, value in values.items())
        check(life.evctl("secrets", "apply", name, "-f", "-", text=lines).document["changed"], f"{name} is unchanged")
        again = life.evctl("secrets", "apply", name, "-f", "-", text=lines).document
        check(not again["changed"], f"{name}: the same values again are a change")
    listed = {each["name"]: each["keys"] for each in life.evctl("secrets", "list").document["secrets"]}
    check(all(set(keys) <= set(listed.get(name, [])) for name, keys in wanted.items()), "a key is not listed")
    return ", ".join(wanted)


def plan(life: Life) -> str:
    return f"{len(life.evctl('plan').document['tasks'])} tasks"


def upload(life: Life) -> str:
    first = life.evctl("upload").document
    again = life.evctl("upload").document
    check(again["version"] == first["version"], "the same content got another version")
    check(not again["changed"], "the same content again is a change")
    return str(first["version"])


def run(life: Life) -> str:
    document = life.evctl("run", "--data-version", SMALL).document
    states = {task["name"]: task["state"] for task in document["tasks"]}
    bad = {name: state for name, state in states.items() if state not in ("SUCCEEDED", "CACHED")}
    check(not bad, f"not succeeded: {bad}")
    check(document["model"], "no model was registered")
    check(document["gate"]["decision"] == "passed", f"the gate: {document['gate']}")
    life.known |= {"run": document["run_id"], "model": document["model"]["version"], "tasks": list(states)}
    return f"{len(states)} tasks, accuracy {document['gate']['accuracy']:.3f}"


def status(life: Life) -> str:
    run_id = life.need("run")
    document = life.evctl("status", run_id[:8]).document
    check(document["run_id"] == run_id, "another run")
    check([task["name"] for task in document["tasks"]] == life.need("tasks"), "other tasks than `run` told")
    check(run_id in life.evctl("runs", as_json=False).out + life.evctl("runs").out, "`runs` does not list it")
    return str(document["state"])


def logs(life: Life) -> str:
    lines = life.evctl("logs", life.need("run"), "train_fault_classifier").document["lines"]
    check(lines, "no line of train_fault_classifier")
    return f"{len(lines)} lines"


def outputs(life: Life) -> str:
    target = life.folder / "downloads"
    document = life.evctl("outputs", life.need("run"), "--download", str(target)).document
    check("evaluate_fault_model.accuracy" in document["parameters"], "no accuracy")
    names = [f"{each['task']}/{each['name']}" for each in document["artifacts"] if "Metrics" not in each["type"]]
    missing = [name for name in names if not (target / name).exists()]
    check(not missing, f"not downloaded: {missing}")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return f"{len(document['artifacts'])} artifacts, {size / 1e6:.1f} MB"


def cached(life: Life) -> str:
    first = life.need("run")
    document = life.evctl("run", "--data-version", SMALL).document
    states = {task["name"]: task["state"] for task in document["tasks"]}
    check(states["train_fault_classifier"] == "CACHED", "training was not answered from the cache")
    check(states["register_fault_model"] == "SUCCEEDED", "registration was answered from the cache")
    check(document["run_id"] != first, "the same run")
    return f"{sum(state == 'CACHED' for state in states.values())} cached"


def refused(life: Life) -> str:
    line = ("run", "--data-version", SMALL, "--accuracy-threshold", "0.9999")
    document = life.evctl(*line, expect=5).document
    check(document["gate"]["decision"] == "refused", f"the gate: {document['gate']}")
    check(document["model"] is None, "a model was registered")
    return str(document["gate"]["reasons"][0])


def failed(life: Life) -> str:
    document = life.evctl("run", "--data-version", MISSING, expect=1).document
    bad = [task for task in document["tasks"] if task["state"] == "FAILED"]
    check([task["name"] for task in bad] == ["ingest_battery_data"], f"failed: {[task['name'] for task in bad]}")
    check(bad[0]["reason"], "no reason")
    lines = life.evctl("logs", document["run_id"], "--failed").document["lines"]
    check(lines, "no line of what failed")
    return str(bad[0]["reason"])[:60]


def cancel(life: Life) -> str:
    started = life.evctl("run", "--data-version", SMALL, "--no-cache", "--detach").document["run_id"]
    document = life.evctl("cancel", started).document
    check(document["state"] == "CANCELED", f"it is {document['state']}")
    life.evctl("status", started, expect=1)
    return "CANCELED"


def promote(life: Life) -> str:
    life.need("run")
    other = life.evctl("run", "--data-version", OTHER).document
    check(other["model"] and other["model"]["version"] != life.need("model"), "no second model")
    first = life.evctl("promote", life.need("run"), "--yes").document
    check(first["model"] == life.need("model"), f"it promoted {first['model']}")
    second = life.evctl("promote", other["run_id"], "--yes").document
    check(second["changed"] and second["previous"] == first["model"], f"previous is {second['previous']}")
    again = life.evctl("promote", other["run_id"], "--yes").document
    check(not again["changed"], "the live model again is a change")
    life.known["promoted"] = second["model"]
    return str(second["model"])


def predict(life: Life) -> str:
    live = life.need("promoted")
    document = life.evctl("predict", str(REPO / "examples" / "session.csv")).document
    check(document["model"]["version"] == live, f"{document['model']['version']} answered, not {live}")
    return str(live)


def rollback(life: Life) -> str:
    life.need("promoted")
    document = life.evctl("rollback", "--yes").document
    check(document["model"] == life.need("model"), f"rolled back to {document['model']}")
    releases = life.evctl("history").document["releases"]
    check([each["status"] for each in releases].count("live") == 1, "not one release is live")
    return str(document["model"])


STEPS: tuple[tuple[str, Callable[[Life], str]], ...] = (
    ("secrets", secret),
    ("doctor", doctor),
    ("plan", plan),
    ("upload", upload),
    ("run", run),
    ("status", status),
    ("logs", logs),
    ("outputs", outputs),
    ("run, cached", cached),
    ("gate refused", refused),
    ("failed task", failed),
    ("cancel", cancel),
    ("promote", promote),
    ("predict", predict),
    ("rollback", rollback),
)


def own_profile(env: str, source: Path) -> dict[str, Any]:
    """Return the profile with a service, an experiment, a store prefix and data of its own."""
    profile: dict[str, Any] = yaml.safe_load(source.read_text())
    profile["experiment"] = f"{profile.get('experiment', 'ev-battery')}-e2e"
    profile["store"]["uri"] = profile["store"]["uri"].rstrip("/") + "/e2e"
    serving = profile.setdefault("serving", {})
    # the account that `secrets apply --store` gave the store's secret to
    if profile["store"].get("secret"):
        serving.setdefault("service_account", serving.get("name", "ev-battery-fault-classifier"))
    serving["name"] = f"{serving.get('name', 'ev-battery-fault-classifier')}-e2e"
    serving["max_recall_drop"] = 1.0
    profile |= {"deploy": "manual", "confirm": False, "accuracy_threshold": 0.5, "gates": {}}
    versions = profile.setdefault("data", {}).setdefault("versions", {})
    versions |= {
        SMALL: {"fleet": "v1", "vehicles": VEHICLES},
        OTHER: {"fleet": "v2", "vehicles": VEHICLES},
        MISSING: {"uri": f"/nowhere/{env}.csv"},
    }
    profile["data"].setdefault("min_vehicles", 20)
    return profile


def left_behind(profile: dict[str, Any]) -> str:
    """Return what evctl has no verb to take away."""
    namespace, serving = profile.get("namespace", "default"), profile["serving"]
    return (
        f"InferenceService {serving['name']} in {serving.get('namespace') or namespace}, "
        f"secret evctl-e2e-secret in {namespace}, experiment {profile['experiment']}, {profile['store']['uri']}, and its "
        f"pipeline version, which is the newest now: `evctl upload --set-default` makes yours so again"
    )


def profiles_folder() -> Path:
    return Path(os.environ.get("EVCTL_PROFILES") or REPO / "profiles")


def live(env: str, timeout: float, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Live a life; print a line a step as it ends, and return the table."""
    source = profiles_folder() / f"{env}.yaml"
    if not source.is_file():
        raise SystemExit(f"no profile {source}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="evctl-e2e-") as name:
        folder = Path(name)
        (folder / "profiles").mkdir()
        profile = own_profile(env, source)
        (folder / "profiles" / f"{env}.yaml").write_text(yaml.safe_dump(profile))
        environment = {**os.environ, "EVCTL_PROFILES": str(folder / "profiles"), "EVCTL_HOME": str(folder / "state")}
        life = Life(env, profile, environment, folder, timeout)
        print(f"{'STEP':<14} {'RESULT':<8} {'SECONDS':>8}  WHAT", flush=True)
        try:
            for step, do in STEPS:
                if not only or step in only:
                    rows.append(_step(step, do, life))
        finally:
            if profile.get("backend", "local") == "local":
                life.evctl("serving", "stop", expect=range(256), as_json=False)
                shutil.rmtree(folder / "state", ignore_errors=True)
            else:
                print(f"left on the cluster: {left_behind(profile)}")
    return rows


def _step(name: str, do: Callable[[Life], str], life: Life) -> dict[str, Any]:
    started = time.monotonic()
    try:
        result, said = "pass", do(life)
    except Skipped as error:
        result, said = "skipped", str(error)
    except Failed as error:
        result, said = "FAIL", str(error)
    except (KeyError, TypeError, IndexError) as error:
        result, said = "FAIL", f"the document lacks {error!r}"
    seconds = round(time.monotonic() - started, 1)
    print(f"{name:<14} {result:<8} {seconds:>8}  {said}", flush=True)
    return {"step": name, "result": result, "seconds": seconds, "what": said}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True, help="the profile's name")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one command")
    parser.add_argument("--only", action="append", default=[], help="a step, more than once")
    parser.add_argument("--json", type=Path, help="write the table here, too")
    options = parser.parse_args()
    rows = live(options.env, options.timeout, options.only)
    if options.json:
        options.json.write_text(json.dumps({"env": options.env, "steps": rows}, indent=2))
    bad = [row["step"] for row in rows if row["result"] != "pass"]
    total = sum(row["seconds"] for row in rows)
    print(
        f"\n{len(rows) - len(bad)} of {len(rows)} passed in {total:.0f} s" + (f"; not: {', '.join(bad)}" if bad else "")
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
