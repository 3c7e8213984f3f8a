"""kserve's REST server on a socket of ours: its `ModelServer.start` binds every interface."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import ModelServer
from kserve.model_server import app
from kserve.protocol.rest.server import RESTServer

GRACE_S = 10


def serve(model: Any, listening: socket.socket, *, announce: Path | None = None) -> None:
    """Serve one loaded model until SIGTERM; `announce` gets the port, written whole or not at all."""
    logging.getLogger("kserve").setLevel(logging.WARNING)
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    server = ModelServer(enable_grpc=False, http_port=0, workers=1)
    server.register_model(model)
    rest = RESTServer(
        "kserve.model_server:app",
        server.dataplane,
        server.model_repository_extension,
        http_port=0,
        grace_period=GRACE_S,
        timeout_keep_alive=75,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    if announce is not None:
        partial = announce.with_suffix(".part")
        partial.write_text(f"{listening.getsockname()[1]} {os.getpid()}")
        partial.replace(announce)
    rest.run(sockets=[listening])


async def _invalid(_: Any, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    return JSONResponse(status_code=400, content={"error": f"{where}: {first.get('msg')}"})
