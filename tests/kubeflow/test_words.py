"""What a failed pod's log says of why: lines as KFP's launcher and driver, and Argo's executor, write them."""

from __future__ import annotations

import pytest

from evctl.backends.metadata.words import KILLED, last_words

ARGO = 'time="2026-11-23T07:12:46.294Z" level=info msg="sub-process exited" argo=true error="<nil>"\nError: exit status 1\n'
LAUNCHER = "I1123 07:12:45.172306      46 launcher_v2.go:151] publish success.\n"
FATAL = "F1123 07:12:45.568909      98 main.go:54] failed to execute component: "
LOGS = {
    "the step's own": (f"reading\nRuntimeError: boom\n{LAUNCHER}{FATAL}exit status 1\n{ARGO}", "RuntimeError: boom"),
    "ML Metadata out of reach": (
        f"{FATAL}failed to pre-publish Pod info to ML Metadata: rpc error: code = Unavailable desc = refused\n{ARGO}",
        "failed to pre-publish Pod info to ML Metadata: rpc error: code = Unavailable desc = refused",
    ),
    "the object store out of reach": (
        f"accuracy 0.95\n{FATAL}failed to upload output artifact model: dial tcp: connection refused\n{ARGO}",
        "failed to upload output artifact model: dial tcp: connection refused",
    ),
    "killed below the launcher": (f"epoch 3\n{LAUNCHER}{FATAL}signal: killed\n{ARGO}", KILLED),
    "an image of another architecture": (
        f"{FATAL}fork/exec /bin/sh: exec format error\n{ARGO}", "fork/exec /bin/sh: exec format error",
    ),
    "a driver that cannot resolve": (
        "I1123 07:12:44.1 27 main.go:101] input\n"
        "F1123 07:12:45.5      27 main.go:79] KFP driver: driver.Container(pipelineName=p, runID=r, task=train) failed: "
        f"failed to resolve inputs: no parameter rate\n{ARGO}",
        "failed to resolve inputs: no parameter rate",
    ),
    "an importer": (
        "F1123 07:12:45.5 27 main.go:79] failed to execute importer component: no provider scheme found\n",
        "no provider scheme found",
    ),
    "nothing": ("", None),
}  # fmt: skip


@pytest.mark.parametrize("log", LOGS)
def test_a_log_says_why_it_ended(log: str) -> None:
    text, wanted = LOGS[log]
    assert last_words(text) == wanted
