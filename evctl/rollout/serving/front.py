"""The stable address: an HTTP/1.1 proxy that picks the upstream anew for each request.

Kept-alive clients follow a switch because connections to the model server are the proxy's own. A switch is one
assignment; the old upstream's requests in flight end first. Its own process, so that a model that crashes its server
leaves the address, and the model before, alone. Started as `python -m evctl.rollout.serving.front`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evctl.rollout.serving.keeper import Keeper
from evctl.rollout.serving.processes import Process

MAX_HEAD, MAX_BODY = 64 * 1024, 64 * 1024 * 1024
DRAIN_S = 10.0
ANSWER_S = 60.0
"""Longest a model server may take over one answer."""
CONTROL = "/-/upstream"
HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "expect", "proxy-connection", "te"})
Conn = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Broken(Exception):
    """The peer does not speak HTTP/1.1 as we do, or is gone."""


@dataclass
class Message:
    """A request or a reply, whole."""

    first: str
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str:
        """Return a header, lower case name; "" if absent."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def encode(self) -> bytes:
        """Return the bytes to send on, with a length and without hop headers."""
        kept = [f"{key}: {value}" for key, value in self.headers if key.lower() not in HOP]
        head = "\r\n".join([self.first, *kept, f"content-length: {len(self.body)}", "", ""])
        return head.encode("latin-1") + self.body


@dataclass(eq=False)
class Upstream:
    """A model server, its idle connections and how many requests it has in hand."""

    port: int
    idle: list[Conn] = field(default_factory=list)
    busy: int = 0

    async def ask(self, request: bytes, method: str) -> Message:
        """Return the reply; a connection that was kept too long is tried once more on a fresh one."""
        while self.idle:
            reader, writer = self.idle.pop()
            if not writer.is_closing() and not reader.at_eof():
                with contextlib.suppress(Broken, OSError):
                    return await self._on((reader, writer), request, method)
            writer.close()
        return await self._on(await asyncio.open_connection("127.0.0.1", self.port, limit=MAX_HEAD), request, method)

    async def _on(self, conn: Conn, request: bytes, method: str) -> Message:
        conn[1].write(request)
        try:
            reply = await read_message(conn[0], reply_to=method)
        except BaseException:
            conn[1].close()
            raise
        if reply is None:
            conn[1].close()
            raise Broken("closed without an answer")
        if reply.get("connection").lower() == "close":
            conn[1].close()
        else:
            self.idle.append(conn)
        return reply

    async def drain(self) -> bool:
        """Wait for what is in flight, at most `DRAIN_S`; whether all of it ended."""
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self.busy and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        for _, writer in self.idle:
            writer.close()
        return not self.busy


async def read_message(
    reader: asyncio.StreamReader, *, reply_to: str | None = None, writer: asyncio.StreamWriter | None = None
) -> Message | None:
    """Read a whole message; None at the end of the connection. Broken when it is not one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Broken("cut short") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise Broken("headers too long") from error
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    message = Message(first, headers, b"")
    if writer is not None and message.get("expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        message.body = await _body(reader, message, reply_to)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise Broken("body cut short or malformed") from error
    return message


async def _body(reader: asyncio.StreamReader, message: Message, reply_to: str | None) -> bytes:
    if "chunked" in message.get("transfer-encoding").lower():
        parts, size = [], 0
        while length := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            size += length
            if size > MAX_BODY:
                raise Broken("body too long")
            parts.append(await reader.readexactly(length))
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return b"".join(parts)
    status = message.first.split(" ")[1] if reply_to is not None else ""
    if reply_to == "HEAD" or status in ("204", "304"):
        return b""
    length = int(message.get("content-length") or 0)
    if not 0 <= length <= MAX_BODY:
        raise Broken("body too long")
    return await reader.readexactly(length) if length else b""


class Front:
    """The proxy."""

    def __init__(self, token: str, folder: Path, name: str) -> None:
        self._token = token
        self._current: Upstream | None = None
        self._left: Upstream | None = None
        self.keeper = Keeper(folder, name, self._send_to)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's requests, one after the other."""
        try:
            while (request := await read_message(reader, writer=writer)) is not None:
                writer.write((await self._answer(request)).encode())
                await writer.drain()
                if request.get("connection").lower() == "close" or request.first.endswith("HTTP/1.0"):
                    break
        except Broken as error:
            writer.write(_reply(400, {"error": str(error)}).encode())
        except (OSError, asyncio.CancelledError):
            pass  # the client is gone, or we stop
        finally:
            writer.close()

    async def _answer(self, request: Message) -> Message:
        method, _, rest = request.first.partition(" ")
        path = rest.split(" ")[0]
        if path == CONTROL:
            return await self._control(method, request)
        upstream = self._current
        if upstream is None:
            return _reply(503, {"error": "no model is served"})
        upstream.busy += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                return await upstream.ask(request.encode(), method)
        except TimeoutError:
            return _reply(504, {"error": f"the model server did not answer within {ANSWER_S:.0f} s"})
        except (Broken, OSError) as error:
            server = self.keeper.current
            # one that refuses connections is dying, or comes up again: alive as a process only
            if (server and not server.alive) or isinstance(error, ConnectionRefusedError):
                told = "the model server has ended and is being started again"
                return _reply(503, {"error": told}, ("retry-after", "2"))
            return _reply(502, {"error": f"the model server does not answer: {type(error).__name__}"})
        finally:
            upstream.busy -= 1

    async def _control(self, method: str, request: Message) -> Message:
        if not hmac.compare_digest(request.get("x-evctl-token").encode(), self._token.encode()):
            return _reply(403, {"error": "not allowed"})
        drained = True
        if method == "POST":
            try:
                wanted = Process(**json.loads(request.body))
            except (ValueError, TypeError) as error:
                return _reply(400, {"error": f"not a server: {error}"})
            self.keeper.switch(wanted)
            drained = await self._left.drain() if self._left else True
        elif method == "DELETE":
            await self.keeper.retire()
        return _reply(200, {**self.keeper.told(), "drained": drained})

    def _send_to(self, server: Process) -> None:
        if self._current is None or self._current.port != server.port:
            self._left, self._current = self._current, Upstream(server.port)


def _reply(status: int, document: dict[str, Any], *headers: tuple[str, str]) -> Message:
    told = [("content-type", "application/json"), *headers]
    return Message(f"HTTP/1.1 {status} -", told, json.dumps(document).encode())


async def _main(listening: socket.socket, token: str, announce: Path, name: str) -> None:
    front = Front(token, announce.parent, name)
    front.keeper.adopt()
    server = await asyncio.start_server(front.serve, sock=listening, limit=MAX_HEAD, backlog=512)
    partial = announce.with_suffix(".part")
    partial.write_text(f"{listening.getsockname()[1]} {os.getpid()}")
    partial.replace(announce)
    async with server:
        await asyncio.gather(server.serve_forever(), front.keeper.watch())


def main() -> None:
    """Serve the stable address until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--announce", type=Path, required=True, help="in the service's folder")
    parser.add_argument("--name", required=True, help="the model's name, for a server that is started again")
    options = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", options.port), backlog=512)
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_main(listening, options.token_file.read_text(), options.announce, options.name))


if __name__ == "__main__":
    main()
