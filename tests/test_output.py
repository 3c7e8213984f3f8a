"""What stdout gets: documents that every reader of JSON and YAML takes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml

from evctl.backends.base import Artifact, Outputs
from evctl.documents import outputs_document
from evctl.output import emit


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_a_number_that_is_none_is_null_in_a_document(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"loss": math.nan, "best": math.inf, "rows": [1.5, -math.inf, {"deep": math.nan}], "name": "NaN", "n": 3}
    found = Outputs("r", {"t.loss": math.nan}, (Artifact("t", "m", "system.Metrics", "", metadata=metadata),))
    emit(found, output, lambda _: (), outputs_document)
    text = capsys.readouterr().out
    read = json.loads(text, parse_constant=refuse) if output == "json" else yaml.safe_load(text)
    assert read["parameters"] == {"t.loss": None}
    assert read["artifacts"][0]["metadata"] == {
        "loss": None,
        "best": None,
        "rows": [1.5, None, {"deep": None}],
        "name": "NaN",
        "n": 3,
    }
    assert math.isnan(metadata["loss"])  # the value itself is not ours to change
