"""The app: a table of verbs in the order of the flow, loaded one at a time, and the one error boundary.

`evctl --help` prints the table and imports nothing; a verb imports its own module only. A verb is a plain function with
annotated parameters in `evctl/commands/`; it is registered by one line here.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise, takewhile
from types import FrameType

from evctl import __version__
from evctl.errors import EvctlError, NotAllowedError, UnavailableError
from evctl.output import open_streams

PIPELINE, RUNS, SERVING, STATE = "the pipeline", "runs", "models and serving", "this machine"
VERBS: dict[str, tuple[str, str, str]] = {
    "profile list": (STATE, "profile:list_profiles", "the environments"),
    "profile show": (STATE, "profile:show", "one environment, and where each value comes from"),
    "profile check": (STATE, "profile:check", "is a profile right?"),
    "secrets apply": (STATE, "secrets:apply", "set a secret from a file, stdin or a prompt"),
    "secrets list": (STATE, "secrets:list_secrets", "secrets and their keys, never values"),
    "compile": (
        PIPELINE,
        "compile:compile_pipeline",
        "write the compiled pipeline; --check: is the versioned file current?",
    ),
    "plan": (PIPELINE, "plan:plan", "what a run would do, and what this engine cannot honour"),
    "upload": (PIPELINE, "upload:upload", "keep a pipeline version named by its content"),
    "run": (RUNS, "run:run", "submit a run and follow it"),
    "runs": (RUNS, "runs:runs", "the latest runs"),
    "status": (RUNS, "status:status", "the task tree of a run, and why it failed"),
    "logs": (RUNS, "logs:logs", "the logs of a run's tasks"),
    "outputs": (RUNS, "outputs:outputs", "output parameters and artifacts"),
    "cancel": (RUNS, "cancel:cancel", "end a run, and wait until it has ended"),
    "retry": (RUNS, "retry:retry", "rerun what failed, keep what succeeded"),
    "models list": (SERVING, "models:list_models", "registered models with their metrics"),
    "models show": (SERVING, "models:show", "one model: metrics, data, run, digest, schema"),
    "promote": (SERVING, "promote:promote", "make a run's model the one that serves, proved"),
    "rollback": (SERVING, "rollback:rollback", "bring the last good release back, proved"),
    "history": (SERVING, "history:history", "the release ledger"),
    "serving": (SERVING, "serving:serving", "what serves now; serving start, serving stop"),
    "predict": (SERVING, "predict:predict", "ask the live model about raw telemetry"),
    "experiments": (RUNS, "experiments:experiments", "the groups of runs"),
    "compare": (RUNS, "compare:compare", "two runs side by side"),
    "report": (RUNS, "report:report", "a run as one page"),
    "drift": (RUNS, "drift:drift", "new data against the serving model's reference"),
    "schedule apply": (RUNS, "schedule:apply", "make the profile's recurring runs and drift checks stand"),
    "schedule list": (RUNS, "schedule:list_schedules", "what stands there, and what is only declared"),
    "schedule delete": (RUNS, "schedule:delete", "take schedules away"),
    "notify test": (STATE, "notify:test", "a message over each configured channel"),
    "doctor": (STATE, "doctor:doctor", "what a run needs of this machine: pass, warn, fail"),
    "completion": (
        STATE,
        "completion:completion",
        "the script that completes verbs, runs and profiles: bash, zsh, fish",
    ),
    "help": (
        STATE,
        "help:topic",
        "exit-codes, environment, role (a promoter's), json: the schemas of every verb's JSON",
    ),
}
EXIT_CODES = """exit codes
  0 ok                      6 conflict (lock, exists)    9 unavailable (server, store)
  1 failed, or cancelled    7 drift                     70 a bug of ours
  2 usage                   8 not finished yet         124 timeout
  3 not found                                          130 interrupted
  4 not allowed             5 refused (gate, preflight, policy)"""


_ASKS_JSON = re.compile(r"(-[qdwyfh]*o|--output) json|(-[qdwyfh]*ojson|--output=json) .*", re.DOTALL)
"""An option and the word after it. Flags may stand before the `o` in one word, options that take a value may not."""

EPILOG = "exit codes: evctl help exit-codes; what -o json prints: evctl help json VERB"


def main() -> None:
    """Entry point: run and exit."""
    # a command's start makes many objects and few cycles, and pydantic would read every package's metadata for plugins
    gc.set_threshold(50_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    open_streams()
    try:
        code = run(sys.argv[1:])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except KeyboardInterrupt:  # a second one, while what was printed waited for its reader
        code = 130
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # all is written and closed: taking grpc and the interpreter down in good order takes as long as a short verb
    os._exit(code)


def run(argv: Sequence[str]) -> int:
    """Run a command line; return its exit code. The only place that catches `EvctlError`."""
    as_json, debug = _wants_json(argv), "--debug" in argv
    previous = _on_terminate()
    try:
        return _written(list(argv))
    except EvctlError as error:
        if debug:
            traceback.print_exc()
        return _tell(error.code, error.message, error.hint or _usual_hint(error, argv), error.exit_code, as_json)
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except KeyboardInterrupt:
        return _tell("interrupted", "interrupted", None, 130, as_json)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _give_up_stdout()
            return _tell("unavailable", "the disk is full: the result could not be written", "df -h", 9, as_json)
        text = f"{type(error).__name__}: {error}"
        return _tell("bug", f"this is a bug of evctl's: {text[:300]}", "the same command with --debug", 70, as_json)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _written(argv: list[str]) -> int:
    """Dispatch, and write what was printed however it ends: before anybody is told why there is no more of it."""
    try:
        code = _dispatch(argv)
    except EvctlError:
        sys.stdout.flush()
        raise
    except BaseException:
        # a signal may have ended the reader too, and a bug is one whoever reads
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def _usual_hint(error: EvctlError, argv: Sequence[str]) -> str:
    """What helps most after an error that names nothing better: a look around, or how the verb is used."""
    if error.exit_code in (UnavailableError.exit_code, NotAllowedError.exit_code):
        env = next((f" --env {value}" for option, value in pairwise([*argv, ""]) if option in ("-e", "--env")), "")
        return f"evctl doctor{env}"
    two = " ".join(argv[:2])
    verb = two if two in VERBS else " ".join(argv[:1])
    return f"evctl {verb} --help" if verb else "evctl --help"


def _give_up_stdout() -> None:
    # nothing may be written at exit either
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _on_terminate() -> signal.Handlers | None:
    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: somebody embeds us
        return None
    return signal.SIG_DFL


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["__complete"]:
        from evctl.completion import complete

        print("\n".join("\t".join(offer) for offer in complete(argv[1:] or [""], VERBS)))
        return 0
    if not argv or argv[0] in ("--help", "-h"):
        print(overview())
        return 0 if argv else 2
    if "--no-color" in argv:
        os.environ["NO_COLOR"] = "1"
        argv.remove("--no-color")
        return _dispatch(argv)
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb, rest = _verb(argv)
    _, target, _ = VERBS[verb]
    module, function = target.split(":")
    return _call(getattr(importlib.import_module(f"evctl.commands.{module}"), function), verb, rest)


def _verb(argv: list[str]) -> tuple[str, list[str]]:
    from evctl.errors import UsageError

    two = " ".join(argv[:2])
    if two in VERBS:
        return two, argv[2:]
    if argv[0] in VERBS:
        return argv[0], argv[1:]
    family = [name for name in VERBS if name.startswith(argv[0] + " ")]
    if family:
        raise UsageError(
            f"evctl {argv[0]} needs one of: {', '.join(name.split()[1] for name in family)}", hint=f"evctl {family[0]}"
        )
    import difflib

    near = difflib.get_close_matches(argv[0], VERBS, n=1)
    if argv[0].startswith("-"):
        raise UsageError(
            f"no verb before {argv[0]!r}", hint=f"evctl VERB {' '.join(argv[:2])}: options follow the verb"
        )
    raise UsageError(f"no verb {argv[0]!r}", hint=f"evctl {near[0]}" if near else "evctl --help")


def _call(function: object, verb: str, rest: list[str]) -> int:
    import typer
    from typer._click.exceptions import ClickException

    from evctl.errors import UsageError

    app = typer.Typer(
        add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["--help", "-h"]}
    )
    app.command(no_args_is_help=False, epilog=EPILOG)(function)  # type: ignore[type-var]
    command = typer.main.get_command(app)
    try:
        # not main(): it answers a closed pipe itself, with 1
        with command.make_context(f"evctl {verb}", rest) as context:
            result = command.invoke(context)
    except typer.Exit as left:  # --help
        return int(left.exit_code)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except ClickException as error:
        if verb == "secrets apply" and "unexpected extra argument" in error.format_message():
            from evctl.secrets.checking import values_on_the_line

            raise values_on_the_line() from None
        raise UsageError(error.format_message().replace("Value error, ", ""), hint=f"evctl {verb} --help") from error
    return int(result) if isinstance(result, int) else 0


def overview() -> str:
    """Return the help page: verbs by group, and the exit codes."""
    lines = [f"evctl {__version__}: operate the EV battery health fault classifier", "", "usage: evctl VERB [options]"]
    for group in (PIPELINE, RUNS, SERVING, STATE):
        lines += ["", group]
        lines += [f"  {name:<16} {text}" for name, (where, _, text) in VERBS.items() if where == group]
    lines += [
        "",
        "most verbs: --env NAME (else EVCTL_ENV, else local), -o table|json|yaml|name, -q,",
        "  --no-color, --debug, --help; help exit-codes | environment | role | json",
        "",
        EXIT_CODES,
    ]
    return "\n".join(lines)


def _wants_json(argv: Sequence[str]) -> bool:
    options = takewhile(lambda word: word != "--", argv)
    return any(_ASKS_JSON.fullmatch(f"{option} {value}") for option, value in pairwise([*options, ""]))


def _tell(code: str, message: str, hint: str | None, exit_code: int, as_json: bool) -> int:
    if as_json:
        said = json.dumps({"error": {"code": code, "message": message, "hint": hint}})
    else:
        said = f"error: {message}" + (f"\n  next: {hint}" if hint else "")
    with contextlib.suppress(OSError):  # where nobody can be told, the exit code says it
        print(said, file=sys.stderr, flush=True)
    return exit_code
