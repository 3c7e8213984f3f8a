"""A TCP relay in front of the API server whose connections can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import yaml


class Cutter:
    """Relays loopback connections to a port."""

    def __init__(self, port: int) -> None:
        self._target, self.cuts = port, 0
        self._pairs: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

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
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                each.shutdown(socket.SHUT_RDWR)
                each.close()
        self.cuts += len(pairs) // 2

    def close(self) -> None:
        """Stop relaying."""
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.close()
