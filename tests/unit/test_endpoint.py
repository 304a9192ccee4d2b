"""The endpoint for credentials: whose connections there are, counted by the kernel's table."""

from __future__ import annotations

import socket
import subprocess
import sys

from pbsdock.agent.endpoint import Endpoint
from pbsdock.agent.sessions import Sessions
from tests.support.ports import free_port

_ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as one:
    one.sendall(b"GET /x HTTP/1.0\\r\\n\\r\\n")
    print(one.recv(12).decode())
"""


def test_one_user_cannot_have_all_connections() -> None:
    """Idle connections of one keep neither others out, nor more of their own than a few in."""
    port = free_port()
    endpoint = Endpoint(port, Sessions(), lambda *_: None)
    endpoint.start()
    idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(80)]
    try:
        others = subprocess.run(
            [sys.executable, "-I", "-c", _ASK, str(port)], user=65534, capture_output=True, text=True, check=True
        )
        closed = [one for one in idle if _is_closed(one)]
    finally:
        for one in idle:
            one.close()
        endpoint.shutdown()
        endpoint.server_close()

    assert others.stdout == "HTTP/1.0 403\n"
    assert len(closed) == 64


def _is_closed(one: socket.socket) -> bool:
    one.settimeout(0.05)
    try:
        return one.recv(1) == b""
    except TimeoutError:
        return False
