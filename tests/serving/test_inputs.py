"""What a request may say, and that a refusal names the feature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from ev_serving.inputs import BadInput, Schema, matrix_of

SCHEMA = Schema([{"name": "soc", "nullable": False}, {"name": "rest_v", "nullable": True}])


@dataclass
class Given:
    name: str
    shape: list[int]
    data: list[Any]
    datatype: str = "FP64"


def test_a_matrix_and_named_inputs_say_the_same() -> None:
    one = matrix_of(SCHEMA, [Given("rows", [2, 2], [1, 2.0, 3, None])])
    named = matrix_of(SCHEMA, [Given("rest_v", [2], [2.0, None]), Given("soc", [2], [1, 3])])
    assert one[0].tolist() == named[0].tolist() == [1.0, 2.0]
    assert math.isnan(one[1, 1])
    assert math.isnan(named[1, 1])


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([Given("rows", [1, 2], [None, 1])], "feature soc is null"),
        ([Given("rows", [1, 2], ["x", 1])], "feature soc in row 0 is str"),
        ([Given("rows", [1, 2], [True, 1])], "feature soc in row 0 is bool"),
        ([Given("rows", [1, 2], [math.inf, 1])], "feature soc is not finite"),
        ([Given("rows", [1, 1], [1])], "missing rest_v"),
        ([Given("rows", [1, 3], [1, 2, 3])], "the last one is rest_v"),
        ([Given("rows", [2], [1, 2])], r"shape \[2\]"),
        ([Given("rows", [2, 2], [1, 2])], "has 2 values"),
        ([Given("soc", [1], [1])], "feature rest_v is missing"),
        ([Given("soc", [1], [1]), Given("rest_v", [1], [1]), Given("odd", [1], [1])], "feature odd is not known"),
        ([Given("soc", [2], [1, 2]), Given("rest_v", [1], [1])], "feature rest_v has 1 rows"),
        ([Given("soc", [1], ["a"], "BYTES")], "input soc has the type BYTES"),
        ([Given("soc", [1], [1]), Given("soc", [1], [1])], "given twice"),
        ([], "no inputs"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_with_its_feature(inputs: list[Given], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        matrix_of(SCHEMA, inputs)


def test_objects_by_name_are_rows_too() -> None:
    assert SCHEMA.matrix([{"rest_v": 2, "soc": 1}]).tolist() == [[1.0, 2.0]]
    with pytest.raises(BadInput, match="feature soc is missing"):
        SCHEMA.matrix([{"rest_v": 2}])
