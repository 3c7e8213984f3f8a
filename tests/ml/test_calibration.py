"""The calibration error, against figures computed by hand and a definition written out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ev_ml.calibration import BINS, expected_calibration_error, reliability
from ev_ml.evaluate import evaluate
from tests.ml.conftest import Trained


def test_a_model_that_is_right_as_often_as_it_says_has_no_error() -> None:
    probability = np.tile([0.75, 0.25], (8, 1))
    right = np.array([True] * 6 + [False] * 2)
    assert reliability(probability, right) == [[0.75, 0.75, 8]]
    assert expected_calibration_error(reliability(probability, right)) == 0.0


def test_the_error_is_the_gap_weighted_by_rows() -> None:
    # 3 of 4 right at 0.9, 0 of 1 right at 0.6: (4 * 0.15 + 1 * 0.6) / 5
    probability = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    right = np.array([True, True, True, False, False])
    assert expected_calibration_error(reliability(probability, right)) == pytest.approx(0.24)


def test_it_agrees_with_the_definition_on_random_predictions() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(6), 2000)
    right = rng.random(2000) < 0.5
    sure = probability.max(axis=1)
    error = 0.0
    for k in range(BINS):
        held = (sure > k / BINS) & (sure <= (k + 1) / BINS)
        if held.any():
            error += held.mean() * abs(right[held].mean() - sure[held].mean())
    found = reliability(probability, right)
    assert expected_calibration_error(found) == pytest.approx(error)
    assert sum(rows for _, _, rows in found) == 2000


def test_no_rows_are_no_error() -> None:
    assert expected_calibration_error(reliability(np.zeros((0, 6)), np.zeros(0, bool))) == 0.0


def test_an_evaluation_says_how_calibrated_the_model_is_and_its_curve_is_plain_json(trained_fleet: Trained) -> None:
    found = evaluate(trained_fleet.model, trained_fleet.features)
    assert 0.0 < found.ece < 0.5
    assert sum(rows for _, _, rows in found.calibration) == found.sessions
    assert len(found.roc_thresholds) == len(found.roc)
    assert found.roc_thresholds == sorted(found.roc_thresholds, reverse=True)
    json.loads(found.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
