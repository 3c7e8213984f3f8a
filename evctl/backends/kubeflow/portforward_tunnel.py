"""One connection to a port of a pod, inside the API server's web socket (`v4.channel.k8s.io`).

Not `kubernetes.stream.portforward`: when the pod goes away its thread dies with a traceback on stderr, and the socket it
gave out neither ends nor fails.
"""

from __future__ import annotations

import select
import socket
from typing import Any

from evctl.errors import EvctlError, NotAllowedError, NotFoundError, UnavailableError, trim
from evctl.kube import KubeApi

CHUNK = 1 << 16
OPEN_TIMEOUT_S = 5.0
STUCK_S = 60.0
"""How long a peer may leave a frame half sent, or not take one."""
DATA, ERROR = 0, 1
"""A forwarded port has two channels; the first frame of each holds the port's number."""


class Tunnel:
    """An open connection to a pod's port. The constructor raises UnavailableError, NotAllowedError, NotFoundError."""

    def __init__(self, api: KubeApi, namespace: str, pod: str, port: int) -> None:
        self.where = f"{namespace}/{pod}:{port}"
        self._socket = _opened(api, f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}", self.where)

    def carry(self, here: socket.socket) -> None:
        """Carry bytes both ways until one side ends; the pod's side is closed then.

        One thread does both: an encrypted socket may not be read and written at once.

        Raises:
            UnavailableError: the pod's side could not be reached, or broke off.
        """
        import websocket

        here.settimeout(STUCK_S)
        try:
            self._carry(here)
        except websocket.WebSocketException as error:
            raise UnavailableError(f"the port forwarded to {self.where} broke off: {type(error).__name__}") from error
        except OSError:
            return  # whoever spoke here has gone, or the API server has: to the one still there it is an end
        finally:
            self._socket.shutdown()

    def _carry(self, here: socket.socket) -> None:
        begun: set[int] = set()
        there = self._socket.sock
        while True:
            # what TLS has decrypted already makes no descriptor readable
            waiting = there.pending() if hasattr(there, "pending") else 0
            ready = [there] if waiting else select.select([here, there], [], [])[0]
            # the pod's side first: it may say why nothing more can be sent
            if there in ready and self._received(here, begun):
                return
            if here in ready:
                chunk = here.recv(CHUNK)
                if not chunk:
                    return
                self._socket.send_binary(bytes([DATA]) + chunk)

    def _received(self, here: socket.socket, begun: set[int]) -> bool:
        """Hand one frame on; whether it was the last."""
        import websocket

        opcode, frame = self._socket.recv_data_frame(True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return True
        if opcode != websocket.ABNF.OPCODE_BINARY or not frame.data:
            return False
        channel, content = frame.data[0], frame.data[1:]
        if channel not in begun:
            begun.add(channel)
        elif channel == DATA:
            here.sendall(content)
        elif channel == ERROR and content:
            raise UnavailableError(
                f"pod port {self.where} cannot be reached: {trim(content.decode(errors='replace'), 160)}"
            )
        return False


def _opened(api: KubeApi, path: str, where: str) -> Any:
    import websocket
    from kubernetes.stream import ws_client

    headers: dict[str, str] = {}
    api.client.update_params_for_auth(headers, [], ["BearerToken"])
    # there is no other way to bound the handshake, and nothing else here opens web sockets
    websocket.setdefaulttimeout(OPEN_TIMEOUT_S)
    try:
        found = ws_client.create_websocket(
            api.client.configuration,
            ws_client.get_websocket_url(api.host + path),
            {name.lower(): value for name, value in headers.items()},
        )
        found.settimeout(STUCK_S)
        return found
    except websocket.WebSocketBadStatusException as error:
        raise _refused(error.status_code, where) from error
    except (websocket.WebSocketException, OSError, ValueError) as error:
        raise UnavailableError(
            f"no port can be forwarded to {where}: {type(error).__name__}", hint="the same command again; evctl doctor"
        ) from error


def _refused(status: int, where: str) -> EvctlError:
    if status in (401, 403):
        return NotAllowedError(
            f"the cluster does not let us forward a port to {where}",
            hint="get and create on pods/portforward are needed: evctl doctor",
        )
    if status == 404:
        return NotFoundError(f"pod {where} is gone")
    return UnavailableError(f"no port can be forwarded to {where}: HTTP {status}", hint="the same command again")
