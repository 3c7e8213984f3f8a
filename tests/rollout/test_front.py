"""The stable address's HTTP: what clients may send, what a model server may answer, and a switch in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from evctl.rollout.serving import front as front_module
from evctl.rollout.serving.front import CONTROL, Front
from evctl.rollout.serving.processes import Process, started_at

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Answer = Callable[[bytes, Reader, Writer], Awaitable[None]]
TOKEN = "the-token"


def me(port: int, digest: str = "d") -> dict[str, object]:
    import os

    return Process(os.getpid(), started_at(os.getpid()), port, digest, 1).to_json()


async def listen(serve: Callable[[Reader, Writer], Awaitable[None]]) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def upstream(answer: Answer) -> tuple[asyncio.Server, int]:
    async def serve(reader: Reader, writer: Writer) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await answer(head, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    return await listen(serve)


def says(name: str, delay: float = 0.0) -> Answer:
    async def answer(head: bytes, reader: Reader, writer: Writer) -> None:
        await asyncio.sleep(delay)
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
        )
        body = name.encode() + b":" + await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    return answer


async def hangs_up(head: bytes, reader: Reader, writer: Writer) -> None:
    writer.close()


async def exchange(port: int, request: bytes, *, until: bytes | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    got = await reader.readuntil(until) if until else await reader.read()
    writer.close()
    return got


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    told = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers, "connection: close"]
    return "\r\n".join([*told, "", ""]).encode() + body


async def switched(port: int, to: int, digest: str = "d") -> bytes:
    body = json.dumps(me(to, digest)).encode()
    return await exchange(port, request("POST", CONTROL, body, f"x-evctl-token: {TOKEN}"))


def run(folder: Path, test: Callable[[int, Front], Awaitable[None]]) -> None:
    async def whole() -> None:
        front = Front(TOKEN, folder, "m")
        server, port = await listen(front.serve)
        async with server:
            await asyncio.wait_for(test(port, front), 20)

    asyncio.run(whole())


def test_bodies_of_known_length_and_in_chunks_arrive_whole(tmp_path: Path) -> None:
    async def test(port: int, _: Front) -> None:
        _, model = await upstream(says("a"))
        await switched(port, model)
        assert (await exchange(port, request("POST", "/v2", b"body"))).endswith(b"\r\n\r\na:body")
        head = b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        chunks = b"3;ext=1\r\nbod\r\n1\r\ny\r\n0\r\ntrailer: 1\r\n\r\n"
        assert (await exchange(port, head + chunks)).endswith(b"\r\n\r\na:body")

    run(tmp_path, test)


def test_a_client_that_waits_for_100_continue_gets_it(tmp_path: Path) -> None:
    async def test(port: int, _: Front) -> None:
        _, model = await upstream(says("a"))
        await switched(port, model)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"a:body")).startswith(b"HTTP/1.1 200")
        writer.close()

    run(tmp_path, test)


def test_a_chunked_answer_a_head_and_an_empty_one_are_passed_on(tmp_path: Path) -> None:
    async def chunked(head: bytes, _: Reader, writer: Writer) -> None:
        if head.startswith(b"HEAD"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
        elif b"/none" in head:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    async def test(port: int, _: Front) -> None:
        _, model = await upstream(chunked)
        await switched(port, model)
        told = await exchange(port, request("GET", "/"))
        assert told.endswith(b"content-length: 2\r\n\r\nhi")
        assert b"chunked" not in told
        assert (await exchange(port, request("HEAD", "/"))).startswith(b"HTTP/1.1 200")
        assert (await exchange(port, request("GET", "/none"))).startswith(b"HTTP/1.1 204")

    run(tmp_path, test)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"fffffffff\r\n",
    ],
)
def test_what_is_no_http_is_400_and_the_front_goes_on(sent: bytes, tmp_path: Path) -> None:
    async def test(port: int, _: Front) -> None:
        _, model = await upstream(says("a"))
        await switched(port, model)
        assert (await exchange(port, sent)).startswith(b"HTTP/1.1 400")
        assert (await exchange(port, request("GET", "/"))).endswith(b"a:")

    run(tmp_path, test)


def test_no_server_none_that_answers_and_one_that_is_slow_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_module, "ANSWER_S", 0.2)

    async def test(port: int, _: Front) -> None:
        assert b"503" in (await exchange(port, request("GET", "/")))[:20]
        slow, model = await upstream(says("slow", 5.0))
        await switched(port, model)
        assert b"504" in (await exchange(port, request("GET", "/")))[:20]
        slow.close()
        _, gone = closed = await upstream(says("x"))
        closed[0].close()
        await closed[0].wait_closed()
        await switched(port, gone)
        told = await exchange(port, request("GET", "/"))
        assert b"503" in told[:20]
        assert b"retry-after: 2" in told
        mute, model = await upstream(hangs_up)
        await switched(port, model)
        told = await exchange(port, request("GET", "/"))
        assert b"502" in told[:20]
        assert b"does not answer" in told
        mute.close()

    run(tmp_path, test)


def test_a_kept_connection_the_server_closed_is_opened_anew(tmp_path: Path) -> None:
    async def once(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
        await writer.drain()
        writer.close()

    async def test(port: int, _: Front) -> None:
        _, model = await upstream(once)
        await switched(port, model)
        for _ in range(5):
            assert (await exchange(port, request("GET", "/"))).endswith(b"x")

    run(tmp_path, test)


def test_a_request_in_hand_ends_where_it_began_and_the_next_goes_to_the_new_server(tmp_path: Path) -> None:
    async def test(port: int, _: Front) -> None:
        _, old = await upstream(says("old", 0.3))
        _, new = await upstream(says("new"))
        await switched(port, old, "old")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        told = await switched(port, new, "new")
        assert (await reader.readuntil(b"old:")).startswith(b"HTTP/1.1 200")
        assert b'"drained": true' in told
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"new:")).startswith(b"HTTP/1.1 200")
        writer.close()

    run(tmp_path, test)


def test_the_control_address_wants_its_token_and_a_server(tmp_path: Path) -> None:
    async def test(port: int, front: Front) -> None:
        assert b"403" in (await exchange(port, request("GET", CONTROL)))[:20]
        assert b"403" in (await exchange(port, request("POST", CONTROL, b"{}", "x-evctl-token: guess")))[:20]
        for body in (b"{", b"[]", b'{"odd": 1}'):
            told = await exchange(port, request("POST", CONTROL, body, f"x-evctl-token: {TOKEN}"))
            assert b"400" in told[:20]
        assert front.keeper.current is None

    run(tmp_path, test)
