"""Which answer is a model server's, and which way is tried next when it is not."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evctl.errors import UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.serving import kserve_golden, kserve_ways
from evctl.rollout.serving.kserve_golden import NobodyThere, Patience, by_a_model, direct, proxied
from evctl.rollout.serving.kserve_proof import Observed
from evctl.rollout.target import ServiceTarget
from tests.fakes.saying import Saying

TARGET = ServiceTarget(name="ev", namespace="ns", backend="kubeflow", store={})
ANSWER = {"model_name": "ev", "outputs": []}
Object = dict[str, Any]


@pytest.mark.parametrize(
    ("status", "answer", "model"),
    [
        (200, ANSWER, True),
        (200, {"name": "ev", "ready": True}, True),
        (400, {"error": "feature soc_pct is missing"}, True),
        (404, {"error": "Model with name ev does not exist."}, True),
        (503, {"error": "Model with name ev is not ready"}, True),
        (404, "default backend - 404", False),
        (404, {"message": "no Route matched with those values"}, False),
        (200, "<html>Log in to continue</html>", False),
        (200, {"login": "https://sso"}, False),
        (302, None, False),
        (401, {"error": "invalid_token"}, False),
        (403, {"error": "RBAC: access denied"}, False),
        (503, "no healthy upstream", False),
        (502, None, False),
    ],
)
def test_a_gateways_own_words_are_not_the_models(status: int, answer: Any, model: bool) -> None:
    assert by_a_model(status, answer) is model


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    servers: list[Saying] = []

    def start(status: int, content: str, *, drip_s: float = 0.0) -> str:
        servers.append(Saying(status, content.encode(), drip_s=drip_s))
        return servers[-1].url

    yield start
    for each in servers:
        each.stop()


class Api:
    """An API server's proxy: what each service or pod answers."""

    host = "https://api"

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        self.answers, self.asked = answers, list[str]()

    def raw(self, method: str, path: str, **more: Any) -> Any:
        name = path.split("/proxy/")[0].rpartition("/")[2]
        self.asked.append(name)
        status, answer = self.answers[name]
        return SimpleNamespace(status=status, data=json.dumps(answer).encode())


def api(**answers: tuple[int, Any]) -> Api:
    return Api({name.replace("__", ":").replace("_", "-"): told for name, told in answers.items()})


def service(url: str | None, mode: str = "Standard") -> Object:
    return {"metadata": {"name": "ev"}, "status": {"url": url, "deploymentMode": mode}}


def asked(made: Api, found: Object, seen: Observed | None = None) -> tuple[int, Any]:
    def observe() -> Observed:
        assert seen is not None, "nobody has to look at pods for this"
        return seen

    send = ("POST", "/v2/models/ev/infer", {})
    return kserve_ways.ask(cast(KubeApi, made), TARGET, found, observe, lambda way: way(*send))


@pytest.mark.parametrize(
    ("status", "content"),
    [(404, "default backend - 404"), (200, "<html>Log in</html>"), (503, "no healthy upstream"), (302, "")],
)
def test_what_a_gateway_answers_itself_makes_the_next_way_be_tried(
    status: int, content: str, serve: Callable[..., str]
) -> None:
    made = api(ev_predictor__80=(200, ANSWER))
    assert asked(made, service(serve(status, content))) == (200, ANSWER)
    assert made.asked == ["ev-predictor:80"]


def test_the_models_own_refusal_is_its_answer(serve: Callable[..., str]) -> None:
    made = api()
    assert asked(made, service(serve(400, '{"error": "NaN"}'))) == (400, {"error": "NaN"})


def test_telemetry_is_sent_to_no_domain_that_nobody_set() -> None:
    """As KServe's settings have it until then: a name under example.com, which is somebody else's server."""
    made = api(ev_predictor__80=(200, ANSWER))
    found = service("http://ev-ns.example.com")
    assert kserve_ways.addresses(found, outer=True) == []
    assert asked(made, found) == (200, ANSWER)


def test_where_no_way_leads_to_a_model_each_is_told(serve: Callable[..., str]) -> None:
    url = serve(404, "default backend - 404")
    status = {"kind": "Status", "message": "no endpoints available for service"}
    with pytest.raises(UnavailableError) as told:
        asked(api(ev_predictor__80=(503, status)), service(url))
    assert told.value.message == (
        f"{url} answered 404, and no model server did: default backend - 404; "
        "ev-predictor:80 (through the Kubernetes API) does not answer: no endpoints available for service"
    )


def pod(name: str, revision: str, *, ready: bool, going: bool = False) -> Object:
    metadata: Object = {"name": name, "labels": {"serving.knative.dev/revision": revision}}
    if going:
        metadata["deletionTimestamp"] = "2026-11-23T07:00:00Z"
    return {"metadata": metadata, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def knative(*shares: tuple[str, int]) -> Object:
    traffic = [{"revisionName": name, "percent": percent} for name, percent in shares]
    return {"status": {"latestCreatedRevisionName": shares[-1][0], "traffic": traffic}}


def test_in_knative_a_ready_pod_of_the_revision_that_most_requests_go_to_is_asked() -> None:
    """Its `<service>-predictor` is an ExternalName, to which the API server cannot proxy."""
    pods = [
        pod("a-new", "r2", ready=True),
        pod("b-starts", "r1", ready=False),
        pod("c-goes", "r1", ready=True, going=True),
        pod("d-serves", "r1", ready=True),
    ]
    seen = Observed(None, pods, knative=knative(("r1", 90), ("r2", 10)))
    made = api(d_serves__8080=(200, ANSWER))
    assert asked(made, service(None, "Knative"), seen) == (200, ANSWER)
    assert made.asked == ["d-serves:8080"]


def test_an_idle_service_that_cannot_be_woken_from_here_is_told_as_such() -> None:
    seen = Observed(None, [], knative=knative(("r1", 100)))
    with pytest.raises(UnavailableError, match=r"has no pod that is ready \(it may be idle\), and its address None"):
        asked(api(), service(None, "Knative"), seen)


def test_the_golden_request_is_asked_of_no_pod_that_is_not_ready() -> None:
    class Asked:
        def ask(self, name: str, send: kserve_golden.Send) -> None:
            send("GET", f"/v2/models/{name}/ready", None)

    golden = cast(kserve_golden.Golden, Asked())
    pods = [pod("a-starts", "r2", ready=False), pod("b-serves", "r2", ready=True), pod("c-old", "r1", ready=True)]
    made = api(b_serves__8080=(200, {"ready": True}))
    kserve_ways.ask_golden(cast(KubeApi, made), TARGET, golden, Observed({}, pods, knative=knative(("r2", 100))))
    assert made.asked == ["b-serves:8080"]
    with pytest.raises(UnavailableError, match="revision r2 has no pod that is ready"):
        seen = Observed({}, pods[:1], knative=knative(("r2", 100)))
        kserve_ways.ask_golden(cast(KubeApi, made), TARGET, golden, seen)


def test_an_answer_that_drips_or_is_cut_is_nobodys(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve_golden, "TIMEOUT_S", 0.5)
    begun = time.monotonic()
    with pytest.raises(NobodyThere, match="not whole after"):
        direct(serve(200, json.dumps(ANSWER) + " " * 500, drip_s=0.1))("GET", "/", None)
    assert time.monotonic() - begun < 5
    with socket.create_server(("127.0.0.1", 0)) as half:

        def cut() -> None:
            near, _ = half.accept()
            near.recv(65536)
            near.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"outputs": [')
            near.close()

        threading.Thread(target=cut, daemon=True).start()
        with pytest.raises(NobodyThere):
            direct(f"http://127.0.0.1:{half.getsockname()[1]}")("GET", "/", None)


def test_the_apis_proxy_tells_its_own_errors_from_the_models() -> None:
    made = api(x__80=(200, {"apiVersion": "v1", "kind": "Something"}))
    with pytest.raises(NobodyThere, match="answered 200, and no model server did"):
        proxied(cast(KubeApi, made), "/api/v1/namespaces/ns/services/x:80")("GET", "/v2", None)


def test_patience_is_spent_only_while_somebody_looks() -> None:
    patience = Patience()
    for now in (0.0, 1.0, 1.5):
        patience.seen(now)
    patience.blind()
    patience.seen(21.5)
    assert patience.spent_s == 1.5, "twenty seconds without the API server say nothing of the model"
    patience.seen(22.0)
    assert patience.spent_s == 2.0
    patience.reset()
    patience.seen(30.0)
    assert patience.spent_s == 0.0
