"""Where a run's secrets belong: with its pods, which one user's Kubeflow keeps in its own namespace."""

from __future__ import annotations

import pytest

from evctl.commands.secrets import _run_namespace
from tests.kubeflow.conftest import Kubeflow

pytestmark = pytest.mark.kubeflow


def test_one_users_kubeflow_runs_everything_in_its_own_namespace(kubeflow: Kubeflow) -> None:
    assert _run_namespace(kubeflow.profile(namespace="mlops-dev")) == "kubeflow"


def test_a_kubeflow_that_keeps_users_apart_runs_it_in_the_profiles(kubeflow: Kubeflow) -> None:
    kubeflow.world.multi_user = True
    assert _run_namespace(kubeflow.profile(namespace="mlops-dev")) == "mlops-dev"


def test_where_kubeflow_does_not_say_the_profiles_is_taken_and_told(
    kubeflow: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.api.close()
    assert _run_namespace(kubeflow.profile(namespace="mlops-dev")) == "mlops-dev"
    assert "did not say" in capsys.readouterr().err
