"""Walking all trees at once: to the last bit what scikit-learn answers, or not done at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from ev_serving import trees
from ev_serving.trees import MOST_ROWS, quicken, within

FEATURES = 6


def fitted(*, imputed: bool, classes: int = 3, **options: Any) -> Any:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((400, FEATURES))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    known = np.nan_to_num(rows)
    target = np.digitize(known[:, 0] + known[:, 1] * known[:, 2], [-0.4, 0.5][: classes - 1])
    model = HistGradientBoostingClassifier(max_iter=25, random_state=0, **options)
    inner = make_pipeline(SimpleImputer(keep_empty_features=True), model) if imputed else model
    return CalibratedClassifierCV(inner, method="temperature", cv=3, ensemble=False).fit(rows, target)


def asked(count: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((count, FEATURES)) * 2
    rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows


@pytest.mark.parametrize("imputed", [True, False])
@pytest.mark.parametrize("count", [1, 3, MOST_ROWS, MOST_ROWS + 1])
def test_the_answer_is_the_same_to_the_last_bit(imputed: bool, count: int) -> None:
    slow, quick = fitted(imputed=imputed), fitted(imputed=imputed)
    assert quicken(quick, asked(5))
    for start in range(0, 200, count):
        rows = asked(200 + count)[start : start + count]
        assert np.array_equal(quick.predict_proba(rows), slow.predict_proba(rows))


def test_a_model_of_two_classes_keeps_one_tree_an_iteration() -> None:
    slow, quick = fitted(imputed=False, classes=2), fitted(imputed=False, classes=2)
    assert quicken(quick, asked(5))
    assert np.array_equal(quick.predict_proba(asked(7)), slow.predict_proba(asked(7)))


def test_a_walk_that_answers_otherwise_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: trees.Trees, rows: Any, raw: Any) -> None:
        raw += 1e-3 * np.arange(raw.shape[1])

    monkeypatch.setattr(trees.Trees, "add", wrong)
    model, slow = fitted(imputed=True), fitted(imputed=True)
    assert not quicken(model, asked(5))
    assert np.array_equal(model.predict_proba(asked(4)), slow.predict_proba(asked(4)))


def test_trees_that_split_by_category_are_left_to_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(0, 5, 300), rng.standard_normal(300)]).astype(float)
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features=[0]).fit(rows, rows[:, 0] % 2)
    assert not quicken(model, rows[:3])
    assert "_predict_iterations" not in vars(model)


def test_another_kind_of_model_is_left_as_it_is() -> None:
    model = ExtraTreesClassifier(5, random_state=0).fit(asked(30).clip(-9, 9)[:, :2] * 0 + np.eye(30, 2), [0, 1] * 15)
    assert not quicken(model, np.eye(2))
    assert model in within([{"not": "walked"}, model])
