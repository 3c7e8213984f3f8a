"""What a run needs of this machine: Python, versions, the state folder, disk, ports, secrets, the store."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sqlite3
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

from evctl.doctor.checks import Check, Finding, failed, passed, warned
from evctl.errors import UnavailableError
from evctl.profile import Profile
from evctl.state import home

NEWEST_PYTHON = (3, 13)
"""scikit-learn's and kserve's wheels of the pinned versions end here."""

STORE_FIX = "check store.uri and store.endpoint in the profile, and export the store's credentials"
FULL_BYTES, LOW_BYTES = 1 << 30, 5 << 30
"""A run of v1 writes about half a gigabyte: below one no run ends, below five a few more do."""


def local_checks(profile: Profile) -> tuple[Check, ...]:
    """Return the checks that any engine needs."""
    checks = [
        Check("python", python_version),
        Check("versions", pinned_versions),
        Check("state folder", state_folder),
        Check("ledger", ledger),
        Check("disk", disk_space),
        Check("profile", partial(profile_valid, profile)),
        Check("secrets", partial(secret_keys, profile)),
        Check("channels", partial(channels, profile)),
        Check("store", partial(store_works, profile), fix=STORE_FIX),
    ]
    if profile.backend == "local":
        checks.append(Check("port", partial(serving_port, profile)))
    return tuple(checks)


def python_version() -> Finding:
    """Is this Python one that the packages support?"""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        return warned(f"Python {found} is newer than any evctl was tried with", f"python{newest} -m venv .venv")
    return passed(f"Python {found}")


def pinned_versions() -> Finding:
    """Do the installed packages meet evctl's own requirements?"""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = metadata.requires("evctl") or []
    except metadata.PackageNotFoundError:
        return failed("evctl is not installed", "pip install -e .")
    off, count = [], 0
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            off.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            off.append(f"{requirement.name} {found}, not {requirement.specifier}")
    if off:
        return failed("; ".join(off), "pip install -c constraints.txt -e .")
    return passed(f"{count} packages as pinned")


def state_folder() -> Finding:
    """Can the state folder be written, and only by us?"""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{secrets.token_hex(4)}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return failed(f"{folder}: {error.strerror or error}", "set EVCTL_HOME to a folder you can write")
    if folder.stat().st_mode & 0o002:
        return warned(f"{folder} can be written by everybody", f"chmod o-w {folder}")
    return passed(str(folder))


def ledger() -> Finding:
    """Is the run index readable?"""
    path = home() / "state.db"
    if not path.exists():
        return passed("no run yet")
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2) as db:
            answer = str(db.execute("pragma quick_check").fetchone()[0])
    except sqlite3.Error as error:
        return warned(f"{path} is damaged ({error}); it is set aside and rebuilt", "evctl runs")
    return passed("run index sound") if answer == "ok" else warned(f"{path}: {answer}", "evctl runs")


def disk_space() -> Finding:
    """Is there room for a run?"""
    folder = next(parent for parent in (home(), *home().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    said = f"{free / (1 << 30):.1f} GiB free at {folder}"
    fix = "free some space, or set EVCTL_HOME to a folder elsewhere"
    if free < FULL_BYTES:
        return failed(said, fix)
    return warned(said, fix) if free < LOW_BYTES else passed(said)


def profile_valid(profile: Profile) -> Finding:
    """Does the profile hold together beyond its types?"""
    if profile.backend == "kubeflow" and profile.image.name is None:
        return warned("image.name is unset: it compiles, and upload and run refuse", "set image.name by digest")
    names = [channel.name for channel in profile.notify.channels]
    if len(names) != len(set(names)):
        return failed("two notification channels have one name", "evctl profile show")
    if profile.drift.persistence > profile.drift.window:
        return failed("drift.persistence exceeds drift.window: it can never retrain", "evctl profile show")
    return passed(f"{profile.name}, {profile.backend}")


def secret_keys(profile: Profile) -> Finding:
    """Are the secret keys that the profile requires there, and private?"""
    wanted = [key for mount in profile.secrets for key in mount.keys]
    if not wanted:
        return passed("none required")
    if profile.backend != "local":
        return passed(f"{len(wanted)} key(s) required, kept on the cluster")
    folder = Path(os.environ.get("EV_SECRETS_DIR") or home() / "secrets")
    missing = [key for key in wanted if not _somewhere(folder, key)]
    if missing:
        return failed(f"missing: {', '.join(missing)}", "evctl secrets apply")
    return passed(f"{len(wanted)} key(s) there")


def channels(profile: Profile) -> Finding:
    """Does each notification channel find its URL and key?"""
    from evctl import telling
    from evctl.notify.channels import channels_from, secret_of

    found = channels_from(telling.settings(profile))
    if not found:
        return passed("none configured")
    if profile.backend != "local":
        return passed(f"{len(found)} channel(s); evctl notify test --env {profile.name} tries them")
    with telling.credentials(profile, lambda _: None) as at_hand:
        lacking = [channel.name for channel in found if not secret_of(channel, at_hand)]
    if lacking:
        return warned(
            f"no URL for: {', '.join(lacking)}", "evctl secrets apply, or set the variable that the profile names"
        )
    return passed(f"{len(found)} channel(s)")


def store_works(profile: Profile) -> Finding:
    """Can the store be written, read and listed?"""
    from evctl.rollout.store import Store

    store = Store(profile.store.model_dump(mode="json", exclude_none=True))
    key, content = "doctor/probe", secrets.token_bytes(16)
    try:
        store.overwrite(key, content)
    except UnavailableError:
        if store.uri.startswith("s3://") and not os.environ.get("AWS_ACCESS_KEY_ID"):
            fix = "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            return failed(f"{store.uri} cannot be written: this machine has no credentials for it", fix)
        raise
    if store.read(key) != content or key not in store.keys("doctor/"):
        return failed(f"{store.uri} does not give back what was written", "look at the store's own health")
    return passed(store.uri)


def serving_port(profile: Profile) -> Finding:
    """Is the local service's port free, or ours?"""
    port = profile.serving.port
    if port == 0:
        return passed("a free port is picked once and kept")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return warned(f"port {port} is taken: by the service itself, or by something else", "evctl serving")
    return passed(f"port {port} is free")


def _somewhere(folder: Path, key: str) -> bool:
    return (folder / key).is_file() or any(path.is_file() for path in folder.glob(f"*/{key}"))
