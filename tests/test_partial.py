"""The folder of a copy that is not whole yet: it goes when the copy ends, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evctl.backends.partial import partial_copy
from evctl.errors import UnavailableError

COPYING = """
import sys, time
from pathlib import Path
from evctl.backends.partial import partial_copy

with partial_copy(Path(sys.argv[1])) as work:
    (work / "content").write_text("half")
    print(work.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_lies_beside_the_target_and_goes_with_what_is_in_it(folder: Path) -> None:
    target = folder / "ingest" / "raw"
    with partial_copy(target) as work:
        assert work.parent == target.parent
        (work / "content").write_text("half")
    assert names(target.parent) == []
    with pytest.raises(KeyboardInterrupt), partial_copy(target) as work:
        (work / "content").write_text("half")
        raise KeyboardInterrupt
    assert names(target.parent) == []


def test_what_a_killed_copy_left_goes_at_the_next_one_and_what_a_living_one_writes_stays(folder: Path) -> None:
    target = folder / "models[0]"
    copying = [
        subprocess.Popen([sys.executable, "-c", COPYING, str(target)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    killed, living = copying
    works = [each.stdout.readline().strip() for each in copying if each.stdout]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert names(folder) == sorted(works)
    with partial_copy(target) as work:
        assert names(folder) == sorted([works[1], work.name])
    with partial_copy(folder / "other"):
        pass
    living.kill()
    living.wait()
    assert names(folder) == works[1:]
    with partial_copy(folder / "other"):  # another artifact's are none of its business
        assert works[1] in names(folder)


def test_what_was_there_before_a_killed_copy_put_it_aside_comes_back(folder: Path) -> None:
    left = folder / ".model.part-killed"
    (left / "old").mkdir(parents=True)
    (left / "old" / "weights").write_text("older")
    with pytest.raises(RuntimeError), partial_copy(folder / "model"):
        raise RuntimeError
    assert (folder / "model" / "weights").read_text() == "older"
    assert names(folder) == ["model"]


def test_files_and_links_of_such_a_name_are_left_alone(folder: Path) -> None:
    (folder / ".raw.part-file").write_text("mine")
    (folder / "elsewhere").mkdir()
    (folder / ".raw.part-link").symlink_to(folder / "elsewhere")
    with partial_copy(folder / "raw"):
        pass
    assert names(folder) == [".raw.part-file", ".raw.part-link", "elsewhere"]
    assert names(folder / "elsewhere") == []


def test_a_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be written") as caught, partial_copy(folder / "file" / "raw"):
        pass
    assert "--download" in str(caught.value.hint)
