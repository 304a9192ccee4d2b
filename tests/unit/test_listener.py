"""The listener with real sockets; the node behind it is a fake without engine, disk or jobs, and so are the answers."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import listener as listener_module
from pbsdock.agent.listener import Listener
from pbsdock.agent.pulse import Pulse
from pbsdock.agent.requests import respond
from pbsdock.agent.service import Service
from pbsdock.agent.session import Session
from pbsdock.protocol import wire
from pbsdock.rm.torque import Torque
from tests.unit.records import fake_jobs


class FakeNode:
    """A node without an engine, a disk or jobs; what it is told of is remembered."""

    def __init__(self, run_dir: Path) -> None:
        self.name = "n1"
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.pulse = Pulse()
        self.rm = Torque(Path("/none/mom_priv"), "n1")
        self.paths = SimpleNamespace(run_dir=run_dir, socket=run_dir / "agent.sock")
        self.config = SimpleNamespace(
            agent=SimpleNamespace(message_bytes=1 << 20, request_timeout_s=0.4, max_connections=100)
        )
        self.jobs = fake_jobs(load_all=self._full, for_job=self._full)

    def emit(self, event: str, record: Any = None, **fields: Any) -> None:
        """Remember it."""
        self.told.append((event, fields))

    def _full(self, *_arguments: Any) -> Any:
        raise OSError(28, "No space left on device", "/secret/path")


Serve = Callable[..., FakeNode]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a listener with an answer of the test's own, or the agent's; returns its fake node."""
    place = Path(tempfile.mkdtemp(prefix="pbsdock-listener."))
    place.chmod(0o755)
    monkeypatch.setattr(listener_module, "_FIRST_MESSAGE_S", 0.6)
    monkeypatch.setattr(listener_module, "_LOOK_S", 0.05)
    monkeypatch.setattr(listener_module, "_IDLE_S", 0.5)

    def start(answer: Callable[[Session, wire.Message], None] = respond) -> FakeNode:
        node: Any = FakeNode(place)
        made = Listener(node, answer)
        threading.Thread(target=made.serve_for_ever, args=(made.open(Service()),), daemon=True).start()
        node.listener = made
        return node  # type: ignore[no-any-return]

    yield start
    shutil.rmtree(place)


def _connect(node: FakeNode) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(5)
    one.connect(str(node.paths.socket))
    return one


def _recv(one: socket.socket) -> wire.Message | None:
    header = one.recv(4)
    if not header:
        return None
    data = b""
    size = int.from_bytes(header, "big")
    while len(data) < size:
        data += one.recv(size - len(data))
    return wire.decode(data)


def _takes(one: socket.socket, data: bytes) -> bool:
    try:
        one.send(data)
    except OSError:
        return False
    return True


def _threads() -> int:
    return threading.active_count()


def test_messages_in_any_pieces(serve: Serve) -> None:
    """One byte at a time, and several at once: each is answered once, in its order."""
    node = serve()
    one = _connect(node)
    data = wire.encode(wire.Message("ping"))
    for at in range(len(data)):
        one.send(data[at : at + 1])
    assert _recv(one).op == "pong"  # type: ignore[union-attr]
    one.sendall(data + wire.encode(wire.Message("nonsense")) + data)
    assert [_recv(one).op for _ in range(3)] == ["pong", "refused", "pong"]  # type: ignore[union-attr]


def test_silence_has_an_end(serve: Serve) -> None:
    """A client that says nothing, or a byte now and then, is closed; a deadline holds for the request as a whole."""
    node = serve()
    silent, slow = _connect(node), _connect(node)
    slow.sendall((100).to_bytes(4, "big"))
    began = time.monotonic()
    while _takes(slow, b"x"):
        assert time.monotonic() - began < 2
        time.sleep(0.05)
    assert silent.recv(1) == b""


def test_who_waits_for_a_job_may_be_silent(serve: Serve) -> None:
    """Until that is over."""
    over = threading.Event()

    def answer(session: Session, message: wire.Message) -> None:
        session.running = SimpleNamespace(over=over, leave=lambda _: None)  # type: ignore[assignment]
        session.answer(wire.Message("started"))

    node = serve(answer)
    one = _connect(node)
    one.sendall(wire.encode(wire.Message("start")))
    assert _recv(one).op == "started"  # type: ignore[union-attr]
    one.settimeout(1.2)
    with pytest.raises(TimeoutError):
        one.recv(1)
    over.set()
    one.settimeout(5)
    assert one.recv(1) == b""


def test_idle_connections_have_no_thread(serve: Serve) -> None:
    """Sixty of them, and half a message from each."""
    node = serve()
    before = _threads()
    held = [_connect(node) for _ in range(60)]
    for one in held:
        one.sendall((100).to_bytes(4, "big") + b"half")
    time.sleep(0.1)
    assert _threads() <= before
    for one in held:
        one.close()


def test_too_long_and_too_many(serve: Serve) -> None:
    """A message of more than is allowed, and a user's connections beyond the share; root has no share."""
    node = serve()
    one = _connect(node)
    one.sendall((2 << 20).to_bytes(4, "big"))
    assert one.recv(1) == b""


def test_what_never_fits_is_not_waited_for(serve: Serve) -> None:
    """A message of nothing but separators would take more memory than all requests may."""
    node = serve()
    pid = os.fork()
    if not pid:
        os.setresuid(65534, 65534, 65534)
        one = _connect(node)
        one.sendall((1 << 20).to_bytes(4, "big") + bytes(1 << 20))
        os._exit(0 if one.recv(1) == b"" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [event for event, _ in node.told] == ["client.refused"]


def test_a_full_disk_is_told_and_the_connection_goes_on(serve: Serve) -> None:
    """An OSError of ours is not the client's going: it gets a sentence."""
    node = serve()
    one = _connect(node)
    one.sendall(wire.encode(wire.Message("signal", job="7.s", signal=15)))
    answer = _recv(one)
    assert answer is not None
    assert (answer.op, answer.text("code")) == ("fault", "agent-error")
    assert answer.text("sentence") == "the pbsdock agent of n1 could not do this: No space left on device"
    one.sendall(wire.encode(wire.Message("ping")))
    assert _recv(one).op == "pong"  # type: ignore[union-attr]
    assert [(event, fields["where"]) for event, fields in node.told] == [("agent.error", "signal")]


def test_one_users_slow_requests(serve: Serve) -> None:
    """Only so many of a user's are answered at a time, and everything else of theirs goes on; nothing is lost."""
    go, at_work, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def answer(session: Session, message: wire.Message) -> None:
        nonlocal at_work, most
        if message.op == "start":
            with lock:
                at_work += 1
                most = max(most, at_work)
            go.wait(10)
            with lock:
                at_work -= 1
        session.answer(wire.Message("done"))

    node: Any = serve(answer)
    pid = os.fork()
    if not pid:
        os._exit(_ask_as_nobody(node))
    time.sleep(0.7)
    load = node.listener.load()
    go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert most == max(4, os.cpu_count() or 1)
    assert load == (20, most, 20 - most)  # the one with the signal has been silent for too long


def _ask_as_nobody(node: FakeNode) -> int:
    """Twenty starts, which are not answered for a while, and a signal, which is at once."""
    try:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        starts = [_connect(node) for _ in range(20)]
        for one in starts:
            one.sendall(wire.encode(wire.Message("start")))
        other = _connect(node)
        began = time.monotonic()
        other.sendall(wire.encode(wire.Message("signal")))
        signalled = _recv(other)
        is_fast = time.monotonic() - began < 0.5
        answers = [_recv(one) for one in starts]
        return 0 if signalled and is_fast and all(answers) else 1
    except BaseException:
        return 2


def test_what_the_dead_have_asked_is_not_waited_for(serve: Serve) -> None:
    """A user's connections with hundreds of requests in them are closed when the user is gone, not at the user's rate."""
    answered = 0

    def answer(session: Session, message: wire.Message) -> None:
        nonlocal answered
        answered += 1

    node: Any = serve(answer)
    pid = os.fork()
    if not pid:
        os.setresuid(65534, 65534, 65534)
        for one in [_connect(node) for _ in range(20)]:
            one.sendall(wire.encode(wire.Message("signal")) * 200)
        os._exit(0)
    os.waitpid(pid, 0)
    began = time.monotonic()
    while node.listener.quota._open and time.monotonic() - began < 20:
        time.sleep(0.01)
    assert time.monotonic() - began < 5
    assert answered < 4000


def test_a_client_that_goes_while_it_is_answered(serve: Serve) -> None:
    """The worker comes through, and the connection's place is given back."""
    began, go = threading.Event(), threading.Event()

    def answer(session: Session, message: wire.Message) -> None:
        began.set()
        go.wait(5)
        session.answer(wire.Message("done"))
        session.answer(wire.Message("done"))

    node: Any = serve(answer)
    one = _connect(node)
    one.sendall(wire.encode(wire.Message("start")))
    assert began.wait(5)
    one.close()
    go.set()
    deadline = time.monotonic() + 5
    while node.listener.quota._open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not node.listener.quota._open
    assert not node.listener.quota._held
