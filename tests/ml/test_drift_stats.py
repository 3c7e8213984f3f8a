"""The null of PSI, against draws from the model it is derived from."""

from __future__ import annotations

import numpy as np
import pytest

from ev_ml.drift_stats import Spread, psi_critical, psi_p

DIMENSIONS, SCALE = 7, 0.008


def drawn(week: float, times: int = 40_000) -> np.ndarray:
    """PSI is about a squared distance: the vehicles' noise, added to what the week differs by."""
    rng = np.random.default_rng(0)
    moved = np.zeros(DIMENSIONS)
    moved[0] = np.sqrt(week)
    noise = rng.standard_normal((times, DIMENSIONS)) * np.sqrt(SCALE)
    return ((noise + moved) ** 2).sum(axis=1)


@pytest.mark.parametrize("week", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("p", [0.05, 0.005])
def test_no_more_and_hardly_fewer_than_its_share_exceed_the_critical_value(week: float, p: float) -> None:
    spread = Spread(SCALE, DIMENSIONS, 0.0, 0.0, 0.0, week_psi=week)
    assert np.mean(drawn(week) > psi_critical(p, spread)) == pytest.approx(p, rel=0.25)


@pytest.mark.parametrize("week", [0.0, 0.2])
def test_the_probability_of_a_critical_value_is_the_one_asked_for(week: float) -> None:
    spread = Spread(SCALE, DIMENSIONS, 0.0, 0.0, 0.0, week_psi=week)
    for p in (0.5, 0.01, 1e-6):
        assert psi_p(psi_critical(p, spread), spread) == pytest.approx(p, rel=1e-3)
    assert 0.0 <= psi_p(100.0, spread) < 1e-12


def test_a_column_that_never_varied_is_held_to_its_weeks_alone() -> None:
    spread = Spread(0.0, 1.0, 0.0, 0.0, 0.0, week_psi=0.03)
    assert (psi_p(0.02, spread), psi_critical(0.01, spread)) == (1.0, 0.03)
