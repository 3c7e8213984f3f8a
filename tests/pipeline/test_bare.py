"""Source without docstrings and comments: the same program, at the same lines."""

from __future__ import annotations

import ast
from pathlib import Path

import evctl.rollout
from ev_pipeline.bare import bare

SOURCE = '''"""A module."""  # said

import os  # to look


class Odd(Exception):
    """Nothing but this."""


class Kept:
    """Two
    lines."""

    size: int = 1
    """How large."""

    def told(self) -> str:
        """Say it."""
        # a reason
        return "# no comment" + """and
# none either"""
'''


def program(source: str) -> str:
    """What the source does: its tree without strings that stand for themselves, and without places."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_what_is_told_to_people_goes_and_nothing_else() -> None:
    made = bare(SOURCE.encode()).decode()
    assert made.splitlines() == [
        "", "", "import os", "", "", "class Odd(Exception):", "    ...", "", "", "class Kept:", "", "", "",
        "    size: int = 1", "", "", "    def told(self) -> str:", "", "",
        '        return "# no comment" + """and', '# none either"""',
    ]  # fmt: skip


def test_every_module_that_is_carried_stays_the_same_program_at_the_same_lines() -> None:
    for path in Path(str(evctl.rollout.__file__)).parent.rglob("*.py"):
        source = path.read_text()
        made = bare(source.encode()).decode()
        assert program(made) == program(source), path
        assert len(made.splitlines()) == len(source.splitlines()), path
        assert bare(made.encode()).decode() == made, path
