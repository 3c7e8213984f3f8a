"""What the cache goes by: the content of data and artifacts, not their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evctl.backends.local.content import (
    code_digest,
    drop_if_damaged,
    keep_digests,
    output_digests,
    source_content,
    tree_digest,
)


def test_a_users_file_that_changed_under_its_name_is_another_source(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    arguments = {"data_version": "mine", "data": {"versions": {"mine": {"uri": str(file)}}}}
    file.write_text("a")
    before = source_content(arguments)
    assert source_content(arguments) == before
    file.write_text("b")
    assert source_content(arguments) != before


def test_a_remote_source_is_never_the_same_and_a_fleet_has_none() -> None:
    remote = {"data_version": "far", "data": {"versions": {"far": {"uri": "s3://bucket/key"}, "v1": {"fleet": "v1"}}}}
    assert source_content(remote) != source_content(remote)
    assert source_content({**remote, "data_version": "v1"}) is None
    assert source_content({"features": 1}) is None


def test_a_digest_is_over_names_and_contents_and_not_over_compiled_python(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = tree_digest([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("y")
    assert tree_digest([tmp_path]) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert tree_digest([tmp_path]) != first


def test_an_entry_whose_artifact_was_damaged_is_forgotten(tmp_path: Path) -> None:
    artifact, entry = tmp_path / "artifact", tmp_path / "entry.json"
    artifact.write_text("good")
    outputs = {"out": {"__kfp_artifact__": True, "uri": str(artifact)}}
    entry.write_text(json.dumps(outputs))
    keep_digests(entry, output_digests(outputs))
    drop_if_damaged(entry)
    assert entry.exists()
    artifact.write_text("bad")
    drop_if_damaged(entry)
    assert not entry.exists()


def test_a_step_s_code_is_its_own_and_what_it_imports_of_ours_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ev_pipeline.embed as embed

    package = tmp_path / "ev_ml"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "train": "from ev_ml import schema",
        "schema": "A = 1",
        "drift": "B = 1",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(embed, "_file", lambda name: found(tmp_path / Path(*name.split("."))))

    def digest(source: str = "def step():\n    from ev_ml.train import train\n") -> str:
        code_digest.cache_clear()
        return code_digest(source)

    before = digest()
    (package / "drift.py").write_text("B = 2")
    assert digest() == before
    (package / "schema.py").write_text("A = 2")
    assert digest() != before
    assert digest("def step():\n    from ev_ml.train import train, other\n") != digest()
    code_digest.cache_clear()


def found(path: Path) -> Path | None:
    return next((each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file()), None)
