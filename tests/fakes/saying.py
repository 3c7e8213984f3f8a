"""An HTTP server that answers each request the same way."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Saying:
    """Says `content` with `status`, to GET, POST and PUT; `drip_s` between its bytes."""

    def __init__(self, status: int, content: bytes, *, drip_s: float = 0.0) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                for part in (bytes([each]) for each in content) if drip_s else (content,):
                    time.sleep(drip_s)
                    self.wfile.write(part)

            do_POST = do_PUT = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
