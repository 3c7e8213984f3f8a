"""A request's rows as a matrix in the manifest's feature order; whatever is wrong is told with the feature's name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUMERIC = frozenset({"FP64", "FP32", "FP16", *(f"{s}INT{n}" for s in ("", "U") for n in (8, 16, 32, 64))})
MAX_ROWS = 100_000
"""Rows of one request; more would keep every other client waiting."""
LARGEST = float(np.finfo(np.float32).max)
"""Trees look at float32: beyond it scikit-learn refuses the whole batch, other clients' rows too."""
PLAIN = frozenset({int, float, type(None)})


class BadInput(ValueError):
    """The request is not what the model's schema asks for; the client's fault."""


class Schema:
    """The features a model takes, in order, and which of them may be null."""

    def __init__(self, features: Sequence[Mapping[str, Any]]) -> None:
        self.names = tuple(str(each["name"]) for each in features)
        self._nullable = frozenset(str(each["name"]) for each in features if each.get("nullable"))
        self._may_be_null = np.array([name in self._nullable for name in self.names])

    def matrix(self, rows: Any) -> np.ndarray:
        """Return rows (lists in order, or objects by name) as float64, shape (rows, features)."""
        if not isinstance(rows, list) or not rows:
            raise BadInput("the request has no rows")
        if len(rows) > MAX_ROWS:
            raise BadInput(f"{len(rows)} rows, at most {MAX_ROWS} a request")
        return self._checked([self._values(row, number) for number, row in enumerate(rows)])

    def columns(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Return one flat list a feature, by name, as float64, shape (rows, features)."""
        self._same_names(inputs, "the request")
        for name, values in inputs.items():
            if any(isinstance(value, list) for value in values):
                raise BadInput(f"feature {name}: one number a row is wanted")
        lengths = {name: len(inputs[name]) for name in self.names}
        first = lengths[self.names[0]]
        if odd := [name for name, length in lengths.items() if length != first]:
            raise BadInput(f"feature {odd[0]} has {lengths[odd[0]]} rows, {self.names[0]} has {first}")
        return self.matrix([list(row) for row in zip(*(inputs[name] for name in self.names), strict=True)])

    def _values(self, row: Any, number: int) -> list[Any]:
        if isinstance(row, dict):
            self._same_names(row, f"row {number}")
            return [row[name] for name in self.names]
        if not isinstance(row, list):
            raise BadInput(f"row {number} is neither a list nor an object")
        if len(row) < len(self.names):
            missing = ", ".join(self.names[len(row) :][:3])
            raise BadInput(f"row {number} has {len(row)} of {len(self.names)} features; missing {missing}")
        if len(row) > len(self.names):
            raise BadInput(
                f"row {number} has {len(row)} values, the last feature of {len(self.names)} is {self.names[-1]}"
            )
        return row

    def _same_names(self, given: Mapping[str, Any], where: str) -> None:
        if missing := [name for name in self.names if name not in given]:
            raise BadInput(f"{where}: feature {missing[0]} is missing ({len(missing)} in all)")
        if extra := sorted(set(given) - set(self.names)):
            raise BadInput(f"{where}: feature {extra[0]} is not known to the model")

    def _checked(self, rows: list[list[Any]]) -> np.ndarray:
        flat = [value for row in rows for value in row]
        if set(map(type, flat)) <= PLAIN:
            with contextlib.suppress(OverflowError):
                out = np.array(flat, dtype=float).reshape(len(rows), len(self.names))
                empty = np.isnan(out)
                if (empty <= self._may_be_null).all() and (empty | (np.abs(out) <= LARGEST)).all():
                    return out
        # something is wrong, or of an odd type: value by value, to tell which
        return np.array([[self._number(v, self.names[j], i) for j, v in enumerate(row)] for i, row in enumerate(rows)])

    def _number(self, value: Any, name: str, row: int) -> float:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            if name not in self._nullable:
                raise BadInput(f"feature {name} is null in row {row}, and may not be")
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"feature {name} in row {row} is {type(value).__name__}, not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if abs(number) > LARGEST:
            raise BadInput(f"feature {name} is not finite in row {row}, or too large")
        return number


def matrix_of(schema: Schema, inputs: Sequence[Any]) -> np.ndarray:
    """Return the rows of V2 inputs: one matrix, or one named input a feature.

    Args:
        inputs: objects with `name`, `shape`, `datatype`, `data` (kserve's `InferInput`).
    """
    for each in inputs:
        if each.datatype not in NUMERIC:
            raise BadInput(f"input {each.name} has the type {each.datatype}, a numeric one is wanted")
    if not inputs:
        raise BadInput("the request has no inputs")
    if len(inputs) == 1 and inputs[0].name not in schema.names:
        return _one_matrix(schema, inputs[0])
    if len({each.name for each in inputs}) != len(inputs):
        raise BadInput("an input is given twice")
    return schema.columns({each.name: _flat(each, (_size(each.shape),)) for each in inputs})


def _one_matrix(schema: Schema, given: Any) -> np.ndarray:
    shape = [int(n) for n in given.shape]
    if len(shape) != 2:
        raise BadInput(f"input {given.name} has the shape {shape}, [rows, {len(schema.names)}] is wanted")
    rows, width = shape
    if width != len(schema.names):
        side = (
            f"missing {schema.names[width]}"
            if 0 <= width < len(schema.names)
            else f"the last one is {schema.names[-1]}"
        )
        raise BadInput(f"input {given.name} has {width} features, {len(schema.names)} are wanted; {side}")
    values = _flat(given, (rows, width))
    return schema.matrix([values[i * width : (i + 1) * width] for i in range(rows)])


def _size(shape: Sequence[int]) -> int:
    return math.prod(int(n) for n in shape)


def _flat(given: Any, shape: tuple[int, ...]) -> list[Any]:
    try:
        data = given.data if given.data else given.as_numpy().ravel().tolist()
    except Exception as error:
        raise BadInput(f"input {given.name} has no readable data") from error
    if len(given.shape) == 2 and data and all(isinstance(row, list) for row in data):
        data = [value for row in data for value in row]
    if len(data) != _size(shape):
        raise BadInput(f"input {given.name} has {len(data)} values, its shape {list(given.shape)} says {_size(shape)}")
    return list(data)
