"""Python source without what only people read: an archive has room for code alone. Pure."""

from __future__ import annotations

import ast
import io
import tokenize


def bare(source: bytes) -> bytes:
    """Return a module's source without docstrings and comments, line by line where it was: tracebacks still fit."""
    lines = source.decode().splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        told = [each for each in body if _is_told(each)] if isinstance(body, list) else []
        for each in told:
            indent = lines[each.lineno - 1][: each.col_offset]
            lines[each.lineno - 1 : each.end_lineno] = ["\n"] * (int(each.end_lineno or 0) - each.lineno + 1)
            if len(told) == len(body or ()):
                lines[each.lineno - 1] = f"{indent}...\n"
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    return "".join(lines).encode()


def _is_told(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
