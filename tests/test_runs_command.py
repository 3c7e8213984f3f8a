"""`evctl runs`: how old a run may be."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from evctl.cli import run
from evctl.commands.runs import _age


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("1m", timedelta(minutes=1)), ("6h", timedelta(hours=6)), ("2d", timedelta(days=2)), ("1w", timedelta(weeks=1)),
        ("036500d", timedelta(days=36500)), (None, None),
    ],
)  # fmt: skip
def test_an_age_is_a_number_with_its_unit(text: str | None, age: timedelta | None) -> None:
    assert _age(text) == age


@pytest.mark.parametrize(
    "text",
    ["99999999999999d", "999999d", "36501d", "5215w", "0d", "9" * 5000 + "m", "2", "d", "-1d", "1.5h", "1y", "²d", ""],
)
def test_an_age_that_is_none_is_told_with_what_is_allowed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", f"--since={text}", "-o", "json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert "m, h, d or w, from 1m to 36500d" in error["message"]
    assert len(error["message"]) < 200
    assert error["hint"] == "evctl runs --since 2d"


def test_a_hundred_years_are_looked_back() -> None:
    assert run(["runs", "--since", "36500d"]) == 0
