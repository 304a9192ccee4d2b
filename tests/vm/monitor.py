"""QEMU's own end of a machine: the QEMU machine protocol (docs/interop/qmp-spec.rst in its source)."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

_ANSWER_S = 20.0


class Monitor:
    """One connection to a running QEMU."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(_ANSWER_S)
        self._lines = connection.makefile("rb")
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: str) -> Any:
        """One command; returns its answer and passes over what QEMU tells of itself. Raises OSError or ValueError."""
        asked: dict[str, Any] = {"execute": command}
        if arguments:
            asked["arguments"] = arguments
        self._connection.sendall(json.dumps(asked).encode() + b"\n")
        while line := self._lines.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise ValueError(f"{command}: {answer['error']}")
        raise OSError("QEMU has closed its monitor")

    def examine(self) -> str:
        """State and registers of a machine that is silent, some times, then the panic of its kernel, if it can."""
        seen = [f"state: {self.ask('query-status')}"]
        for _ in range(3):
            text = str(self.ask("human-monitor-command", **{"command-line": "info registers -a"}))
            seen.append("\n".join(one for one in text.splitlines() if one.startswith(("CPU#", "RIP", "RAX", "RSI"))))
            time.sleep(0.5)
        self.ask("inject-nmi")  # with unknown_nmi_panic the kernel prints where it was
        time.sleep(10.0)
        return "\n".join(seen)

    def close(self) -> None:
        self._lines.close()
        self._connection.close()
