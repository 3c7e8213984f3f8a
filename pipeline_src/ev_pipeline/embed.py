"""Our source carried inside the pipeline, for pods of a stock Python image.

Each step carries only the modules its body reaches, without docstrings and comments, so the archive stays small and a
change of one step's code does not cost the others their cached results. kfp's own archive holds timestamps
(kubeflow-facts 21); this one is normalised.
"""

from __future__ import annotations

import ast
import base64
import gzip
import importlib.util
import inspect
import io
import re
import tarfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

from ev_pipeline.bare import bare

OURS = ("ev_ml", "ev_serving", "evctl")
STAYS = frozenset({"evctl.rollout.serving.local"})
"""What no pod runs: the service on one machine."""
LIMIT = 80_000
"""Bytes of an archive: the program is one argument of `sh -c`, and 98,000 fail with E2BIG (kubeflow-facts 21)."""
PACKAGES = (
    "apprise",
    "grpcio",
    "joblib",
    "kubernetes",
    "numpy",
    "obstore",
    "pandas",
    "protobuf",
    "pyarrow",
    "scikit-learn",
    "scipy",
)
"""What the steps import beside us; an embedded image installs the versions the running evctl has."""
_ARCHIVE = re.compile(r"^__KFP_EMBEDDED_ARCHIVE_B64 = '[^']*'", re.MULTILINE)


def pins() -> list[str]:
    """Return `PACKAGES` as `name==version` of this installation."""
    return [f"{name}=={version(name)}" for name in PACKAGES]


def with_source(component: Any, body: FunctionType | Callable[..., Any]) -> Any:
    """Put a body's archive into a component that was made with some `embedded_artifact_path`; returns the component."""
    content = base64.b64encode(archive(carried(textwrap.dedent(inspect.getsource(body))))).decode()
    command = component.component_spec.implementation.container.command
    command[-1], replaced = _ARCHIVE.subn(f"__KFP_EMBEDDED_ARCHIVE_B64 = '{content}'", command[-1])
    if replaced != 1:
        raise RuntimeError("kfp embeds in another way than 2.17.0 does: pin it, or adapt ev_pipeline.embed")
    return component


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar.gz of files by path: sorted, no times, no owners, so that equal content gives equal bytes.

    Raises:
        ValueError: it is larger than one program argument may be.
    """
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(plain.getvalue())
    content = packed.getvalue()
    if len(content) > LIMIT:
        raise ValueError(f"the embedded source has {len(content):,} bytes; at most {LIMIT:,} fit: use a prebuilt image")
    return content


def carried(source: str) -> dict[str, bytes]:
    """Return the modules that a piece of source imports as they go into its archive: bare, but for those handed on.

    What a step hands on is to be the same content there as from an installed evctl.
    """
    found = modules_of(source)
    whole = {_key(name) for content in found.values() for name in _handed_on(ast.parse(content))}
    return {key: content if key in whole else bare(content) for key, content in found.items()}


def modules_of(source: str) -> dict[str, bytes]:
    """Return our modules that a piece of source imports, directly or not, as path in the archive -> content."""
    found: dict[str, bytes] = {}
    seen: set[tuple[str, bool]] = set()
    waiting = [(name, True) for name in _imports(ast.parse(source), "", deep=True)]
    while waiting:
        name, deep = waiting.pop()
        file = _file(name)
        key = _key(name)
        if file is None or name in STAYS or (key, True) in seen or (key, deep) in seen:
            continue
        seen.add((key, deep))
        found[key] = file.read_bytes()
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [(each, deep) for each in _imports(ast.parse(found[key]), package, deep=deep)]
        parent = name.rpartition(".")[0]
        if parent:
            # a package on the way is run, but nobody calls its functions: what those import is not needed
            waiting.append((parent, False))
    return found


def _imports(tree: ast.Module, package: str, *, deep: bool) -> Iterator[str]:
    for node in _nodes(tree, deep):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OURS)
    yield from _handed_on(tree)


def _handed_on(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that one hands on as files without importing them."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "CARRIES":
            yield from ast.literal_eval(node.value)


def _key(name: str) -> str:
    """Return a module's path in an archive."""
    file = _file(name)
    return name.replace(".", "/") + ("/__init__.py" if file and file.name == "__init__.py" else ".py")


def _nodes(tree: ast.AST, deep: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            continue
        yield node
        if deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _nodes(node, deep)


@lru_cache
def _file(name: str) -> Path | None:
    """Return a module's source file; None when the name is not a module but something in one. Nothing is imported."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    module = Path(spec.origin).parent.joinpath(*rest)
    found = (module / "__init__.py", module.with_name(module.name + ".py"))
    return next((path for path in found if path.is_file()), None)
