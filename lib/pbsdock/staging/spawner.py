"""The process that workers are forked from: one thread, the libraries loaded, nothing else.

A worker started by exec would cost 0.2 s and 50 MiB, and its user could trace it before it is protected. So the agent
sends this process an end of a channel for each order, gets the worker's pidfd back, and kills the worker through it; a
process id could be reused.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

_IDLE_S = 300.0


def main(control: socket.socket) -> None:
    """Serve until the agent is gone, or nothing was wanted for some minutes."""
    import pbsdock.staging.worker  # noqa: F401 - loaded once, for all that are forked
    from pbsdock.core.waiting import readable
    from pbsdock.staging.client import client_of
    from pbsdock.staging.order import Access

    # Loads what the first client of a process loads: its models and endpoint rules.
    access = Access(
        endpoint="http://127.0.0.1:1",
        region="us-east-1",
        path_style=True,
        ca_bundle="",
        parallel=1,
        keys={"access_key": "x", "secret_key": "x"},
    )
    client_of("", access, lambda _store: {}).close()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # workers are waited for by nobody: their pidfd tells
    while readable(control.fileno(), _IDLE_S):  # its number may be any: it is the agent's
        try:
            data, fds, _, _ = socket.recv_fds(control, 1, 4)
        except OSError:
            return
        if not data:
            return
        channel = socket.socket(fileno=fds[0])
        pid = os.fork()
        if pid == 0:
            control.close()
            _work(channel)
        channel.close()
        pidfd = os.pidfd_open(pid)
        try:
            socket.send_fds(control, [b"+"], [pidfd])
        except OSError:
            return
        finally:
            os.close(pidfd)


def _work(channel: socket.socket) -> None:
    """In the child; never returns."""
    from pbsdock.staging.order import Order, messages
    from pbsdock.staging.worker import serve

    code = 1
    with contextlib.suppress(BaseException):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        order = next(messages(channel), None)
        if order is not None:
            serve(Order.from_dict(order), channel)
            code = 0
    os._exit(code)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
