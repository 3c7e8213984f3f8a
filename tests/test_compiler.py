"""The compiled package names itself, for a model's provenance."""

from __future__ import annotations

from evctl.compiler import compile_profile
from evctl.profile_files import load_profile


def test_a_package_carries_its_own_digest_where_a_model_is_registered_and_nowhere_else() -> None:
    compiled = compile_profile(load_profile("local").profile)
    executors = compiled.spec["deploymentSpec"]["executors"]
    told = {
        label: variable["value"]
        for label, executor in executors.items()
        for variable in executor["container"].get("env", ())
        if variable["name"] == "EV_PIPELINE_DIGEST"
    }
    assert told == {"exec-register-fault-model": compiled.digest}
    assert compiled.text.count(compiled.digest) == 1


def test_the_digest_is_the_same_for_the_same_pipeline_and_another_for_another() -> None:
    profile = load_profile("local").profile
    digest = compile_profile(profile).digest
    assert compile_profile(profile).digest == digest
    assert compile_profile(profile.model_copy(update={"accuracy_threshold": 0.5})).digest != digest
