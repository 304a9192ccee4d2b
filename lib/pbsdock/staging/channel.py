"""A worker's end of its channel to the agent.

Messages to the agent: ``progress``, ``upload`` (an upload in parts was begun, or with an empty id is over), ``keys``
(a store's are wanted anew), and last either ``done`` or ``failed``. The agent answers ``keys``. To a stage-in it may
send the job's ``umask``, which is answered by ``modes`` after ``done``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from typing import Any

from pbsdock.staging.errors import StageError
from pbsdock.staging.order import messages, send

_KEYS_S = 60.0


class AgentChannel:
    """Sends messages and asks for keys; any thread."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._umask: queue.Queue[int] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._sending = threading.Lock()
        self._asking = threading.Lock()

    def listen(self) -> None:
        """Receive from now on. The process ends with the agent: without it there is nothing to work for."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for message in messages(self._channel):
            if "umask" in message:
                self._umask.put(int(message["umask"]))
            else:
                self._answers.put(message)
        os._exit(1)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; one that cannot be sent is dropped."""
        with self._sending, contextlib.suppress(OSError):
            send(self._channel, message)

    def umask(self) -> int:
        """Wait until the agent tells the job's umask. An agent that does not want to ends this process."""
        return self._umask.get()

    def ask(self, store: str) -> dict[str, Any]:
        """Fresh keys of a store, within a minute. Raises StageError."""
        with self._asking:
            self.tell({"keys": store})
            try:
                answer = self._answers.get(timeout=_KEYS_S)
            except queue.Empty:
                raise StageError("store-failed", f"no fresh session of store {store} can be had") from None
        if "keys" not in answer:
            raise StageError("store-failed", str(answer.get("reason", "no fresh session can be had")))
        return dict(answer["keys"])
