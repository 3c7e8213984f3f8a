"""Attempts forked from a process that has the libraries: as isolated as those started anew, and gone with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evctl.backends.local.forks import Forks, modules_of
from evctl.backends.local.steps import Step
from tests.local.product import alive, children_of, until

SCRIPT = """program_path=$(mktemp -d)

printf "%s" "$0" > "$program_path/ephemeral_component.py"
_KFP_RUNTIME=true PYTHON -m kfp.dsl.executor_main \
  --component_module_path "$program_path/ephemeral_component.py" "$@"
""".replace("PYTHON", sys.executable)
HEAD = "from kfp import dsl\nfrom kfp.dsl import *\nfrom typing import *\n"


@pytest.fixture
def forks() -> Iterator[Forks]:
    made = Forks([])
    yield made
    made.close()


def command(body: str) -> list[str]:
    program = HEAD + "def f():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return [
        "sh",
        "-ec",
        SCRIPT,
        program,
        "--executor_input",
        '{"outputs": {"outputFile": "/dev/null"}}',
        "--function_to_execute",
        "f",
    ]


def run(forks: Forks, log: Path, body: str, timeout_s: float | None = None, **env: str) -> tuple[Step, int]:
    step = Step(command(body), env, log, timeout_s, forks)
    return step, step.wait(lambda: False)


def test_a_forked_attempt_has_its_own_environment_log_arguments_and_group(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    body = (
        "import os, sys, tempfile\n"
        "print(os.environ['MINE'], os.environ['_KFP_RUNTIME'], tempfile.gettempdir(), os.getpid() == os.getpgid(0))\n"
        "print('stdin', repr(sys.stdin.read()))\n"
        "os.environ['LEFT'] = sys.modules['json'].left = 'behind'"
    )
    for mine in ("one", "two"):
        log = tmp_path / f"{mine}.log"
        step, code = run(forks, log, body, MINE=mine, TMPDIR=str(tmp_path / "scratch"))
        assert code == 0, log.read_text()
        assert f"{mine} true {tmp_path / 'scratch'} True" in log.read_text()
        assert "stdin ''" in log.read_text()
        assert type(step._process).__name__ == "Fork"
    again = "import os, json\nassert 'LEFT' not in os.environ and not hasattr(json, 'left')"
    assert run(forks, tmp_path / "third.log", again)[1] == 0


def test_a_forked_attempt_that_raises_exits_or_is_killed_says_so(forks: Forks, tmp_path: Path) -> None:
    step, code = run(forks, tmp_path / "a", "raise ValueError('what went wrong')")
    assert (code, step.reason(code)) == (1, "ValueError: what went wrong")
    assert run(forks, tmp_path / "b", "raise SystemExit(3)")[1] == 3
    step, code = run(forks, tmp_path / "c", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (code, step.reason(code)) == (-signal.SIGSEGV, "killed by SIGSEGV")


def test_a_timeout_and_a_cancel_end_a_forked_attempt_with_its_children(forks: Forks, tmp_path: Path) -> None:
    child = f"import subprocess\nprint('begun')\nsubprocess.run(['sh', '-c', 'sleep 2; touch {tmp_path}/late'])"
    step, code = run(forks, tmp_path / "a", child, timeout_s=0.5)
    assert code < 0
    assert "timeout of 0.5 s" in step.reason(code)
    step = Step(command(child), {}, tmp_path / "b", None, forks)
    assert step.wait(lambda: "begun" in (tmp_path / "b").read_text()) < 0
    time.sleep(2.2)
    assert not (tmp_path / "late").exists()


def test_many_at_once_each_get_their_own_status(forks: Forks, tmp_path: Path) -> None:
    body = "import time, sys\ntime.sleep(0.2)\nsys.exit({})"
    started = time.monotonic()
    steps = [Step(command(body.format(n)), {}, tmp_path / str(n), None, forks) for n in range(8)]
    assert [step.wait(lambda: False) for step in steps] == list(range(8))
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("forked", [True, False])
def test_what_it_prints_can_be_read_while_it_goes(forks: Forks, tmp_path: Path, forked: bool) -> None:
    log = tmp_path / "log"
    step = Step(command("import time\nprint('half way')\ntime.sleep(60)"), {}, log, None, forks if forked else None)
    until(lambda: True if "half way" in log.read_text() else None)
    assert step.wait(lambda: True) != 0


def test_its_attempts_end_when_the_preloading_process_is_killed_and_the_next_ones_start_without_it(
    forks: Forks, tmp_path: Path
) -> None:
    step = Step(command("import time\nprint('begun')\ntime.sleep(60)"), {}, tmp_path / "a", None, forks)
    until(lambda: True if "begun" in (tmp_path / "a").read_text() else None)
    below = children_of(forks._process.pid)
    assert len(below) == 3
    os.kill(forks._process.pid, signal.SIGKILL)
    assert step.wait(lambda: False) == -signal.SIGKILL
    forks._process.wait()
    until(lambda: True if not any(alive(pid) for pid in below) else None)
    after, code = run(forks, tmp_path / "b", "pass")
    assert code == 0, (tmp_path / "b").read_text()
    assert isinstance(after._process, subprocess.Popen)


def test_a_module_that_cannot_be_imported_is_told_by_the_step_that_needs_it(tmp_path: Path) -> None:
    forks = Forks(["evctl.no_such_module"])
    try:
        step, code = run(forks, tmp_path / "a", "import evctl.no_such_module")
        assert type(step._process).__name__ == "Fork"
        assert "No module named 'evctl.no_such_module'" in step.reason(code)
    finally:
        forks.close()


def test_a_command_that_is_not_kfp_s_own_is_started_in_the_ordinary_way(forks: Forks, tmp_path: Path) -> None:
    assert forks.start(["sh", "-ec", "pip install x; " + SCRIPT, "", ""], {}, tmp_path / "a") is None
    assert forks.start(["echo", "hello"], {}, tmp_path / "a") is None
    large = [*command("pass")[:3], "#" * 200_000, *command("pass")[4:]]
    assert forks.start(large, {}, tmp_path / "a") is None


def test_what_the_steps_import_of_ours_is_read_from_their_sources() -> None:
    sources = [
        "def a():\n    from ev_ml.train import train\n    import numpy\n",
        "def b():\n    import evctl.notify.sending\n",
    ]
    assert modules_of([*sources, sources[0]]) == ["ev_ml.train", "evctl.notify.sending"]
