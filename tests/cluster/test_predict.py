"""`predict` against a cluster: the real predictor at its address, and behind the real API server's service proxy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from evctl.errors import UnavailableError
from evctl.kube import KubeApi
from evctl.rollout.predicting import predict_file
from evctl.rollout.promotion import promote
from tests.cluster.routing import Routed
from tests.cluster.stage import CREATE, SESSION, Stage

ELSEWHERE = "http://x-predictor.t.svc.cluster.local"


@pytest.fixture
def gateway() -> Iterator[str]:
    """An ingress that routes the service's host nowhere."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b"default backend - 404"
            self.send_response(404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(stage: Stage) -> dict[str, Any]:
    answer = predict_file(stage.target, stage.world(), SESSION)
    assert answer["model"] == {"version": stage.models["a"].version, "digest": stage.models["a"].digest}
    for each in answer["sessions"]:
        assert each["probability"] == max(each["probabilities"].values())
    return answer


def test_the_models_own_address_is_asked(stage: Stage, own_address: str, real_predictor: int) -> None:
    stage.plays("a", CREATE)
    stage.start(url=f"http://{own_address}:{real_predictor}")
    stage.promote("a")
    assert asked(stage)["sessions"]


@pytest.mark.parametrize("address", ["out of reach", "a gateway's 404"])
def test_the_api_servers_proxy_is_asked_where_the_address_leads_to_no_model(
    address: str, stage: Stage, own_address: str, real_predictor: int, gateway: str, admin: KubeApi
) -> None:
    stage.plays("a", CREATE)
    stage.start(url=ELSEWHERE if address == "out of reach" else gateway, pod_ip=own_address)
    routed = Routed(admin, stage.target, own_address, real_predictor)
    promote(stage.target, stage.world(), stage.models["a"].uri, by="anna", tell=lambda line: routed.follow())
    assert asked(stage)["sessions"]


def test_where_nobody_answers_each_way_is_told(stage: Stage, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays("a", CREATE)
    stage.start()
    stage.promote("a")
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{stage.target.namespace}/inferenceservices/{stage.target.name}"
    assert stage.player
    stage.player.stop()
    stage.api().patch(f"{path}/status", {"status": {"url": gateway, "address": {"url": gateway}}})
    with pytest.raises(UnavailableError, match="answered 404, and no model server did: default backend"):
        predict_file(stage.target, stage.world(), SESSION)
