"""The part of Google Cloud Storage's XML API that a store needs, over HTTP: put with a generation, get, list.

Not the real thing: fake-gcs-server knows no XML upload, and there is no other. Semantics as in Google's reference:
`x-goog-if-generation-match: 0` creates, 412 otherwise.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class GcsServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.one = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GcsServer

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        body, key = self.rfile.read(int(self.headers["content-length"])), self._key()
        wanted = self.headers.get("x-goog-if-generation-match")
        with self.server.one:
            now = self.server.objects.get(key, (b"", 0))[1]
            if wanted is not None and int(wanted) != now:
                return self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            self.server.objects[key] = body, now + 1
        return self._say(200, b"", {"ETag": f'"{now + 1}"'})

    def do_GET(self) -> None:
        if not self._key():
            prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
            items = "".join(
                f"<Contents><Key>{key}</Key><LastModified>2026-11-23T23:00:00.000Z</LastModified>"
                f"<Size>{len(body)}</Size><ETag>&quot;{number}&quot;</ETag></Contents>"
                for key, (body, number) in sorted(self.server.objects.items())
                if key.startswith(prefix)
            )
            return self._say(200, f"<ListBucketResult>{items}</ListBucketResult>".encode())
        if self._key() not in self.server.objects:
            return self._say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        body, number = self.server.objects[self._key()]
        headers = {"ETag": f'"{number}"', "Last-Modified": "Mon, 23 Nov 2026 23:00:00 GMT"}
        if given := self.headers.get("Range"):
            start, _, stop = given.removeprefix("bytes=").partition("-")
            end = min(int(stop or len(body) - 1), len(body) - 1)
            part = {**headers, "Content-Range": f"bytes {start}-{end}/{len(body)}"}
            return self._say(206, body[int(start) : end + 1], part)
        return self._say(200, body, headers)

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
