"""A TCP relay in front of the API server that cuts, stalls, truncates and refuses, as networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(eq=False)
class Pair:
    """One relayed connection. `left`: bytes of answers that still pass, None for all."""

    near: socket.socket
    far: socket.socket
    stalled: bool = False
    left: int | None = None

    def reset(self) -> None:
        """End both sides with a reset."""
        for each in (self.near, self.far):
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                each.shutdown(socket.SHUT_RDWR)
                each.close()


class Cutter:
    """Relays loopback connections to a port. `cuts`, `stalls`, `halves`: how many connections were treated so."""

    def __init__(self, port: int) -> None:
        self._target, self.cuts, self.stalls, self.halves = port, 0, 0, 0
        self._pairs: list[Pair] = []
        self.port = 0
        self._listen()

    def kubeconfig(self, of: Path, folder: Path) -> Path:
        """Return a copy of a kubeconfig that goes through here."""
        document = yaml.safe_load(of.read_text())
        document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        path = folder / "cut.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def cut(self) -> None:
        """Reset every connection there is."""
        pairs, self._pairs = self._pairs, []
        for each in pairs:
            each.reset()
        self.cuts += len(pairs)

    def stall(self) -> None:
        """Let no byte pass any more on the connections there are, and close none: the far end seems to be there."""
        for each in self._pairs:
            self.stalls += not each.stalled
            each.stalled = True

    def halve(self, after: int = 60) -> None:
        """Let some bytes of the next answer pass on each connection there is, and then close it."""
        for each in self._pairs:
            each.left = after

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse and cut all connections for the block."""
        # a close alone leaves it listening for as long as its thread waits in accept
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        try:
            yield
        finally:
            self._listen()

    def close(self) -> None:
        """Stop relaying."""
        # a close alone leaves it listening for as long as its thread waits in accept
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _listen(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            pair = Pair(near, far)
            self._pairs.append(pair)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(pair, one, other), daemon=True).start()

    def _pump(self, pair: Pair, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if pair.stalled:
                    continue
                if one is pair.far and pair.left is not None:
                    other.sendall(data[: pair.left])
                    pair.left -= len(data)
                    if pair.left <= 0:
                        self.halves += 1
                        break
                    continue
                other.sendall(data)
            while pair.stalled:  # nor is its end told
                time.sleep(0.1)
                if pair not in self._pairs:
                    break
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.close()
        with contextlib.suppress(ValueError):
            self._pairs.remove(pair)
