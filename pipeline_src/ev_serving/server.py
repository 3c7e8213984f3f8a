"""kserve's REST server on a socket of ours: its `ModelServer.start` binds every interface."""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve import ModelServer
from kserve.constants.constants import PredictorProtocol
from kserve.errors import InvalidInput, ModelNotFound
from kserve.model_server import app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError
from starlette.exceptions import HTTPException

GRACE_S = 10


class CarefulPlane(DataPlane):  # type: ignore[misc]
    """What cannot be read is the client's fault (400), whatever kserve's decoding makes of it."""

    def decode(self, body: Any, headers: Any, *args: Any, **more: Any) -> Any:
        """Return the request; `NaN` and numbers beyond a double pass, so that the schema can name the feature."""
        try:
            return super().decode(body, headers, *args, **more)
        except InvalidInput:
            again = _leniently(body, v2=more.get("protocol_version") == PredictorProtocol.REST_V2.value)
            if again is None:
                raise
            return super().decode(again, headers, *args, **more)
        except Exception as error:
            raise InvalidInput(f"the request cannot be read: {type(error).__name__}: {error}") from error


class OneModel(ModelRepositoryExtension):  # type: ignore[misc]
    """kserve lets any client unload the model; a release is changed by its promotion only."""

    async def load(self, model_name: str) -> None:
        """Refuse."""
        raise InvalidInput("the model is changed by evctl promote")

    async def unload(self, model_name: str) -> None:
        """Refuse."""
        raise InvalidInput("the model is changed by evctl promote")


class ClientFaults(logging.Filter):
    """Leaves refused requests out of the log: kserve writes a traceback for each."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is worth a line."""
        return not (record.exc_info and isinstance(record.exc_info[1], InvalidInput | ModelNotFound))


def _leniently(body: Any, *, v2: bool) -> Any:
    """Read JSON again as Python does; also V2 of a client that named no content type. None if that fails too."""
    try:
        document = json.loads(body) if isinstance(body, bytes) else None
        if document is not None and v2:
            return InferenceRequest.model_validate(document)
    except ValidationError as error:
        raise InvalidInput(_first(error.errors())) from error
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _first(errors: Sequence[Any]) -> str:
    where = ".".join(str(part) for part in errors[0].get("loc", ()) if part != "body")
    return f"{where or 'request'}: {errors[0].get('msg')}"


def serve(model: Any, listening: socket.socket, *, announce: Path | None = None) -> None:
    """Serve one loaded model until SIGTERM; `announce` gets the port, written whole or not at all."""
    server = ModelServer(enable_grpc=False, http_port=0, workers=1)
    # after ModelServer, which sets every logger to INFO: a line or two a request would fill the disk
    logging.getLogger("kserve").setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(ClientFaults())
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    server.register_model(model)
    rest = RESTServer(
        "kserve.model_server:app",
        CarefulPlane(model_registry=server.registered_models),
        OneModel(model_registry=server.registered_models),
        http_port=0,
        grace_period=GRACE_S,
        timeout_keep_alive=75,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    if announce is not None:
        partial = announce.with_suffix(".part")
        partial.write_text(f"{listening.getsockname()[1]} {os.getpid()}")
        partial.replace(announce)
    rest.run(sockets=[listening])


async def _invalid(_: Any, error: RequestValidationError) -> JSONResponse:
    return JSONResponse(status_code=400, content={"error": _first(error.errors())})


async def _refused(_: Any, error: HTTPException) -> JSONResponse:
    return JSONResponse(status_code=error.status_code, content={"error": str(error.detail)})
