"""Copying a run's artifacts into a folder: where each goes, and what is told of those that do not come."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from evctl.backends.base import Artifact
from evctl.downloading import download, places, target_of
from evctl.errors import ElsewhereError, EvctlError, FailedError, NotAllowedError, NotFoundError, UnavailableError


def an_artifact(task: str, name: str, uri: str = "minio://b/k", type: str = "system.Dataset") -> Artifact:
    return Artifact(task, name, type, uri)


def place(task: str, name: str) -> str:
    return str(places([an_artifact(task, name)])[0])


def test_an_artifact_lies_under_its_group_its_task_and_its_name() -> None:
    assert place("ingest", "raw") == "ingest/raw"
    assert place("left/train[2]", "models[0]") == "left/train[2]/models[0]"


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [
        ("ingest", "../../../escaped", "ingest/%2E.%2F..%2F..%2Fescaped"),
        ("ingest", "/etc/passwd", "ingest/%2Fetc%2Fpasswd"),
        ("ingest", "..", "ingest/%2E."),
        ("ingest", ".", "ingest/%2E"),
        ("ingest", "", "ingest/unnamed"),
        ("ingest", "a\0b\x1b[2J", "ingest/a%00b%1B[2J"),
        ("ingest", "a\\b", "ingest/a%5Cb"),
        ("ingest", "a%2Fb", "ingest/a%252Fb"),
        ("ingest", ".raw.part-x", "ingest/%2Eraw.part-x"),
        ("../../x", "raw", "%2E./%2E./x/raw"),
        ("/etc", "raw", "unnamed/etc/raw"),
        ("", "", "unnamed/unnamed"),
        (".", "\ud800", "%2E/%ED%A0%80"),
        ("tägliche läufe", "日", "tägliche läufe/日"),
    ],
)
def test_no_name_leads_out_of_the_folder(task: str, name: str, wanted: str) -> None:
    found = place(task, name)
    assert found == wanted
    assert (Path("/out") / found).resolve().is_relative_to("/out")
    assert len(PurePosixPath(found).parts) >= 2  # never a task's own folder


def test_a_place_that_would_be_outside_is_refused(tmp_path: Path) -> None:
    assert target_of(tmp_path, PurePosixPath("ingest/raw")) == tmp_path / "ingest" / "raw"
    for outside in ("../raw", "ingest/../../raw", "/etc/passwd", "", "."):
        with pytest.raises(FailedError, match="outside"):
            target_of(tmp_path, PurePosixPath(outside))


def test_a_long_name_is_cut_and_stays_one_of_its_own() -> None:
    one, other = places([an_artifact("ingest", "ä" * 500 + "1"), an_artifact("ingest", "ä" * 500 + "2")])
    assert one != other
    assert max(len(part.encode()) for part in (*one.parts, *other.parts)) <= 204


def test_two_artifacts_never_have_one_place_nor_does_one_lie_inside_another() -> None:
    found = places(
        [
            an_artifact("ingest", "raw"),
            an_artifact("ingest", "raw", "minio://b/other"),
            an_artifact("ingest", "RAW"),  # the same file where a disk does not tell case
            an_artifact("ingest", ""),
            an_artifact("ingest", "unnamed"),
            an_artifact("group", "train"),
            an_artifact("group/train", "model"),
            an_artifact("other/train", "model"),
            an_artifact("other", "train"),
        ]
    )
    assert [str(each) for each in found] == [
        "ingest/raw",
        "ingest/raw~2",
        "ingest/RAW~3",
        "ingest/unnamed",
        "ingest/unnamed~2",
        "group/train",
        "group~2/train/model",
        "other/train/model",
        "other/train~2",
    ]


class Store:
    """`fetch` of a backend: what it knows comes, all else fails as told."""

    def __init__(self, **errors: EvctlError) -> None:
        self.errors = errors

    def fetch(self, artifact: Artifact, target: Path) -> Path:
        if artifact.name in self.errors:
            raise self.errors[artifact.name]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(artifact.uri)
        return target


def test_what_fails_first_stops_nothing_and_the_worst_of_all_is_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(
        locked=NotAllowedError("the store refuses a", hint="evctl doctor"),
        away=UnavailableError("b: no answer", hint="look at c"),
        gone=NotFoundError("d is not in the store"),
    )
    given = [an_artifact("t", name) for name in ("locked", "away", "raw", "gone", "model")]
    with pytest.raises(UnavailableError) as caught:
        download(store, given, tmp_path)
    assert caught.value.message == "3 of 5 artifacts could not be copied: t.locked, t.away, t.gone; b: no answer"
    assert caught.value.hint == "look at c"
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["model", "raw"]
    assert capsys.readouterr().err.splitlines() == [
        f"t.raw -> {tmp_path}/t/raw",
        f"t.model -> {tmp_path}/t/model",
        "t.locked: not copied: the store refuses a",
        "t.away: not copied: b: no answer",
        "t.gone: not copied: d is not in the store",
    ]


def test_what_was_never_in_a_store_is_a_note_and_what_is_gone_from_it_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(
        page=ElsewhereError("evctl does not copy from https: https://a"), gone=NotFoundError("d is not in the store")
    )
    given = [an_artifact("t", "page"), an_artifact("t", "raw")]
    download(store, given, tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        "t.page: not copied: evctl does not copy from https: https://a",
        f"t.raw -> {tmp_path}/t/raw",
    ]
    with pytest.raises(FailedError, match=r"gone from the store: t\.gone$") as caught:
        download(store, [*given, an_artifact("t", "gone")], tmp_path)
    assert caught.value.exit_code == 1


def test_metrics_without_a_file_are_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = an_artifact("t", "gone", type="system.ClassificationMetrics")
    download(Store(gone=NotFoundError("d is not in the store")), [metrics], tmp_path)
    assert capsys.readouterr().err == "t.gone: no file, its values are its metadata\n"


def test_one_tasks_artifacts_lie_where_they_do_when_all_are_copied(tmp_path: Path) -> None:
    given = [an_artifact("group", "train"), an_artifact("group/train", "model")]
    download(Store(), given, tmp_path, task="group/train")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("model")] == ["group~2/train/model"]


def test_a_name_moves_no_cursor_and_makes_no_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(Store(), [an_artifact("t", "a\x1b[2J\nt.model -> /etc")], tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"t.a�[2J�t.model -> /etc -> {tmp_path}/t/a%1B[2J%0At.model -> %2Fetc"
    ]
