"""Profiles as files: what is refused when one is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evctl.cli import run
from evctl.errors import UsageError
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


PASTED = {
    "a JWT": "token_env: eyJhbGciOi.eyJzdWIi.t0ken-part",
    "a bearer": 'token_env: "Bearer t0ken"',
    "one long word": "token_env: ghp_16C7e42F292c6912E7710c838347Ae178B4at0ken",
    "hexadecimal": "token_env: d0d34db33fd34db33fd34db33fd34db33fd34db33f_t0ken",
    "too long": f"token_env: {'t0ken_' * 22}x",
    "a number": "token_env: 8675309",
    "a list": "token_env: [t0ken]",
    "a digit first": "token_env: 1t0ken",
    "nothing": 'token_env: ""',
    "a variable's": "token_env: ${PASTED}",
    "the wrong key": "kind: eyJ.t0ken",
}


@pytest.mark.parametrize("text", PASTED.values(), ids=PASTED)
@pytest.mark.parametrize("more", [(), ("--debug",)], ids=["", "debug"])
def test_a_login_pasted_where_its_variable_is_named_is_refused_and_not_printed(
    text: str, more: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PASTED", "eyJ.t0ken")
    (folder / "dev.yaml").write_text(f"store: {{uri: /tmp/s}}\nkubeflow:\n  auth:\n    {text}\n")
    assert run(["runs", "--env", "dev", "-o", "json", *more]) == 2
    out, err = capsys.readouterr()
    for part in ("t0ken", "8675309", "eyJ", "ghp_", "d34db33f"):
        assert part not in out + err
    told = json.loads(err.splitlines()[-1])["error"]
    assert "dev.yaml:4: kubeflow.auth." in told["message"]
    if text.startswith("token_env"):
        assert "the name of a variable is like KUBEFLOW_TOKEN" in told["message"]


def test_a_login_pasted_in_place_of_its_settings_is_not_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "dev.yaml").write_text("store: {uri: /tmp/s}\nkubeflow: {auth: eyJ.t0ken}\n")
    assert run(["runs", "--env", "dev"]) == 2
    assert "eyJ" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "text",
    [
        "kubeflow: {auth: {token_env: t0ken-x.y}}",
        "notify: {channels: [{name: a, url_env: 'https://hooks.example/t0ken'}]}",
        "notify: {channels: [{name: a, hmac_env: t0ken-x}]}",
    ],
)
def test_every_key_that_names_a_variable_takes_a_name_alone(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "dev.yaml").write_text(f"store: {{uri: /tmp/s}}\n{text}\n")
    assert run(["profile", "check", "dev"]) == 2
    assert "t0ken" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["T", "_x", "kfpToken", "KUBEFLOW_PIPELINES_SERVICE_ACCOUNT_TOKEN_OF_DEV", "TOKEN2"])
def test_a_variables_name_is_taken(name: str, folder: Path) -> None:
    (folder / "dev.yaml").write_text(
        f"store: {{uri: /tmp/s}}\nkubeflow: {{auth: {{kind: token, token_env: {name}}}}}\n"
    )
    assert load_profile("dev").profile.kubeflow.auth.token_env == name


NO_HOSTS = [
    "http://[::1", "http://not a host", "not a host", "http://127.0.0.1:99999", "http://h:0", "http://h:port", "http://",
    "http://:80", "://h", "ftp://h", "http://a..b", "http://-a.b", "http://[nonsense]:80", "http://[::1]x", "http:/h",
    "http://h/pipeline/#/runs", "http://h/?x=1", f"http://{'a' * 64}.b", "http://h\\x", "ann:k3y-1@h", "http://h:1:2",
    "http://999.1.1.1", "[]",
]  # fmt: skip


@pytest.mark.parametrize("host", NO_HOSTS)
@pytest.mark.parametrize("key", ["host", "metadata_host"])
def test_an_address_that_can_be_none_is_refused_before_anything_is_asked(
    key: str, host: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHERE", host)
    for written in (json.dumps(host), '"${WHERE}"'):
        (folder / "dev.yaml").write_text(f"store: {{uri: /tmp/s}}\nbackend: kubeflow\nkubeflow: {{{key}: {written}}}\n")
        assert run(["runs", "--env", "dev", "-o", "json"]) == 2
        told = json.loads(capsys.readouterr().err)["error"]
        assert f"dev.yaml:3: kubeflow.{key}: " in told["message"]
        assert " is like " in told["message"] and "1 to 65535" in told["message"]
        assert "k3y-" not in told["message"]


@pytest.mark.parametrize("host", ["h:8080/x", "http://h:1/pipeline"])
def test_ml_metadata_has_no_path(host: str, folder: Path) -> None:
    (folder / "dev.yaml").write_text(f"store: {{uri: /tmp/s}}\nkubeflow: {{metadata_host: '{host}'}}\n")
    with pytest.raises(UsageError, match="metadata_host: "):
        load_profile("dev")


@pytest.mark.parametrize(
    ("key", "host"),
    [
        *(("host", f"http://{each}") for each in ("h", "h.", "127.0.0.1:8888", "[::1]:8888", "[fe80::1%25eth0]", "a_b.c")),
        ("host", "https://kubeflow.example/pipeline/"), ("host", "ml-pipeline.kubeflow:8888"), ("host", "h"),
        ("host", "HTTPS://H:65535/a/b"), ("host", "http://bücher.example"), ("host", "127.0.0.1"),
        ("metadata_host", "h:8080"), ("metadata_host", "grpcs://h:443"), ("metadata_host", "https://h:443/"),
        ("metadata_host", "[::1]:8080"),
    ],
)  # fmt: skip
def test_an_address_is_a_url_or_a_name_with_a_port(key: str, host: str, folder: Path) -> None:
    (folder / "dev.yaml").write_text(f"store: {{uri: /tmp/s}}\nkubeflow: {{{key}: '{host}'}}\n")
    assert getattr(load_profile("dev").profile.kubeflow, key) == host


@pytest.mark.parametrize("key", ["host", "metadata_host"])
def test_an_empty_address_is_none_as_an_unset_variable_is(key: str, folder: Path) -> None:
    (folder / "dev.yaml").write_text(f"store: {{uri: /tmp/s}}\nkubeflow: {{{key}: '${{NOT_SET:-}}'}}\n")
    assert getattr(load_profile("dev").profile.kubeflow, key) is None
