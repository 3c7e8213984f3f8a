"""What the predictor does not serve: told in one line, before anything is unpickled, and never listened with."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import joblib
import pytest

from ev_ml.bundle import MANIFEST, content_digest
from tests.serving.conftest import start

pytestmark = [pytest.mark.local, pytest.mark.slow]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


class Gone:
    """Its module is one that the server does not have."""


Gone.__module__ = "a_module_of_another_image"


def rewritten(folder: Path) -> None:
    """Make the manifest true again for changed files, as somebody who means harm would."""
    import hashlib

    document = json.loads((folder / MANIFEST).read_text())
    document["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in document["files"]}
    document["digest"] = content_digest(document["files"], tuple(document["features"]))
    (folder / MANIFEST).write_text(json.dumps(document))


def ended(bundle: Path, work: Path) -> str:
    process, announce = start(bundle, work)
    try:
        assert process.wait(60) == 1
    finally:
        process.kill()
    assert not announce.exists()
    said: str = (work / "log").read_text().strip()
    return said


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("trap", "refused: DigestMismatch: model.joblib is not the file the manifest names"),
        ("other scikit-learn", "refused: VersionMismatch: the model was pickled with scikit-learn 1.5.2"),
        ("empty", "refused: IncompleteBundle: no manifest.json"),
        ("no model", "refused: IncompleteBundle: model.joblib is missing"),
        ("garbage manifest", "refused: IncompleteBundle: the manifest is not readable"),
        ("other answers", "refused: GoldenMismatch: golden rows differ by"),
        ("golden of another kind", "refused: GoldenMismatch: the golden rows cannot be answered"),
        ("class not installed", "refused: BundleError: model.joblib is the recorded file, and cannot be loaded"),
    ],
)
def test_a_bundle_that_is_not_right_is_refused_in_one_line(
    damage: str, told: str, good_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, sprung = tmp_path / "b", tmp_path / "sprung"
    shutil.copytree(good_bundle, bundle)
    if damage == "trap":
        joblib.dump(Trap(sprung), bundle / "model.joblib")
    elif damage == "other scikit-learn":
        joblib.dump(Trap(sprung), bundle / "model.joblib")
        rewritten(bundle)
        document = json.loads((bundle / MANIFEST).read_text())
        document["versions"]["scikit-learn"] = "1.5.2"
        (bundle / MANIFEST).write_text(json.dumps(document))
    elif damage == "empty":
        shutil.rmtree(bundle)
        bundle.mkdir()
    elif damage == "no model":
        (bundle / "model.joblib").unlink()
    elif damage == "garbage manifest":
        (bundle / MANIFEST).write_bytes(b"\xff{")
    elif damage == "other answers":
        golden = json.loads((bundle / "golden.json").read_text())
        golden["probabilities"][0][0] += 0.01
        (bundle / "golden.json").write_text(json.dumps(golden))
        rewritten(bundle)
    elif damage == "golden of another kind":
        (bundle / "golden.json").write_text("[]")
        rewritten(bundle)
    else:
        module = types.ModuleType(Gone.__module__)
        module.Gone = Gone  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, Gone.__module__, module)
        joblib.dump(Gone(), bundle / "model.joblib")
        rewritten(bundle)
    said = ended(bundle, tmp_path / "work")
    assert said.splitlines()[-1].startswith(told), said
    assert "Traceback" not in said
    assert not sprung.exists()
