"""The KFP API as recorded: held against the fake, and against a real server when EVCTL_KFP_HOST names one.

Every call of `tests/recordings/kubeflow-2.17/api` is made; status, the shape of the body, and an error's code and first words
must be the recording's. What needs a run in some state takes the server's newest one in that state.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kfp_server import KfpServer
from tests.fakes.kfp_state import World
from tests.kubeflow.recorded import ROOT, load

pytestmark = pytest.mark.kubeflow
HOSTS = ["fake", *(["real"] if os.environ.get("EVCTL_KFP_HOST") else [])]
V2 = "/apis/v2beta1"
MISSING = "00000000-0000-0000-0000-000000000000"
SITUATIONS = (
    "succeeded", "cached", "gate_refused", "task_failed", "terminated", "missing_secret", "image_pull_error",
)  # fmt: skip


class Server:
    """A server with what the calls need in it: an experiment and a pipeline of names of their own."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.name = f"contract-{uuid.uuid4().hex[:8]}"
        self.experiment = self.call("POST", f"{V2}/experiments", body={"display_name": self.name, "description": "d"})
        self.pipeline = self.upload("upload", name=self.name)
        self.version = self.upload("upload_version", name="ver-abc", pipelineid=self.pipeline[1]["pipeline_id"])

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, Any]:
        url = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        return self._send(request)

    def upload(self, call: str, text: bytes | None = None, **query: Any) -> tuple[int, Any]:
        edge = uuid.uuid4().hex
        content = (ROOT / "pipeline.yaml").read_bytes() if text is None else text
        head = f'--{edge}\r\nContent-Disposition: form-data; name="uploadfile"; filename="p.yaml"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        url = f"{self.url}{V2}/pipelines/{call}?{urllib.parse.urlencode(query)}"
        return self._send(urllib.request.Request(url, body, kind, method="POST"))

    def _send(self, request: urllib.request.Request) -> tuple[int, Any]:
        token = os.environ.get("EVCTL_KFP_TOKEN")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def run_body(self, **parameters: Any) -> dict[str, Any]:
        ids = {key: self.version[1][key] for key in ("pipeline_id", "pipeline_version_id")}
        return {
            "display_name": self.name, "experiment_id": self.experiment[1]["experiment_id"],
            "pipeline_version_reference": ids, "runtime_config": {"parameters": parameters},
        }  # fmt: skip

    def recurring(self, cron: str) -> dict[str, Any]:
        return {**self.run_body(data_version="v1"), "max_concurrency": "1", "mode": "DISABLE",
                "no_catchup": True, "trigger": {"cron_schedule": {"cron": cron}}}  # fmt: skip

    def in_state(self, *states: str) -> str:
        filter_ = json.dumps({"predicates": [{"operation": "IN", "key": "state", "stringValues": {"values": states}}]})
        _, body = self.call("GET", f"{V2}/runs", page_size=1, sort_by="created_at desc", filter=filter_)
        if not body.get("runs"):
            pytest.skip(f"the server has no run that is {' or '.join(states)}")
        return str(body["runs"][0]["run_id"])


@pytest.fixture(scope="module", params=HOSTS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "real":
        yield Server(os.environ["EVCTL_KFP_HOST"])
        return
    world = World()
    for each in SITUATIONS:
        world.recorded(each)
    with KfpServer(world) as fake:
        yield Server(fake.url)


def shape(value: Any) -> Any:
    """Return a body's keys and types; of a list its first entry's, of a free struct nothing."""
    if isinstance(value, dict):
        free = {"pipeline_spec", "parameters", "tags", "run_details", "predicates"}
        return {key: "free" if key in free else shape(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def words(text: str) -> str:
    """Return an error's words without ids, names and stack."""
    text = re.sub(r"contract-\w+|\b(not-a-uuid|nope)\b|[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
    return re.split(r"\n|illegal base64", text)[0]


def hold(answer: tuple[int, Any], recording: str, *, optional: tuple[str, ...] = ()) -> Any:
    recorded = load(f"api/{recording}.json")
    status, body = answer
    assert status == recorded["status"], body
    if status >= 400:
        assert body.get("code") == recorded["body"].get("code")
        for key in ("message", "error_message", "error_details"):
            assert words(body.get(key, "")) == words(recorded["body"].get(key, "")), key
        return body
    got, wanted = shape(body), shape(recorded["body"])
    for each in optional:
        got.pop(each, None)
        wanted.pop(each, None)
    assert got == wanted
    return body


def test_health_says_what_kind_of_server_it_is(server: Server) -> None:
    hold(server.call("GET", f"{V2}/healthz"), "healthz")


def test_experiments_are_made_once_found_and_paged(server: Server) -> None:
    hold(server.experiment, "experiment_create")
    again = server.call("POST", f"{V2}/experiments", body={"display_name": server.name})
    hold(again, "experiment_duplicate")
    hold(server.call("GET", f"{V2}/experiments/nope"), "experiment_not_found")
    page = hold(server.call("GET", f"{V2}/experiments", page_size=1), "experiments_list")
    _, rest = server.call("GET", f"{V2}/experiments", page_size=200, page_token=page["next_page_token"])
    assert server.name in {each["display_name"] for each in rest["experiments"]}
    by_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": server.name}]}
    _, found = server.call("GET", f"{V2}/experiments", filter=json.dumps(by_name))
    assert [each["experiment_id"] for each in found["experiments"]] == [server.experiment[1]["experiment_id"]]
    by_name["predicates"][0]["stringValue"] = "no-such-experiment"
    assert "experiments" not in server.call("GET", f"{V2}/experiments", filter=json.dumps(by_name))[1]


def test_uploads_keep_versions_and_refuse_a_name_twice(server: Server) -> None:
    assert server.pipeline[0] == 200
    hold(server.version, "upload_version")
    hold(server.upload("upload", name=server.name), "upload_duplicate")
    pipeline = server.pipeline[1]["pipeline_id"]
    hold(server.upload("upload_version", name="ver-abc", pipelineid=pipeline), "upload_version_duplicate")
    hold(server.upload("upload", text=b"this: is no pipeline", name=f"{server.name}-bad"), "upload_invalid")
    by_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": server.name}]}
    hold(server.call("GET", f"{V2}/pipelines", filter=json.dumps(by_name)), "pipelines_list")
    versions = server.call("GET", f"{V2}/pipelines/{pipeline}/versions", sort_by="created_at desc")
    assert versions[1]["total_size"] == 2
    hold((200, {**versions[1], "total_size": 1}), "pipeline_versions", optional=("next_page_token",))


def test_a_versions_tags_and_description_are_kept(server: Server) -> None:
    pipeline = server.pipeline[1]["pipeline_id"]
    name = f"tagged-{uuid.uuid4().hex[:6]}"
    tags = {"evctl-digest": "abc", "evctl-commit": "0f"}
    status, made = server.upload(
        "upload_version", name=name, pipelineid=pipeline, description="profile dev", tags=json.dumps(tags)
    )
    assert status == 200
    _, read = server.call("GET", f"{V2}/pipelines/{pipeline}/versions/{made['pipeline_version_id']}")
    assert (read["tags"], read["description"], read["display_name"]) == (tags, "profile dev", name)


def test_a_run_takes_only_the_pipelines_parameters_of_their_types(server: Server) -> None:
    hold(server.call("POST", f"{V2}/runs", body=server.run_body(nope=1)), "run_unknown_param")
    hold(server.call("POST", f"{V2}/runs", body=server.run_body(accuracy_threshold="much")), "run_wrong_type")


def test_a_run_that_is_made_can_be_found_by_its_name_and_description(server: Server) -> None:
    nonce = uuid.uuid4().hex
    body = {**server.run_body(data_version="v1"), "display_name": f"found {nonce[:6]}", "description": f"n={nonce}"}
    status, made = server.call("POST", f"{V2}/runs", body=body)
    assert status == 200 and made["run_id"]
    by_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": body["display_name"]}]}
    experiment = server.experiment[1]["experiment_id"]
    _, found = server.call("GET", f"{V2}/runs", filter=json.dumps(by_name), experiment_id=experiment)
    assert [(run["run_id"], run["description"]) for run in found["runs"]] == [(made["run_id"], f"n={nonce}")]
    assert server.call("POST", f"{V2}/runs/{made['run_id']}:terminate", body={})[1] == {}


def test_a_run_that_is_not_there_is_said_so(server: Server) -> None:
    hold(server.call("GET", f"{V2}/runs/{MISSING}"), "run_not_found")
    hold(server.call("GET", f"{V2}/runs/not-a-uuid"), "run_bad_id")
    hold(server.call("DELETE", f"{V2}/runs/{MISSING}"), "delete_not_found")


def test_runs_come_in_pages_of_at_most_two_hundred(server: Server) -> None:
    first = server.call("GET", f"{V2}/runs", page_size=2, sort_by="created_at desc")
    assert first[0] == 200
    if len(first[1]["runs"]) < 2 or not first[1].get("next_page_token"):
        pytest.skip("the server has fewer than three runs")
    second = server.call(
        "GET", f"{V2}/runs", page_size=2, sort_by="created_at desc", page_token=first[1]["next_page_token"]
    )
    ids = [run["run_id"] for page in (first, second) for run in page[1]["runs"]]
    assert len(set(ids)) == len(ids) > 2
    created = [run["created_at"] for page in (first, second) for run in page[1]["runs"]]
    assert created == sorted(created, reverse=True)
    assert set(load("api/runs_page1.json")["body"]) == set(first[1])
    common = {"run_id", "experiment_id", "display_name", "storage_state", "created_at", "state", "state_history"}
    assert all(common <= set(run) for run in first[1]["runs"] if run["state"] != "PENDING")
    hold(server.call("GET", f"{V2}/runs", page_token="not a token"), "runs_bad_token")
    clamped = server.call("GET", f"{V2}/runs", page_size=5000)
    assert clamped[0] == 200 and len(clamped[1]["runs"]) <= 200


def test_runs_can_be_asked_for_by_state(server: Server) -> None:
    wanted = ["FAILED"]
    filter_ = {"predicates": [{"operation": "IN", "key": "state", "stringValues": {"values": wanted}}]}
    _, body = server.call("GET", f"{V2}/runs", page_size=50, filter=json.dumps(filter_))
    assert {run["state"] for run in body.get("runs", [])} <= {"FAILED"}


def test_what_has_ended_cannot_be_ended_and_what_succeeded_not_retried(server: Server) -> None:
    hold(server.call("POST", f"{V2}/runs/{server.in_state('SUCCEEDED')}:terminate", body={}), "terminate_finished")
    hold(server.call("POST", f"{V2}/runs/{server.in_state('SUCCEEDED')}:retry", body={}), "retry_succeeded")


def test_a_recurring_run_is_made_switched_and_deleted_once(server: Server) -> None:
    path = f"{V2}/recurringruns"
    made = hold(server.call("POST", path, body=server.recurring("0 0 3 * * *")), "recurring_create")
    hold(server.call("POST", path, body=server.recurring("every day")), "recurring_bad_cron")
    five = server.call("POST", path, body=server.recurring("0 3 * * *"))
    assert five[0] == 200 and five[1]["trigger"]["cron_schedule"]["cron"] == "0 3 * * *"
    listed = server.call("GET", path, page_size=200)[1]["recurringRuns"]
    own = [each for each in listed if each["recurring_run_id"] == made["recurring_run_id"]]
    assert [shape(each) for each in own] == [shape(load("api/recurring_list.json")["body"]["recurringRuns"][0])]
    one = f"{path}/{made['recurring_run_id']}"
    hold(server.call("POST", f"{one}:enable", body={}), "recurring_enable")
    hold(server.call("POST", f"{one}:disable", body={}), "recurring_disable")
    hold(server.call("DELETE", one), "recurring_delete")
    hold(server.call("DELETE", one), "recurring_delete_again")
    assert server.call("DELETE", f"{path}/{five[1]['recurring_run_id']}")[0] == 200


def test_kfps_own_client_works_against_it(server: Server, tmp_path: Path) -> None:
    from kfp import Client

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        client = Client(host=server.url, existing_token=os.environ.get("EVCTL_KFP_TOKEN", "none"))
        name = f"{server.name}-client"
        experiment = client.create_experiment(name)
        assert client.create_experiment(name).experiment_id == experiment.experiment_id
        uploaded = client.upload_pipeline(str(ROOT / "pipeline.yaml"), pipeline_name=name, description="from a client")
        version = client.upload_pipeline_version(
            str(ROOT / "pipeline.yaml"), "second", pipeline_id=uploaded.pipeline_id
        )
        run = client.run_pipeline(
            experiment.experiment_id, name, pipeline_id=uploaded.pipeline_id, version_id=version.pipeline_version_id
        )
        assert client.get_run(run.run_id).display_name == name
        listed = client.list_runs(experiment_id=experiment.experiment_id)
        assert [each.run_id for each in listed.runs] == [run.run_id]
        client.terminate_run(run.run_id)


def test_an_unfinished_run_that_is_terminated_is_canceling_then_failed(server: Server) -> None:
    _, made = server.call("POST", f"{V2}/runs", body=server.run_body(data_version="v1"))
    path = f"{V2}/runs/{made['run_id']}"
    assert server.call("POST", f"{path}:terminate", body={}) == (200, {})
    state = server.call("GET", path)[1]["state"]
    assert state in ("CANCELING", "FAILED", "RUNNING", "PENDING")


def test_a_pipeline_can_be_made_without_a_version_once(server: Server) -> None:
    name = f"{server.name}-empty"
    status, made = server.call("POST", f"{V2}/pipelines", body={"display_name": name, "name": name, "description": "d"})
    assert status == 200 and made["display_name"] == name and made["pipeline_id"]
    assert server.call("GET", f"{V2}/pipelines/{made['pipeline_id']}/versions")[1].get("pipeline_versions", []) == []
    assert server.call("POST", f"{V2}/pipelines", body={"display_name": name, "name": name})[0] == 409


def test_a_run_is_found_by_the_beginning_of_its_id(server: Server) -> None:
    _, page = server.call("GET", f"{V2}/runs", page_size=1, sort_by="created_at desc")
    run_id = page["runs"][0]["run_id"]
    begins = {"predicates": [{"operation": "IS_SUBSTRING", "key": "run_id", "stringValue": run_id[:8]}]}
    _, found = server.call("GET", f"{V2}/runs", filter=json.dumps(begins))
    assert run_id in {run["run_id"] for run in found["runs"]}
