"""systemd's manager over D-Bus (org.freedesktop.systemd1(5)), spoken by jeepney: errors have names, and no process is
started for a call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageType, Properties, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from pbsdock.host.cgroup.systemd import Property

_NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", bus_name=_NAME, interface=f"{_NAME}.Manager")
_ABSENT = frozenset({f"{_NAME}.NoSuchUnit", f"{_NAME}.NoSuchJob", "org.freedesktop.DBus.Error.UnknownObject"})
# systemd leaves the bus for a moment while it executes itself anew (daemon-reexec): asked again, it answers.
_AWAY = frozenset(
    f"org.freedesktop.DBus.Error.{error}"
    for error in ("NoReply", "ServiceUnknown", "NameHasNoOwner", "Disconnected", "Timeout", "TimedOut")
)
_PAUSE_S = 0.002
_AWAY_S = 0.1


class BusError(OSError):
    """systemd's answer was an error; ``name`` is D-Bus's word for it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class SystemBus:
    """The calls of :class:`pbsdock.host.cgroup.systemd.Bus`, each on a connection of its own.

    One that was kept would be dead after a restart of the bus, and threads cannot share it.
    """

    def start_slice(self, unit: str, properties: Sequence[Property], deadline_s: float) -> None:
        """StartTransientUnit, then wait until its job is done and the unit active."""
        with _Call.open(deadline_s) as call:
            try:
                job = call.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", list(properties), []))
            except BusError as error:
                if error.name != f"{_NAME}.UnitExists":
                    raise
                # It runs already, with the limits of whoever made it: an attempt of ours that was cut short.
                call.manager("SetUnitProperties", "sba(sv)", (unit, True, list(properties)))
                job = call.manager("StartUnit", "ss", (unit, "replace"))
            call.wait(str(job[0]))
            if (state := call.state(unit)) != "active":
                raise OSError(f"{unit} is {state} after its start")

    def stop(self, unit: str, deadline_s: float) -> None:
        """StopUnit, then wait until its job is done and the unit inactive."""
        with _Call.open(deadline_s) as call:
            try:
                job = call.manager("StopUnit", "ss", (unit, "replace"))
            except BusError as error:
                if error.name in _ABSENT:
                    return
                raise
            call.wait(str(job[0]))
            if (state := call.state(unit)) not in ("inactive", "failed"):
                raise OSError(f"{unit} is {state} after its stop")


class _Call:
    """One connection and the moment by which all is to be done."""

    def __init__(self, connection: DBusConnection, deadline_s: float) -> None:
        self.connection = connection
        self.seconds = deadline_s
        self.deadline = time.monotonic() + deadline_s

    @classmethod
    @contextmanager
    def open(cls, deadline_s: float) -> Iterator[_Call]:
        """Connect. Raises OSError, also for whatever the library makes of a bus that is gone or silent."""
        try:
            with open_dbus_connection(bus="SYSTEM") as connection:
                yield cls(connection, deadline_s)
        except TimeoutError:
            raise OSError(f"systemd did not answer within {deadline_s:.0f} s") from None
        except (AuthenticationError, KeyError) as error:
            raise OSError(f"the system bus cannot be used: {error}") from None

    def manager(self, method: str, signature: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Call a method of the manager."""
        return self._ask(new_method_call(_MANAGER, method, signature, arguments))

    def wait(self, job: str) -> None:
        """Wait until a job's object is gone: asked, since a signal is lost while systemd executes itself anew."""
        pause = _PAUSE_S
        while self._property(job, "Job", "State") is not None:
            self._sleep(pause)
            pause = min(pause * 2, _AWAY_S)

    def state(self, unit: str) -> str:
        """The unit's ActiveState; "inactive" if systemd does not know it any more."""
        try:
            path = str(self.manager("GetUnit", "s", (unit,))[0])
        except BusError as error:
            if error.name in _ABSENT:
                return "inactive"
            raise
        return self._property(path, "Unit", "ActiveState") or "inactive"

    def _property(self, path: str, kind: str, name: str) -> str | None:
        address = DBusAddress(path, bus_name=_NAME, interface=f"{_NAME}.{kind}")
        try:
            return str(self._ask(Properties(address).get(name))[0][1])
        except BusError as error:
            if error.name in _ABSENT:
                return None
            raise

    def _ask(self, message: Any) -> tuple[Any, ...]:
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            reply = self.connection.send_and_get_reply(message, timeout=left)
            if reply.header.message_type is not MessageType.error:
                return tuple(reply.body)
            name = str(reply.header.fields.get(HeaderFields.error_name, ""))
            if name not in _AWAY:
                raise BusError(name, str(reply.body[0]) if reply.body else name)
            self._sleep(_AWAY_S)

    def _sleep(self, seconds: float) -> None:
        if time.monotonic() + seconds > self.deadline:
            raise TimeoutError
        time.sleep(seconds)
