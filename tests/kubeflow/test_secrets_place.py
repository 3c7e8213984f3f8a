"""Where a run's secrets belong: with its pods, which one user's Kubeflow keeps in its own namespace."""

from __future__ import annotations

import pytest

from evctl.backends.kubeflow.secrets_place import run_namespace
from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow


def test_one_users_kubeflow_runs_everything_in_its_own_namespace(kubeflow: Kubeflow) -> None:
    assert run_namespace(kubeflow.profile(namespace="mlops-dev"), print) == "kubeflow"


def test_a_kubeflow_that_keeps_users_apart_runs_it_in_the_profiles(kubeflow: Kubeflow) -> None:
    kubeflow.world.multi_user = True
    assert run_namespace(kubeflow.profile(namespace="mlops-dev"), print) == "mlops-dev"


def test_where_kubeflow_does_not_say_the_profiles_is_taken_and_told(kubeflow: Kubeflow) -> None:
    told: list[str] = []
    kubeflow.api.close()
    assert run_namespace(kubeflow.profile(namespace="mlops-dev"), told.append) == "mlops-dev"
    assert "did not say" in "".join(told)
