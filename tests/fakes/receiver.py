"""Where messages arrive: a real HTTP server and a real SMTP server on loopback."""

from __future__ import annotations

import email
import http.server
import socket
import threading
from collections.abc import Sequence
from typing import Any


class Receiver:
    """A webhook's receiver; `answers` are its statuses in turn, the last one for good; `delay` in seconds."""

    def __init__(self, answers: Sequence[int] = (200,), delay: float = 0.0, path: str = "/hook") -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.run: dict[str, Any] = {}
        left, ended, outer = list(answers), threading.Event(), self
        self._ended = ended

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((dict(self.headers), body))
                ended.wait(delay)
                status = left.pop(0) if len(left) > 1 else left[0]
                try:
                    self.send_response(status)
                    self.end_headers()
                except OSError:  # who asked has given up
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


class Inbox:
    """A mail server that keeps what it is handed."""

    def __init__(self) -> None:
        from aiosmtpd.controller import Controller

        self.mails: list[bytes] = []
        outer = self

        class Handler:
            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
                outer.mails.append(envelope.content)
                return "250 OK"

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._controller = Controller(Handler(), hostname="127.0.0.1", port=port)
        self.url = f"mailto://127.0.0.1:{port}?from=evctl%40example.org&to=ops%40example.org&mode=insecure"

    def __enter__(self) -> Inbox:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def text(self) -> str:
        """Return the text of every mail."""
        parts = [part for mail in self.mails for part in email.message_from_bytes(mail).walk()]
        return b"\n".join(part.get_payload(decode=True) or b"" for part in parts if not part.is_multipart()).decode()
