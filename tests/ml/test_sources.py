"""Telemetry from elsewhere, over real HTTP and a real S3 server."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from ev_ml.errors import DataError
from ev_ml.sources import convert, shown

ROWS = 2000


@pytest.fixture
def csv(small_fleet: Path) -> bytes:
    return pd.read_parquet(small_fleet / "raw.parquet").head(ROWS).to_csv(index=False).encode()


@pytest.fixture
def web(csv: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0]
            if name not in ("/whole.csv", "/cut.csv", "/packed.csv.gz"):
                self.send_error(404)
                return
            body = gzip.compress(csv) if name.endswith(".gz") else csv
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if name == "/cut.csv" else body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["whole.csv", "packed.csv.gz"])
def test_telemetry_comes_in_over_http(web: str, name: str, tmp_path: Path) -> None:
    assert convert(f"{web}/{name}", tmp_path / "out") == ROWS


def test_a_connection_cut_in_the_middle_is_not_taken_for_a_shorter_file(web: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cut off"):
        convert(f"{web}/cut.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_answer_that_is_no_file_says_so_without_the_signature(web: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404") as caught:
        convert(f"{web}/gone.csv?signature=geheim", tmp_path / "out")
    assert "geheim" not in str(caught.value)


def test_a_dead_server_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be fetched"):
        convert("http://127.0.0.1:9/x.csv", tmp_path / "out")


def test_a_uri_is_shown_without_its_password() -> None:
    assert shown("https://me:geheim@host/data.csv?sig=1") == "https://host/data.csv"
    assert shown("/data/t.csv") == "/data/t.csv"


def test_telemetry_comes_in_from_an_s3_server(csv: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        known = {"aws_access_key_id": "me", "aws_secret_access_key": "geheim", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **known)
        client.create_bucket(Bucket="telemetry")
        client.put_object(Bucket="telemetry", Key="fleet/day.csv", Body=csv)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "geheim",
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        assert convert("s3://telemetry/fleet/day.csv", tmp_path / "out") == ROWS
        with pytest.raises(DataError, match="cannot be fetched"):
            convert("s3://telemetry/fleet/none.csv", tmp_path / "none")
    finally:
        server.stop()
