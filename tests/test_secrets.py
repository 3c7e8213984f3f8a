"""Env files are read as they are meant or refused by line number: no text of theirs is ever repeated."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evctl.cli import run
from evctl.errors import UsageError
from evctl.secrets.env_file import parse_env

SECRET = "ev-telemetry-secret"
WRAPPED = "bXkt" * 19  # base64 wraps at 76 characters
PROFILE = """
backend: local
store: {uri: /tmp/x}
secrets:
  - {name: ev-telemetry-secret, keys: [TELEMETRY_TOKEN], tasks: [train_fault_classifier]}
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.yaml").write_text(PROFILE)
    monkeypatch.setenv("EVCTL_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setenv("EVCTL_ENV", "mine")


def read(text: str, required: tuple[str, ...] = ()) -> dict[str, str]:
    return parse_env(text.encode(), "stdin", required)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=abc", "abc"),
        ("\ufeffA=abc\r\n", "abc"),
        ("export A=abc", "abc"),
        ("export\tA=abc", "abc"),
        ("  A = abc  ", "abc"),
        ("A=", ""),
        ("A=''", ""),
        ("A='abc'", "abc"),
        ("A= 'abc' ", "abc"),
        ("A='x y' # why", "x y"),
        ('A="x # y" # why', "x # y"),
        ("A='x' # it's", "x"),
        ("A=x y # why", "x y"),
        ("A=x\t# why", "x"),
        ("A= # why", ""),
        ("A=x#y", "x#y"),
        ("A=#x", "#x"),
        ("A=' x '", " x "),
        ("A=x=y==", "x=y=="),
        ('A={"a": "b"}', '{"a": "b"}'),
        ('A="{"a": "b"}"', '{"a": "b"}'),
        ("A=${HOME}", "${HOME}"),
        (r'A="a\nb"', r"a\nb"),
        ("A=a\u2028b\x85c\x0bd", "a\u2028b\x85c\x0bd"),
        ("A='=='", "=="),
    ],
)
def test_a_value_is_what_those_who_write_env_files_expect(text: str, value: str) -> None:
    assert read(text) == {"A": value}


def test_lines_that_end_as_windows_or_an_old_mac_ends_them_are_lines() -> None:
    assert read("# why\r\nA=1\r\n\r\nB=2\rC=3\n") == {"A": "1", "B": "2", "C": "3"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("s3cr3t", 1),
        ("A=1\ns3cr3t s3cr3t=1", 2),
        ("A='s3cr3t", 1),
        ('A="s3cr3t\ns3cr3t"', 1),
        ("A='s3cr3t'x", 1),
        ("A=s3\0cr3t", 1),
        ("s3cr3t" * 50 + "=1", 1),
        ("A=1\n..s3cr3t=1", 2),
        (".=s3cr3t", 1),
    ],
)
def test_a_line_that_cannot_be_taken_is_named_by_its_number_only(text: str, line: int) -> None:
    with pytest.raises(UsageError) as told:
        read(text)
    assert told.value.message.startswith(f"stdin:{line}: ")
    assert told.value.hint
    assert "s3cr3t" not in told.value.message + told.value.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"TELEMETRY_TOKEN={WRAPPED}\ns3cr3tABC=\n", 2),
        (f"TELEMETRY_TOKEN={WRAPPED}\n  s3cr3tABCD==  \n", 2),
        (f"TELEMETRY_TOKEN=Basic {WRAPPED}\ns3cr3t-abc=", 2),
        (f"TELEMETRY_TOKEN={WRAPPED}\nAB2D=", 2),
        (f"TELEMETRY_TOKEN={WRAPPED}\n{WRAPPED}\ns3cr3tABC=\n", 2),
        (f"TELEMETRY_TOKEN={WRAPPED}\nNBSWY3DP======", 2),
        ("s3cr3tABC=", 1),
        ("s3cr3tabc==", 1),
        ("TELEMETRY_TOKEN=1\n\ns3cr3tABC=", 3),
    ],
)
def test_the_end_of_a_wrapped_base64_text_is_no_key(text: str, line: int) -> None:
    with pytest.raises(UsageError) as told:
        read(text, ("TELEMETRY_TOKEN",))
    said = f"{told.value.message} {told.value.hint}"
    assert told.value.message.startswith(f"stdin:{line}: ")
    assert "base64 -w0" in said
    assert "s3cr3t" not in said and "NBSWY" not in said and "AB2D" not in said


@pytest.mark.parametrize(
    "text",
    [
        f"A={WRAPPED}\nB=''",
        f"A={WRAPPED}\n\nB=",
        f"A={WRAPPED}\n# why\nB=",
        f"A={WRAPPED}\nB= # why",
        f"A='{WRAPPED}'\nB=",
        "A=short\nB=",
        "A=two words of a longer text\nB=",
    ],
)
def test_an_empty_value_that_cannot_be_the_end_of_another_is_one(text: str) -> None:
    assert read(text)["B"] == ""


def test_a_key_that_the_profile_requires_is_one_wherever_it_stands() -> None:
    assert read(f"A={WRAPPED}\nMyKey=", ("MyKey",)) == {"A": WRAPPED, "MyKey": ""}


def test_two_lines_of_one_key_are_told_by_their_numbers_alone() -> None:
    with pytest.raises(UsageError) as told:
        read("A=1\ns3cr3t=1\n\ns3cr3t=2")
    assert told.value.message == "stdin:4: the key of line 2 again"


@pytest.mark.parametrize("raw", [b"A=\xe4bc", "A=abc".encode("utf-16")])
def test_bytes_that_are_no_utf_8_are_refused(raw: bytes) -> None:
    with pytest.raises(UsageError, match="stdin is not UTF-8"):
        parse_env(raw, "stdin")


def test_half_a_value_is_neither_printed_nor_kept(
    profile: None, stranger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"TELEMETRY_TOKEN={WRAPPED}\ns3cr3tABC=\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert run(["secrets", "apply", "-f", "-"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "stdin:2: " in err and "base64 -w0" in err
    assert not (stranger / "secrets" / SECRET).exists()


def test_stdin_that_is_no_text_is_a_clean_refusal_without_a_locale_too(profile: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evctl", "secrets", "apply", "-f", "-", "-o", "json"],
        input=b"TELEMETRY_TOKEN=\xe4bc\n",
        capture_output=True,
        env={key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))},
    )
    assert done.returncode == 2, done.stderr
    assert "stdin is not UTF-8" in json.loads(done.stderr)["error"]["message"]


@pytest.mark.parametrize(("source", "said"), [(["-f", "-"], "stdin cannot be read: it is closed"), ([], "no values")])
def test_a_stdin_that_is_closed_is_a_clean_refusal(
    profile: None, source: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert run(["secrets", "apply", *source]) == 2
    assert said in capsys.readouterr().err


def test_the_questions_go_to_stderr_and_the_document_to_stdout(profile: None, stranger: Path) -> None:
    """A terminal to type at, and pipes to read from."""
    ours, theirs = pty.openpty()
    asked = threading.Event()
    err: list[bytes] = []

    def listen(stream: io.BufferedReader) -> None:
        while chunk := stream.read1(4096):
            err.append(chunk)
            asked.set()

    with subprocess.Popen(
        [sys.executable, "-m", "evctl", "secrets", "apply", "-o", "json"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None and isinstance(process.stderr, io.BufferedReader)
        os.close(theirs)
        listener = threading.Thread(target=listen, args=[process.stderr])
        listener.start()
        assert asked.wait(60)
        # what is typed before echoing is off is flushed: again, until it was read
        while process.poll() is None and not (stranger / "secrets" / SECRET / "TELEMETRY_TOKEN").exists():
            os.write(ours, b"s3cr3t-typed\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        out = process.stdout.read()
        listener.join()
    os.close(ours)
    assert json.loads(out)["added"] == ["TELEMETRY_TOKEN"]
    assert b"TELEMETRY_TOKEN" in b"".join(err) and b"s3cr3t" not in b"".join(err)
    assert (stranger / "secrets" / SECRET / "TELEMETRY_TOKEN").read_text() == "s3cr3t-typed"


@pytest.mark.parametrize(
    "line",
    [
        ["TELEMETRY_TOKEN=s3cr3t"],
        ["-f", "TELEMETRY_TOKEN=s3cr3t"],
        [SECRET, "--from-literal=TELEMETRY_TOKEN=s3cr3t"],
        [SECRET, "TELEMETRY_TOKEN=s3cr3t"],
    ],
)
def test_a_value_that_was_typed_on_the_command_line_is_not_repeated(
    profile: None, line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["secrets", "apply", *line]) == 2
    err = capsys.readouterr().err
    assert "s3cr3t" not in err and "\n  next: " in err


@pytest.mark.parametrize("name", ["Bad_Name", "a..b", "a.-b", "-a", "../a", "a" * 254])
def test_a_name_that_kubernetes_refuses_is_refused_before_anything_is_read_or_asked(
    profile: None, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert run(["secrets", "apply", "-f", "-", "--", name]) == 2
    assert "is no name of a secret" in capsys.readouterr().err


def test_more_than_kubernetes_keeps_in_a_secret_is_refused(
    profile: None, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "env"
    file.write_text(f"TELEMETRY_TOKEN=1\nB={'ä' * (1 << 19)}")
    assert run(["secrets", "apply", "-f", str(file)]) == 2
    assert "1,048,577 bytes" in capsys.readouterr().err
    assert not (stranger / "secrets" / SECRET).exists()
    file.write_text(f"A=''\nB={'ä' * (1 << 19)}")
    assert run(["secrets", "apply", "other", "-f", str(file)]) == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/dev/zero", "/dev/zero is larger than"),
        ("/dev/null", "/dev/null has no KEY=value"),
        ("/proc/self", "/proc/self cannot be read: Is a directory"),
        ("/nowhere", "/nowhere cannot be read: No such file"),
        ("/proc/self/mem", "/proc/self/mem cannot be read: "),
    ],
)
def test_a_source_that_is_no_env_file_takes_nothing_away(
    profile: None, source: str, said: str, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "env").write_text("A=k3y-a")
    assert run(["secrets", "apply", "other", "-f", str(tmp_path / "env")]) == 0
    assert run(["secrets", "apply", "other", "-f", source]) == 2
    assert said in capsys.readouterr().err
    assert (stranger / "secrets" / "other" / "A").read_text() == "k3y-a"


def test_a_named_pipe_is_read_to_its_end(profile: None, stranger: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=["TELEMETRY_TOKEN=s3cr3t"], daemon=True)
    writer.start()
    assert run(["secrets", "apply", "-f", str(pipe), "-q"]) == 0
    writer.join()
    assert (stranger / "secrets" / SECRET / "TELEMETRY_TOKEN").read_text() == "s3cr3t"


def test_a_value_that_fills_the_terminals_line_is_refused_since_more_of_it_is_lost(
    profile: None, stranger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "x" * 4095)
    assert run(["secrets", "apply"]) == 2
    assert "TELEMETRY_TOKEN fills a terminal's line" in capsys.readouterr().err
    assert not (stranger / "secrets" / SECRET).exists()
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "s3cr3t\udce4")
    assert run(["secrets", "apply"]) == 2
    assert "TELEMETRY_TOKEN is not UTF-8" in capsys.readouterr().err
    monkeypatch.setattr("typer.prompt", lambda *_, **__: "x" * 4094)
    assert run(["secrets", "apply"]) == 0


def test_an_error_after_a_question_is_a_line_of_its_own_where_no_terminal_shows_the_enter(
    profile: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt(key: str, **_: bool) -> str:
        print(f"{key}: ", end="", file=sys.stderr)
        return "x" * 4095

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.prompt", prompt)
    assert run(["secrets", "apply", "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["code"] == "usage"


def test_a_value_that_somebody_put_there_as_bytes_is_replaced_as_any_other(
    profile: None, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = stranger / "secrets" / "other"
    kept.mkdir(parents=True)
    (kept / "A").write_bytes(b"\xe4")
    (kept / "B").write_bytes(b"1\r\n")
    (tmp_path / "env").write_text("A=a\nB='1'")
    assert run(["secrets", "apply", "other", "-f", str(tmp_path / "env"), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["updated"] == ["A", "B"]
    assert (kept / "A").read_bytes() == b"a"


def test_what_cannot_be_read_or_written_in_the_secrets_folder_is_told(
    profile: None, stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stranger / "secrets" / "other" / "A").mkdir(parents=True)
    (tmp_path / "env").write_text("A=s3cr3t")
    assert run(["secrets", "apply", "other", "-f", str(tmp_path / "env")]) == 9
    assert "other/A: Is a directory" in capsys.readouterr().err


def test_a_key_may_be_called_as_long_as_kubernetes_lets_it_and_nothing_else_is_left_beside(
    profile: None, stranger: Path, tmp_path: Path
) -> None:
    keys = ["k" * 253, "K", ".K.part"]
    (tmp_path / "env").write_text("".join(f"{key}={number}\n" for number, key in enumerate(keys)))
    assert run(["secrets", "apply", "other", "-f", str(tmp_path / "env"), "-q"]) == 0
    kept = stranger / "secrets"
    assert {path.name: path.read_text() for path in (kept / "other").iterdir()} == dict(zip(keys, "012", strict=True))
    assert [path.name for path in kept.iterdir()] == ["other"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (kept / "other").iterdir())
