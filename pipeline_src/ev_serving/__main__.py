"""Start the predictor: `python -m ev_serving --bundle DIR [--name N] [--host H] [--port P] [--announce FILE]`.

Loopback unless told otherwise; in the image on a cluster `--host 0.0.0.0 --port 8080 --bundle /mnt/models`.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Serve until SIGTERM. Returns 1 with the reason on stderr when the bundle is not to be served."""
    parser = argparse.ArgumentParser(prog="ev_serving")
    parser.add_argument("--bundle", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--name", default="ev-battery-fault-classifier")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--announce", type=Path, help="file that gets the port once the model is ready")
    options = parser.parse_args(argv)
    # one thread a call: the pool of OpenMP costs more than a few rows do
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.argv[1:] = []  # kserve parses it when imported
    from ev_ml.errors import DataError
    from ev_serving.predictor import Predictor
    from ev_serving.server import serve

    predictor = Predictor(options.name, options.bundle)
    try:
        predictor.load()
    except DataError as error:
        print(f"refused: {type(error).__name__}: {error.message}", file=sys.stderr, flush=True)
        return 1
    listening = socket.create_server((options.host, options.port), backlog=512)
    serve(predictor, listening, announce=options.announce)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
