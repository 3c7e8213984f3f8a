"""What the platform spec gives a task: timeout, secrets as files and as variables."""

from __future__ import annotations

import stat
from pathlib import Path

from evctl.backends.local.mounts import Mount, SecretCopies, mounts_of
from evctl.compiler import compile_profile
from evctl.profile_files import load_profile


def test_the_product_s_own_package_gives_training_its_timeout_and_its_secret() -> None:
    compiled = compile_profile(load_profile("prod").profile)
    mount = mounts_of([compiled.spec, compiled.platform])["train_fault_classifier"]
    assert mount.timeout_s == 7200
    assert mount.files == ("ev-telemetry-secret",)


def test_a_package_of_one_document_mounts_nothing() -> None:
    assert mounts_of([{"root": {}}]) == {}


def test_copies_of_a_secret_are_readable_by_this_user_alone(tmp_path: Path) -> None:
    source = tmp_path / "secrets" / "s"
    source.mkdir(parents=True)
    (source / "KEY").write_text("value")
    (source / "KEY").chmod(0o644)
    (tmp_path / "run").mkdir()
    folder = SecretCopies(tmp_path / "secrets", tmp_path / "run").folder("task", Mount(files=("s", "absent")))
    assert (folder / "KEY").read_text() == "value"
    assert stat.S_IMODE((folder / "KEY").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_secret_as_a_variable_has_the_key_s_value_and_an_absent_one_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "KEY").write_text("value")
    mount = Mount(variables=(("s", "KEY", "NAME"), ("s", "OTHER", "NONE")))
    assert SecretCopies(tmp_path, tmp_path).variables(mount) == {"NAME": "value"}
