"""What a shell may complete, found without importing a verb: a TAB has to answer in a blink.

Verbs come from the table, options from each verb's source, runs from the index, profiles and models from their folders.
Nothing is written, nothing is locked, and whatever goes wrong is an empty answer.
"""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evctl.state import home, profile_names

RUNS_OFFERED = 50
SHELLS = ("bash", "zsh", "fish")
Offer = tuple[str, str]
"""A word and what it is."""
FORMATS = ("table", "json", "yaml", "name")
TOPICS = ("exit-codes", "environment", "json", "role")


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb's options, each with whether it takes a value and what its help says, and its arguments' metavars."""

    options: Mapping[str, tuple[bool, str]]
    arguments: tuple[str, ...]


def complete(words: Sequence[str], verbs: Mapping[str, tuple[str, str, str]]) -> list[Offer]:
    """Return what the last of `words` (those after `evctl`) may become.

    Args:
        words: at least one; the last is what is being typed, perhaps empty.
        verbs: the command line's table: verb -> (group, module:function, help).
    """
    *before, word = words
    return list(dict.fromkeys(offer for offer in _offers(before, word, verbs) if offer[0].startswith(word)))


def _offers(before: Sequence[str], word: str, verbs: Mapping[str, tuple[str, str, str]]) -> Iterator[Offer]:
    verb, rest = _verb(before, verbs)
    if verb is None:
        yield from _next_words(list(before), verbs)
        return
    known = _parse(verbs[verb][1])
    if rest and known.options.get(rest[-1], (False, ""))[0]:
        yield from _values(rest[-1])
        return
    if word.startswith("-"):
        yield from ((name, text) for name, (_, text) in known.options.items())
        return
    yield from _arguments(verb, known, rest)


def _next_words(before: list[str], verbs: Mapping[str, tuple[str, str, str]]) -> Iterator[Offer]:
    depth = len(before)
    found: dict[str, list[tuple[str, str]]] = {}
    for name, (_, _, text) in verbs.items():
        head, *tail = name.split()[depth:] or [""]
        if head and name.split()[:depth] == before:
            found.setdefault(head, []).append((" ".join(tail), text))
    for head, family in found.items():
        yield head, family[0][1] if len(family) == 1 else ", ".join(tail for tail, _ in family)


def _verb(before: Sequence[str], verbs: Mapping[str, tuple[str, str, str]]) -> tuple[str | None, Sequence[str]]:
    for depth in (2, 1):
        name = " ".join(before[:depth])
        if len(before) >= depth and name in verbs:
            return name, before[depth:]
    return None, before


def _arguments(verb: str, known: Verb, rest: Sequence[str]) -> Iterator[Offer]:
    given = [
        each
        for at, each in enumerate(rest)
        if not each.startswith("-") and not (at and known.options.get(rest[at - 1], (False, ""))[0])
    ]
    if not known.arguments:
        return
    kind = known.arguments[min(len(given), len(known.arguments) - 1)]
    if len(given) >= len(known.arguments) and not kind.endswith("..."):
        return
    if kind.startswith("RUN"):
        yield from _runs()
    if "MODEL" in kind:
        yield from _models()
    if kind == "PROFILE":
        yield from _profiles()
    if kind == "TASK":
        yield from _tasks()
    fixed = {"SHELL": SHELLS, "TOPIC": TOPICS, "ACTION": ("start", "stop")}.get(kind, ())
    yield from ((each, "") for each in fixed)


def _values(option: str) -> Iterator[Offer]:
    if option in ("--env", "-e"):
        yield from _profiles()
    elif option in ("--output", "-o"):
        yield from ((each, "") for each in FORMATS)
    elif option in ("--task", "-t"):
        yield from _tasks()


def _profiles() -> Iterator[Offer]:
    yield from ((name, "profile") for name in profile_names())


def _tasks() -> Iterator[Offer]:
    source = Path(__file__).parent.parent / "pipeline_src" / "ev_pipeline" / "settings.py"
    shipped = Path(__file__).parent.parent / "ev_pipeline" / "settings.py"
    for path in (source, shipped):
        if path.is_file():
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "TASKS":
                    yield from ((str(task), "task") for task in ast.literal_eval(node.value))
            return


def _runs() -> Iterator[Offer]:
    yield "@latest", "the latest run"
    yield "@last-good", "the latest that registered a model"
    path = home() / "state.db"
    if not path.is_file():
        return
    try:
        # read-only: a TAB neither makes nor locks the index
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.05) as db:
            query = "select run_id, name, state from runs order by created_at desc limit ?"
            yield from ((run_id, f"{name} {state}") for run_id, name, state in db.execute(query, (RUNS_OFFERED,)))
    except sqlite3.Error:
        return


def _models() -> Iterator[Offer]:
    for manifest in sorted((home() / "store" / "models").glob("*/*/manifest.json")):
        yield manifest.parent.name, "model"


@cache
def _parse(target: str) -> Verb:
    """Read a verb's parameters from its source; `typer` alone would cost more than the whole answer may."""
    module, function = target.split(":")
    here = Path(__file__).parent / "commands"
    shared = _aliases(ast.parse((here / "options.py").read_text()))
    tree = ast.parse((here / f"{module}.py").read_text())
    shared |= _aliases(tree)
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    options: dict[str, tuple[bool, str]] = {"--help": (False, "Show the help.")}
    arguments = []
    for parameter in found.args.args:
        note = parameter.annotation
        if isinstance(note, ast.Name):
            note = shared.get(note.id)
        kind, call = _annotated(note)
        if call is None:
            continue
        text = next((k.value.value for k in call.keywords if k.arg == "help" and isinstance(k.value, ast.Constant)), "")
        if call.func.attr == "Argument":  # type: ignore[attr-defined]
            metavar = [k.value.value for k in call.keywords if k.arg == "metavar" and isinstance(k.value, ast.Constant)]
            arguments.append(str(metavar[0]) if metavar else parameter.arg.upper())
            continue
        names = [a.value for a in call.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")]
        for name in names or [f"--{parameter.arg.replace('_', '-')}"]:
            options[str(name)] = (kind != "bool", str(text))
    return Verb(options, tuple(arguments))


def _aliases(tree: ast.Module) -> dict[str, ast.expr]:
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _annotated(note: ast.expr | None) -> tuple[str, ast.Call | None]:
    """Return the type's source and the `typer.Option(...)` or `typer.Argument(...)` of an `Annotated[...]`."""
    if isinstance(note, ast.Subscript) and isinstance(note.slice, ast.Tuple):
        kind, *rest = note.slice.elts
        for each in rest:
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
                return ast.unparse(kind), each
    return "", None
