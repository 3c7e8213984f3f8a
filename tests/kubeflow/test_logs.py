"""A task's log: live from its pod, else the API's archive, else the stored artifact; followed until the task ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from evctl.backends.base import Run, RunState, TaskState, TaskStatus
from evctl.backends.kubeflow.lines import split_lines
from evctl.backends.kubeflow.logs import Logs, logs
from evctl.backends.metadata.values import Execution, Link, RunMetadata, StoredArtifact
from evctl.errors import NotAllowedError, NotFoundError, UnavailableError
from tests.kubeflow.objectstore import Door, reach

pytestmark = pytest.mark.kubeflow
RUN = "3f2a91c0"


def task(name: str, state: TaskState = TaskState.SUCCEEDED, pod: str | None = None, **fields: Any) -> TaskStatus:
    return TaskStatus(name, state, pod=pod, attempts=fields.pop("attempts", 1), **fields)


def run_of(*tasks: TaskStatus, state: RunState = RunState.SUCCEEDED) -> Run:
    return Run(RUN, "r", "dev", state, datetime.now(UTC), tasks=tasks)


class Pods:
    """A Kubernetes API with pods whose logs grow."""

    def __init__(self) -> None:
        self.logs: dict[str, str] = {}
        self.over: set[str] = set()
        self.items: list[dict[str, Any]] = []
        self.cuts = 0

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        assert path == "/api/v1/namespaces/kubeflow/pods"
        assert query == {"labelSelector": f"pipeline/runid={RUN}"}
        return {"items": self.items}

    def pod_log(self, namespace: str, pod: str, *, container: str, follow: bool) -> Iterator[str]:
        assert (namespace, container) == ("kubeflow", "main")
        if pod not in self.logs:
            raise NotFoundError(f"pods {pod} not found")
        at = 0
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            over = pod in self.over
            *whole, rest = self.logs[pod].split("\n")
            yield from whole[at:]
            at = len(whole)
            if self.cuts and follow:
                self.cuts -= 1
                return  # as KubeApi does: what came is whole lines
            if over or not follow:
                yield from [rest] if rest else []
                return
            time.sleep(0.01)
        raise AssertionError("nobody ended this log")


class World:
    """A connection of which each part can be missing."""

    def __init__(self, pods: Pods | None = None) -> None:
        self.pods = pods
        self.archive: dict[str, str] = {}
        self.asked: list[str] = []
        self.profile = reach().profile

    def kubernetes(self) -> Any:
        return self.pods

    def object_store_endpoint(self) -> str | None:
        return None

    def stream(self, path: str, *, deadline_s: float | None = None) -> Iterator[bytes]:
        self.asked.append(path)
        pod = path.partition("/nodes/")[2].partition("/log")[0]
        if pod not in self.archive:
            raise UnavailableError("failed to read the archive")
        yield self.archive[pod].encode()


def metadata(
    *tasks: str, uri: str = "minio://mlpipeline/run/{task}/executor-logs-{retry}", retries: int = 1
) -> RunMetadata:
    executions = [Execution(1, "", "RUNNING", True)]
    links, stored = [], {}
    for at, name in enumerate(tasks, 2):
        executions.append(Execution(at, name, "COMPLETE", False, parent=1, namespace="kubeflow"))
        for retry in range(retries):
            key = at * 100 + retry
            stored[key] = StoredArtifact(key, "system.Artifact", uri.format(task=name, retry=retry))
            links.append(Link(at, key, "executor-logs", True))
    return RunMetadata(tuple(executions), tuple(links), stored)


def read(
    world: World, run: Run, name: str | None = None, known: RunMetadata | None = None, **options: Any
) -> list[str]:
    known = known or metadata("other")
    found = logs(world, RUN, name, look=lambda: run, metadata=lambda: known, poll_s=0.01, **options)
    return [f"{line.task}/{line.attempt} {line.text}" for line in found]


def test_all_tasks_in_the_order_of_the_flow_from_pods_and_the_archive() -> None:
    pods = Pods()
    pods.logs["wf-impl-1"] = "one\ntwo\n"
    world = World(pods)
    world.archive["wf-impl-2"] = "three\nfour\n"
    run = run_of(
        task("ingest", pod="wf-impl-1"), task("old", TaskState.CACHED), task("train", pod="wf-impl-2"), task("gone")
    )
    assert read(world, run) == ["ingest/1 one", "ingest/1 two", "train/1 three", "train/1 four"]
    assert read(world, run, tail=1) == ["ingest/1 two", "train/1 four"]
    assert read(world, run, "train", tail=0) == []
    assert world.asked[0] == f"/apis/v1alpha1/runs/{RUN}/nodes/wf-impl-2/log"
    with pytest.raises(NotFoundError, match="no task nope"):
        read(world, run, "nope")


def test_attempts_are_numbered_and_those_without_a_pod_come_from_the_store() -> None:
    store = Door(None)
    store.objects = {f"run/train/executor-logs-{n}": f"stored {n}\n".encode() for n in range(3)}
    world = World()
    world.profile = reach(endpoint=store.url).profile
    world.archive["wf-impl-9"] = "from the archive\n"
    run = run_of(task("train", TaskState.FAILED, pod="wf-impl-9", attempts=3), state=RunState.FAILED)
    known = metadata("train", uri="gs://bucket/run/{task}/executor-logs-{retry}", retries=3)
    assert read(world, run, known=known) == ["train/1 stored 0", "train/2 stored 1", "train/3 from the archive"]
    world.archive.clear()
    assert read(world, run, known=known)[-1] == "train/3 stored 2"
    store.shutdown()


def test_what_cannot_be_read_anywhere_is_an_error_after_what_could() -> None:
    world = World()
    world.archive["wf-impl-2"] = "fine\n"
    run = run_of(task("ingest", pod="wf-impl-1"), task("train", pod="wf-impl-2"))
    found = logs(world, RUN, None, look=lambda: run, metadata=lambda: None)
    assert next(found).text == "fine"
    with pytest.raises(UnavailableError, match="archive"):
        list(found)


def test_a_log_that_nobody_keeps_is_no_failure_among_others_and_not_found_by_name() -> None:
    pods = Pods()
    pods.logs["wf-impl-2"] = "fine\n"
    world = World(pods)
    run = run_of(task("importer", pod="wf-impl-1"), task("train", pod="wf-impl-2"))
    assert read(world, run) == ["train/1 fine"]
    with pytest.raises(NotFoundError, match="no log of importer is kept: its pod is gone"):
        read(world, run, "importer")


def test_the_store_takes_up_an_archives_log_where_it_was_cut() -> None:
    store = Door(None)
    store.objects = {"run/train/executor-logs-0": b"one\ntwo\nthree\n"}

    class Cut(World):
        def stream(self, path: str, *, deadline_s: float | None = None) -> Iterator[bytes]:
            yield b"one\ntw"
            raise UnavailableError("the connection was reset")

    world = Cut()
    world.profile = reach(endpoint=store.url).profile
    known = metadata("train", uri="gs://bucket/run/{task}/executor-logs-{retry}")
    assert read(world, run_of(task("train", pod="p")), known=known) == ["train/1 one", "train/1 two", "train/1 three"]
    store.shutdown()


class Life:
    """A run that changes while its logs are followed."""

    def __init__(self, *tasks: TaskStatus) -> None:
        self.run = run_of(*tasks, state=RunState.RUNNING)

    def __call__(self) -> Run:
        return self.run

    def set(self, name: str, state: TaskState, **fields: Any) -> None:
        self.run = replace(
            self.run,
            tasks=tuple(replace(e, state=state, **fields) if e.name == name else e for e in self.run.tasks),
        )

    def end(self) -> None:
        self.run = replace(self.run, state=RunState.SUCCEEDED)


def followed(
    world: World,
    life: Life,
    script: Callable[[Callable[[int], None]], None],
    name: str | None = None,
    look: Callable[[], Run] | None = None,
    **options: Any,
) -> Sequence[str]:
    """Follow in a thread while the script plays; `seen(n)` waits until n lines were shown."""
    lines: list[str] = []
    reader = Logs(world, RUN, look or life, lambda: metadata("other"), 0.01)

    failed: list[BaseException] = []

    def consume() -> None:
        try:
            for line in reader.follow(name, **options):
                lines.append(f"{line.task}/{line.attempt} {line.text}")
        except BaseException as error:
            failed.append(error)

    def seen(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(lines) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(lines) >= count, lines

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    script(seen)
    thread.join(20)
    assert not thread.is_alive()
    assert failed == []
    return lines


@pytest.mark.parametrize("cluster", [True, False])
def test_following_waits_for_the_pod_and_ends_with_the_task(cluster: bool) -> None:
    pods = Pods()
    world = World(pods if cluster else None)
    life = Life(task("ingest", TaskState.PENDING, attempts=0), task("train", TaskState.PENDING, attempts=0))

    def write(text: str) -> None:
        pods.logs["wf-impl-1"] = world.archive["wf-impl-1"] = text

    def script(seen: Callable[[int], None]) -> None:
        time.sleep(0.05)
        life.set("ingest", TaskState.PENDING, pod="wf-system-container-driver-1")
        time.sleep(0.05)
        write("one\nha")
        life.set("ingest", TaskState.RUNNING, pod="wf-impl-1", attempts=1)
        seen(1)
        write("one\nhalf a line\n")
        seen(2)
        write("one\nhalf a line\nlast, without an end")
        life.set("ingest", TaskState.SUCCEEDED)
        pods.over.add("wf-impl-1")

    lines = followed(world, life, script, "ingest")
    assert lines == ["ingest/1 one", "ingest/1 half a line", "ingest/1 last, without an end"]


def test_a_cut_stream_is_taken_up_without_saying_a_line_twice_and_each_attempt_is_followed() -> None:
    pods = Pods()
    pods.logs["wf-impl-1"] = "one\ntwo\n"
    pods.cuts = 2
    life = Life(task("train", TaskState.RUNNING, pod="wf-impl-1"))

    def script(seen: Callable[[int], None]) -> None:
        seen(2)
        pods.logs["wf-impl-1"] += "failed\n"
        seen(3)
        pods.over.add("wf-impl-1")
        pods.logs["wf-impl-2"] = "again\n"
        life.set("train", TaskState.RUNNING, pod="wf-impl-2", attempts=2)
        seen(4)
        pods.over.add("wf-impl-2")
        life.set("train", TaskState.SUCCEEDED)

    lines = followed(World(pods), life, script, "train")
    assert lines == ["train/1 one", "train/1 two", "train/1 failed", "train/2 again"]


def test_all_tasks_are_followed_until_the_run_has_ended_and_tail_counts_from_now() -> None:
    pods = Pods()
    pods.logs["wf-impl-1"] = "a\nb\nc\n"
    life = Life(task("ingest", TaskState.RUNNING, pod="wf-impl-1"), task("train", TaskState.PENDING, attempts=0))

    def script(seen: Callable[[int], None]) -> None:
        seen(1)
        pods.logs["wf-impl-1"] += "d\n"
        seen(2)
        pods.over.add("wf-impl-1")
        life.set("ingest", TaskState.SUCCEEDED)
        time.sleep(0.05)
        pods.logs["wf-impl-2"] = "x\n"
        pods.over.add("wf-impl-2")
        life.set("train", TaskState.SUCCEEDED, pod="wf-impl-2", attempts=1)
        life.end()

    assert followed(World(pods), life, script, tail=1) == ["ingest/1 c", "ingest/1 d", "train/1 x"]


def test_who_may_not_read_pods_follows_through_the_api() -> None:
    class Forbidden(Pods):
        def pod_log(self, *_: Any, **__: Any) -> Iterator[str]:
            raise NotAllowedError('cannot get resource "pods/log"')

    world = World(Forbidden())
    world.archive["wf-impl-1"] = "one\n"
    life = Life(task("train", TaskState.RUNNING, pod="wf-impl-1"))

    def script(seen: Callable[[int], None]) -> None:
        seen(1)
        world.archive["wf-impl-1"] += "two\n"
        life.set("train", TaskState.SUCCEEDED)

    assert followed(world, life, script, "train") == ["train/1 one", "train/1 two"]


def test_a_skipped_task_ends_a_follow_without_a_line() -> None:
    life = Life(task("ingest", TaskState.PENDING, attempts=0))

    def script(seen: Callable[[int], None]) -> None:
        time.sleep(0.03)
        life.set("ingest", TaskState.SKIPPED)

    assert followed(World(Pods()), life, script, "ingest") == []


def test_pods_are_looked_for_where_the_server_runs_them_when_nobody_says() -> None:
    class OneUser(Pods):
        def get(self, path: str, **query: Any) -> dict[str, Any]:
            return super().get(path, **query) if "/kubeflow/" in path else {"items": []}

    pods = OneUser()
    pods.logs["wf-impl-1"] = "one\n"
    node = "wf(0).root(0).ingest(0).executor(0)"
    note = {"workflows.argoproj.io/node-name": node}
    pods.items = [{"metadata": {"name": "wf-impl-1", "annotations": note}, "status": {"phase": "Running"}}]
    run = run_of(task("ingest", pod="wf-impl-1"))
    found = logs(World(pods), RUN, None, look=lambda: run, metadata=lambda: None)
    assert [line.text for line in found] == ["one"]


def test_loops_iterations_are_labelled_and_asked_for_by_label() -> None:
    world = World()
    world.archive |= {"p0": "zero\n", "p1": "one\n"}
    run = run_of(*(task("each", pod=f"p{n}", path=("for_loop_1", str(n))) for n in range(2)))
    assert read(world, run, "each") == ["each[0]/1 zero", "each[1]/1 one"]
    assert read(world, run, "each[1]") == ["each[1]/1 one"]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_lines_are_whole_wherever_the_pieces_end(size: int) -> None:
    text = "grün\r\n\nlast".encode()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(split_lines(pieces)) == ["grün", "", "last"]
    assert list(split_lines(pieces, whole=True)) == ["grün", ""]
    json.dumps(list(split_lines([b"\xff\n"])))


def test_an_api_that_is_restarted_ends_no_follow_and_one_that_stays_away_does() -> None:
    pods = Pods()
    life = Life(task("train", TaskState.RUNNING, pod="wf-impl-1", attempts=1))
    away = threading.Event()

    def look() -> Run:
        if away.is_set():
            raise UnavailableError("the KFP API does not answer")
        return life()

    def script(seen: Callable[[int], None]) -> None:
        pods.logs["wf-impl-1"] = "one\n"
        seen(1)
        away.set()
        time.sleep(0.1)
        pods.logs["wf-impl-1"] = "one\ntwo\n"
        seen(2)
        away.clear()
        life.set("train", TaskState.SUCCEEDED)
        life.end()
        pods.over.add("wf-impl-1")

    assert followed(World(pods), life, script, "train", look=look) == ["train/1 one", "train/1 two"]
    away.set()
    reader = Logs(World(pods), RUN, look, lambda: metadata("other"), 0.01)
    with pytest.raises(UnavailableError):
        list(reader.follow("train"))


def test_the_lines_by_which_argo_frames_a_step_are_no_lines_of_its() -> None:
    pods = Pods()
    world = World(pods)
    frame = 'time=2026-11-28T06:01:31.232Z level=INFO msg="capturing logs" argo=true\n'
    older = 'time="2026-11-28T06:01:31.232Z" level=info msg="sub-process exited" argo=true error="<nil>"\n'
    pods.logs["wf-impl-1"] = f"{frame}time=3 level=own\none\ntwo argo=true\n{older}{frame}"
    pods.over.add("wf-impl-1")
    run = run_of(task("ingest", pod="wf-impl-1", attempts=1))
    reader = Logs(world, RUN, lambda: run, lambda: metadata("other"), 0.01)
    assert [line.text for line in reader.read("ingest")] == ["time=3 level=own", "one", "two argo=true"]
    assert [line.text for line in reader.read("ingest", tail=2)] == ["one", "two argo=true"]
    assert [line.text for line in reader.follow("ingest", tail=1)] == ["two argo=true"]
