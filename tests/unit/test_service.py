"""What systemd gives its services, and what they tell it, with a real socket in place of systemd's end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.agent.service import Service, answers


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(5)
        yield end


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    """The agent's listening socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "door"))
        listener.listen()
        yield listener


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "2", "LISTEN_PID": "7"},
    ],
)
def test_what_is_not_ours_is_left_alone(environment: dict[str, str]) -> None:
    """A child inherits the variables of its parent: only the process they name may take what they promise."""
    service = Service.take(environment, 7)

    assert (service.fd, service.socket()) == (-1, None)


def test_the_socket_handed_over_is_used(door: socket.socket, tmp_path: Path) -> None:
    """Descriptor 3 of the process named in LISTEN_PID is the door, and is not passed on to what the agent starts."""
    program = (
        "import os\nfrom pbsdock.agent.service import Service\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "listener = Service.take(os.environ, os.getpid()).socket()\n"
        "listener.accept()[0].send(b'inherited' if os.get_inheritable(3) else b'kept')\n"
    )

    def put_at_3() -> None:
        os.dup2(door.fileno(), 3)

    with subprocess.Popen(
        [sys.executable, "-c", program], preexec_fn=put_at_3, pass_fds=[3], env={**os.environ, "LISTEN_FDS": "1"}
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / "door"))
            assert client.recv(16) == b"kept"


def test_ready_then_alive_then_stopping(manager: socket.socket, door: socket.socket, tmp_path: Path) -> None:
    """The three words, and the second one again and again, as long as somebody takes connections at the door."""
    service = Service.take({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}, 7)
    served = threading.Event()

    def serve() -> None:
        for _ in range(2):
            door.accept()[0].close()
        served.set()

    threading.Thread(target=serve, daemon=True).start()
    service.ready(str(tmp_path / "door"))
    said = [manager.recv(64) for _ in range(3)]
    assert served.wait(5)
    manager.settimeout(1.0)
    with pytest.raises(TimeoutError):  # nobody serves any more: no sign of life
        manager.recv(64)
    service.stopping()
    manager.settimeout(5)

    assert said == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert manager.recv(64) == b"STOPPING=1"


def test_a_door_nobody_serves_is_dead(door: socket.socket, tmp_path: Path) -> None:
    """The kernel takes connections for a process that hangs; a sign of life is what the process itself does."""
    assert not answers(str(tmp_path / "door"), 0.2)


def test_who_knocks_in_vain_is_told_at_once(door: socket.socket, tmp_path: Path) -> None:
    """With an unusable configuration a hook must not wait for mom's alarm: its connection is closed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "door"))
        client.settimeout(5)
        began = time.monotonic()
        Service(fd=os.dup(door.fileno())).turn_away()

        assert client.recv(1) == b""
        assert time.monotonic() - began < 4


def test_without_a_manager_nothing_is_said(
    manager: socket.socket, door: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that a hook started has nobody to tell, although the variables of a service it was started by are there;
    and it knocks at no door. The same words do reach a manager."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    Service().ready(str(tmp_path / "door"))
    Service().stopping()
    manager.settimeout(0.2)
    door.settimeout(0.2)
    with pytest.raises(TimeoutError):
        manager.recv(64)
    with pytest.raises(TimeoutError):
        door.accept()

    Service.take({"NOTIFY_SOCKET": str(tmp_path / "notify")}, 7).stopping()
    assert manager.recv(64) == b"STOPPING=1"


def test_no_sign_of_life_while_a_thread_hangs(manager: socket.socket, door: socket.socket, tmp_path: Path) -> None:
    """Answering at the door is not enough: who does the rest must be well too."""
    service = Service.take({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}, 7)

    def serve() -> None:
        for _ in range(6):
            door.accept()[0].close()

    threading.Thread(target=serve, daemon=True).start()
    service.ready(str(tmp_path / "door"), lambda: False)
    assert manager.recv(64) == b"READY=1"
    manager.settimeout(1.0)
    with pytest.raises(TimeoutError):
        manager.recv(64)
