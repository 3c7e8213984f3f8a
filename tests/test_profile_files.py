"""Profiles as files: what is refused when one is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evctl.cli import run
from evctl.profile_files import load_profile

LOGINS = {
    "store": 'store: {uri: "s3://AKIA:k3y-1@bucket/prefix"}',
    "slash": 'store: {uri: "s3://AKIA:k3y/1@bucket/prefix"}',
    "key only": 'store: {uri: "s3://k3y-1@bucket/prefix"}',
    "variable": 'store: {uri: "${WHERE}"}',
    "endpoint": 'store: {uri: "s3://bucket", endpoint: "http://AKIA:k3y-1@127.0.0.1:9000"}',
    "host": 'store: {uri: /tmp/s}\nkubeflow: {host: "https://ann:k3y-1@kubeflow.example"}',
    "not a mapping": 'store: "s3://AKIA:k3y-1@bucket"',
    "in a list": 'store: {uri: /tmp/s}\nkubeflow: {auth: {token_command: [curl, "https://ann:k3y-1@idp/token"]}}',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "secrets-in-profiles"  # a name that tests/secrecy.py knows for a source
    monkeypatch.setenv("EVCTL_PROFILES", str(folder))
    folder.mkdir()
    return folder


@pytest.mark.parametrize("text", LOGINS.values(), ids=LOGINS)
@pytest.mark.parametrize("verb", ["profile check dev", "profile show dev", "doctor --env dev"])
def test_a_url_that_holds_a_login_is_refused_and_not_printed(
    text: str, verb: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHERE", "s3://AKIA:k3y-1@bucket/prefix")
    (folder / "dev.yaml").write_text(text)
    assert run([*verb.split(), "-o", "json"]) == 2
    out, err = capsys.readouterr()
    assert "k3y" not in out + err
    assert "AKIA" not in out + err
    told = json.loads(err.splitlines()[-1])["error"]
    assert "dev.yaml:" in told["message"]
    assert "the URL holds a login" in told["message"]
    assert told["hint"]


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/prefix", "s3://bucket/a@b", "s3://bucket/a:b@c", "file:///data/me@home", "/data/me@home", "gs://b"],
)
def test_an_at_sign_in_a_path_is_no_login(uri: str, folder: Path) -> None:
    (folder / "dev.yaml").write_text(f'store: {{uri: "{uri}", endpoint: "http://127.0.0.1:9000/a@b"}}')
    assert load_profile("dev").profile.store.uri == uri
