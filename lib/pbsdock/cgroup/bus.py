"""systemd's manager over D-Bus, spoken through busctl: part of systemd itself, so there wherever systemd is."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from pbsdock.cgroup.systemd import Property

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


class Busctl:
    """The calls of :class:`pbsdock.cgroup.systemd.Bus`."""

    def start_slice(self, unit: str, properties: Sequence[Property], deadline_s: float) -> None:
        """StartTransientUnit, then wait until the unit is active."""
        arguments = written(properties)
        answer = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, "fail", *arguments, "0"], deadline_s)
        if answer.returncode and "already" in answer.stderr:
            # It runs already, with the limits of whoever made it.
            answer = self._call("SetUnitProperties", "sba(sv)", [unit, "true", *arguments], deadline_s)
        if answer.returncode:
            raise OSError(answer.stderr.strip())
        self._wait(unit, "active", deadline_s)

    def stop(self, unit: str, deadline_s: float) -> None:
        """StopUnit, then wait until it is inactive."""
        answer = self._call("StopUnit", "ss", [unit, "replace"], deadline_s)
        if answer.returncode and "not loaded" not in answer.stderr:
            raise OSError(answer.stderr.strip())
        if answer.returncode == 0:
            self._wait(unit, "inactive", deadline_s)

    def _call(self, method: str, signature: str, arguments: list[str], deadline_s: float) -> Any:
        return _busctl(["call", *_MANAGER, method, signature, *arguments], deadline_s)

    def _wait(self, unit: str, state: str, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while self._state(unit, deadline_s) != state:
            if time.monotonic() > deadline:
                raise OSError(f"{unit} is not {state} after {deadline_s:.0f} s")
            time.sleep(0.05)

    def _state(self, unit: str, deadline_s: float) -> str:
        found = self._call("GetUnit", "s", [unit], deadline_s)
        if found.returncode:
            return "inactive"
        path = json.loads(found.stdout.split(" ", 1)[1])
        where = [_MANAGER[0], path, "org.freedesktop.systemd1.Unit", "ActiveState"]
        answer = _busctl(["get-property", *where], deadline_s)
        return str(json.loads(answer.stdout.split(" ", 1)[1])) if answer.returncode == 0 else "inactive"


def written(properties: Sequence[Property]) -> list[str]:
    """An a(sv) as busctl(1) takes it: the count, then name, signature and value of each; bytes one by one."""
    arguments = [str(len(properties))]
    for name, (signature, value) in properties:
        arguments += [name, signature]
        if isinstance(value, bytes):
            arguments += [str(len(value)), *map(str, value)]
        else:
            arguments.append(str(value).lower() if isinstance(value, bool) else str(value))
    return arguments


def _busctl(arguments: list[str], deadline_s: float) -> subprocess.CompletedProcess[str]:
    """Run busctl with English messages. Raises OSError, also for a call that does not return in time."""
    try:
        return subprocess.run(
            ["/usr/bin/busctl", *arguments],
            capture_output=True, text=True, timeout=deadline_s, check=False, env={"LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise OSError(f"systemd did not answer within {deadline_s:.0f} s") from error
