"""The functions of kfp.local that are replaced are as they were when we looked (kfp 2.17.0)."""

from __future__ import annotations

import inspect

import kfp
from kfp.local import subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor


def test_kfp_is_the_version_whose_private_functions_we_replace() -> None:
    assert kfp.__version__ == "2.17.0"


def test_the_replaced_functions_have_the_signatures_we_call_them_with() -> None:
    assert list(inspect.signature(subprocess_task_handler.run_local_subprocess).parameters) == [
        "full_command",
        "env_vars",
    ]
    assert list(inspect.signature(task_executor.execute_single_task).parameters) == [
        "task_name", "task_spec", "pipeline_resource_name", "components", "executors", "io_store",
        "pipeline_root", "runner", "unique_pipeline_id", "fail_stack",
    ]  # fmt: skip
    resolver = enhanced_dag_orchestrator.ConditionEvaluator._resolve_pipeline_channel
    assert list(inspect.signature(resolver).parameters) == ["channel_ref", "io_store"]
    source = inspect.getsource(enhanced_dag_orchestrator.execute_task)
    assert "task_executor.execute_single_task(" in source
