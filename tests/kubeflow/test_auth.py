"""A login as it is kept: in a file of whatever editor, in a variable, on a command's stdout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evctl.backends.kubeflow.auth import Auth
from evctl.errors import NotAllowedError
from evctl.profile import AuthSettings

# the command that is asked for the login prints it
pytestmark = [pytest.mark.kubeflow, pytest.mark.shows_secrets]
PLACES = ("file", "command", "variable")
VARIABLE = "MY_LOGIN"


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a login that is kept in a place, as these bytes."""

    def kept(place: str, raw: bytes, kind: str = "token") -> Auth:
        path = tmp_path / "token"
        path.write_bytes(raw)
        if place == "variable":
            monkeypatch.setenv(VARIABLE, raw.decode(errors="surrogateescape"))
        where: dict[str, Any] = {
            "file": {"token_file": str(path)},
            "command": {"token_command": ("cat", str(path))},
            "variable": {"token_env": VARIABLE},
        }[place]
        return Auth(AuthSettings(kind=kind, **where))  # type: ignore[arg-type]

    return kept


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("raw", [b"t0ken", b"t0ken\r\n", b"\xef\xbb\xbft0ken\r\n", b" \xef\xbb\xbf t0ken "])
def test_a_byte_order_mark_and_the_ends_of_lines_are_no_part_of_a_login(login: Any, place: str, raw: bytes) -> None:
    assert login(place, raw).headers() == {"Authorization": "Bearer t0ken"}
    assert login(place, raw, kind="cookie").headers() == {"Cookie": "t0ken"}


ODD = {
    "UTF-16": "t0ken\r\n".encode("utf-16"),
    "UTF-16 without a mark": "t0ken".encode("utf-16-le"),
    "Latin-1": "t0ken-ü".encode("latin-1"),
    "UTF-8": "t0ken-ü…".encode(),
    "a mark at the end": "t0ken\ufeff".encode(),
    "no text": b"t0ken\xff\xfe\x00",
    "a tab": b"t0ken\tx",
    "delete": b"t0ken\x7f",
}


# a variable holds no zero byte
CASES = [(place, name) for place in PLACES for name, raw in ODD.items() if place != "variable" or b"\0" not in raw]


@pytest.mark.parametrize(("place", "name"), CASES)
def test_what_no_header_can_hold_is_told_and_not_shown(login: Any, place: str, name: str) -> None:
    auth = login(place, ODD[name])
    for ask in (auth.headers, auth.renew):
        with pytest.raises(NotAllowedError, match="has characters other than ASCII's visible ones") as caught:
            ask()
        hint = {"file": "renew the login in ", "command": "run cat by hand", "variable": f"export a fresh {VARIABLE}"}
        assert str(caught.value.hint).startswith(hint[place])
        assert not re.search("t0ken|ü|…", f"{caught.value.message} {str(caught.value.hint).replace('/token', '')}")


@pytest.mark.parametrize("place", PLACES)
def test_several_lines_and_none_are_told_as_before(login: Any, place: str) -> None:
    with pytest.raises(NotAllowedError, match="more than one line"):
        login(place, b"t0ken\nt0ken").headers()
    with pytest.raises(NotAllowedError, match="is empty"):
        login(place, b"\xef\xbb\xbf\r\n").headers()
