"""Questions between agents over real sockets: asked, answered, and refused without a word."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pbsdock.cluster.channel import (
    MOST_LINE,
    ChannelError,
    Request,
    Unfit,
    answer_line,
    is_same_host,
    read_answer,
    read_request,
    request_line,
)
from pbsdock.cluster.client import ask
from pbsdock.cluster.listener import Listener
from pbsdock.cluster.replays import Replays
from pbsdock.cluster.signing import KeySigner, SigningError

SIGNER = KeySigner(b"k" * 32)
OTHER = KeySigner(b"o" * 32)
HERE = "localhost"


class Events:
    """What was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))

    def reasons(self) -> list[str]:
        return [str(fields.get("reason")) for _, fields in self.told]


def job(request: Request) -> dict[str, Any]:
    return {"job": request.job, "asked": dict(request.fields), "by": request.sender}


def broken(_request: Request) -> dict[str, Any]:
    raise RuntimeError("a slip of ours")


@contextmanager
def listening(**options: Any) -> Iterator[tuple[Listener, Events]]:
    events = Events()
    handlers = {"job": job, "broken": broken, "long": lambda _: {"x": "y" * MOST_LINE}}
    server = Listener(SIGNER, 0, HERE, handlers | options.pop("handlers", {}), events, **options)
    server.start()
    try:
        yield server, events
    finally:
        server.stop()


def raw(port: int, data: bytes) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection((HERE, port), 20) as connection:
        connection.settimeout(20)
        try:
            connection.sendall(data)
            found = b""
            while more := connection.recv(65536):
                found += more
        except ConnectionError:
            return b""
        return found


def request(**changes: Any) -> Request:
    return replace(Request(op="job", job="7.s", sender="n2", to=HERE, at=time.time()), **changes)


# -- the language -----------------------------------------------------------------------------------------------------


def test_a_request_comes_as_it_was() -> None:
    """And so does its answer."""
    asked = request(fields={"a": [1, None, "ü"]})

    assert read_request(SIGNER, request_line(SIGNER, asked)[:-1]) == asked
    assert read_answer(SIGNER, answer_line(SIGNER, asked, {"x": 1})[:-1], asked) == {"x": 1}


def test_an_answer_is_no_request_and_the_other_way_round() -> None:
    """Nobody's words can be sent back to them as something else."""
    asked = request()
    with pytest.raises(Unfit, match="it is no request"):
        read_request(SIGNER, answer_line(SIGNER, asked, {})[:-1])
    with pytest.raises(Unfit, match="it is no answer"):
        read_answer(SIGNER, request_line(SIGNER, asked)[:-1], asked)


@pytest.mark.parametrize("changes", [{"op": "x"}, {"job": "8.s"}, {"sender": "n3"}, {"nonce": "0"}])
def test_an_answer_to_another_question_is_not_taken(changes: dict[str, Any]) -> None:
    """Each of what was asked counts."""
    asked = request()
    with pytest.raises(Unfit, match="another question"):
        read_answer(SIGNER, answer_line(SIGNER, replace(asked, **changes), {})[:-1], asked)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 20000,
        b"\xff",
        *(
            json.dumps({"kind": "request", "v": 1, "op": "o", "job": "j", "from": "f", "to": "t", "at": 1, "nonce": "n"} | wrong).encode()
            for wrong in ({"op": 1}, {"job": None}, {"to": "a\nb"}, {"from": "x" * 2000}, {"at": "1"}, {"at": True}, {"nonce": []}, {"fields": 3}, {"v": "1"}, {"kind": "ticket"})
        ),
    ],
)  # fmt: skip
def test_what_is_signed_and_no_request(content: bytes) -> None:
    """Of root of another node, but not understood: refused, and never an exception nobody has foreseen."""
    with pytest.raises(Unfit):
        read_request(SIGNER, SIGNER.sign(content).encode())


def test_unknown_fields_are_passed_over() -> None:
    """A later release may add some."""
    whole = {"kind": "request", "v": 1, "op": "o", "job": "j", "from": "f", "to": "t", "at": 1, "nonce": "n", "new": {}}

    assert read_request(SIGNER, SIGNER.sign(json.dumps(whole).encode()).encode()).op == "o"


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("n1", "n1", True),
        ("n1", "N1.Example.org", True),
        ("n1.example.org.", "n1", True),
        ("n1.a.org", "n1.b.org", False),
        ("n1", "n12", False),
        ("n1.example.org", "n12", False),
    ],
)
def test_names_of_one_host(name: str, other: str, same: bool) -> None:
    """With and without a domain."""
    assert is_same_host(name, other) is same
    assert is_same_host(other, name) is same


def test_fresh_and_replayed() -> None:
    """Both ways around the clock, heard once, forgotten when too old anyway, and never more than so many."""
    now = 1000.0
    replays = Replays(900.0, lambda: now, most=100)
    for at in (101.0, 1000.0, 1899.0):
        replays.admit(request(at=at))
    for at in (99.0, 1901.0, float("nan"), float("inf")):
        with pytest.raises(Unfit, match=r"it was signed .* s (ago|in the future) by its clock; up to 900 s"):
            replays.admit(request(at=at))
    again = request(at=1000.0)
    replays.admit(again)
    with pytest.raises(Unfit, match="heard before"):
        replays.admit(again)
    for _ in range(300):
        replays.admit(request(at=1000.0))
    assert len(replays) == 100
    now = 3000.0
    for _ in range(300):
        replays.admit(request(at=now))
        now += 1000
    assert len(replays) < 5


# -- over a socket ----------------------------------------------------------------------------------------------------


def test_asked_and_answered() -> None:
    """Fields go there, the answer comes back, as often as it is asked."""
    with listening() as (server, events):
        for number in range(5):
            found = ask(SIGNER, HERE, server.port, "job", "7.s", timeout_s=10, sender="n2", deep={"n": number})
            assert found == {"job": "7.s", "asked": {"deep": {"n": number}}, "by": "n2"}
    assert events.told == []


def test_by_another_name_of_the_host() -> None:
    """An address, or an alias that leads to it, is this node too."""
    with listening() as (server, _):
        assert ask(SIGNER, "127.0.0.1", server.port, "job", "7.s", timeout_s=10)["job"] == "7.s"


def _refused(code: str, *arguments: Any, **options: Any) -> str:
    with pytest.raises(ChannelError) as caught:
        ask(*arguments, **{"timeout_s": 10, **options})
    assert caught.value.code == code
    return str(caught.value)


def test_what_an_older_agent_does_not_know() -> None:
    """Told, signed; the sentence says that the releases differ."""
    with listening() as (server, events):
        assert "different versions" in _refused("unknown-request", SIGNER, HERE, server.port, "later", "7.s")
        line = request_line(SIGNER, asked := request(version=2))
        assert read_answer(SIGNER, raw(server.port, line)[:-1], asked) == {"error": "unknown-version"}
    assert events.told == []


def test_a_handler_that_fails() -> None:
    """Told as that; the next question is answered."""
    with listening() as (server, events):
        assert "could not answer" in _refused("failed", SIGNER, HERE, server.port, "broken", "7.s")
        _refused("refused", SIGNER, HERE, server.port, "long", "7.s")
        assert ask(SIGNER, HERE, server.port, "job", "7.s", timeout_s=10)
    assert events.told[0] == (
        "agent.error",
        {"level": "error", "where": "channel broken", "reason": "RuntimeError('a slip of ours')"},
    )


def test_another_key_at_either_end() -> None:
    """Who asks hears that nobody answered; who answers says nothing."""
    with listening() as (server, events):
        said = _refused("refused", OTHER, HERE, server.port, "job", "7.s")
    assert "closed the connection without an answer; its event channel.refused says why" in said
    assert "signed with another key" in events.reasons()[0]


def _answering(line: Callable[[bytes], bytes]) -> int:
    """The port of a server that answers one connection by *line*."""
    server = socket.create_server((HERE, 0))

    def serve() -> None:
        with server:
            connection, _ = server.accept()
            with connection:
                connection.sendall(line(connection.recv(MOST_LINE)))

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def _forged(asked: bytes) -> bytes:
    return answer_line(OTHER, read_request(SIGNER, asked.strip()), {"job": "x"})


def _of_another_question(asked: bytes) -> bytes:
    return answer_line(SIGNER, replace(read_request(SIGNER, asked.strip()), nonce="1" * 32), {"job": "x"})


@pytest.mark.parametrize(
    "line", [_forged, _of_another_question, lambda asked: asked, lambda asked: b"k1.AAAA.BBBB\n", lambda asked: b"\n"]
)
def test_an_answer_that_is_not_believed(line: Callable[[bytes], bytes]) -> None:
    """Forged, of another question, our own question sent back, nonsense."""
    code = "refused" if line(request_line(SIGNER, request())) == b"\n" else "not-authentic"
    _refused(code, SIGNER, HERE, _answering(line), "job", "7.s")


def test_an_answer_without_end() -> None:
    """No more than a line is read."""
    _refused("refused", SIGNER, HERE, _answering(lambda asked: b"k1." + b"A" * (MOST_LINE + 100)), "job", "7.s")


def test_nobody_there() -> None:
    """Each with its sentence, in time."""
    with socket.create_server((HERE, 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert "has not answered in 0.5 s" in _refused("unreachable", SIGNER, HERE, port, "job", "7", timeout_s=0.5)
        assert time.monotonic() - began < 3
    assert "nobody listens on localhost" in _refused("unreachable", SIGNER, HERE, port, "job", "7.s")
    assert "cannot be reached" in _refused("unreachable", SIGNER, "no-such-host.invalid", port, "job", "7.s")


def test_a_question_that_is_too_long() -> None:
    """Said here, not sent."""
    assert "takes a line of" in _refused("too-long", SIGNER, HERE, 1, "job", "7.s", text="x" * MOST_LINE)


def test_a_taken_port() -> None:
    """Raised, for the caller to tell."""
    with listening() as (server, _), pytest.raises(OSError, match="Address already in use"):
        Listener(SIGNER, server.port, HERE, {}, Events())


def test_a_port_again_at_once() -> None:
    """An agent that is started anew has it, whatever connections the one before had."""
    with listening() as (server, _):
        assert ask(SIGNER, HERE, server.port, "job", "7.s", timeout_s=10)
        port = server.port
    again = Listener(SIGNER, port, HERE, {"job": job}, Events())
    again.start()
    try:
        assert ask(SIGNER, HERE, port, "job", "7.s", timeout_s=10)
    finally:
        again.stop()


def test_nothing_is_inherited() -> None:
    """Neither the port nor a connection goes to a program that the agent starts."""
    with listening() as (server, _), socket.create_connection((HERE, server.port)):
        time.sleep(0.2)
        sockets = [server._listening, *(connection.socket for connection in server._connections)]
        assert len(sockets) == 2
        assert not any(one.get_inheritable() for one in sockets)


@pytest.mark.parametrize("apart", [-600.0, 600.0])
def test_clocks_ten_minutes_apart(apart: float) -> None:
    """Either way; what is signed 16 minutes off is refused, and its event says so."""
    with listening(clock=lambda: time.time() + apart) as (server, _):
        assert ask(SIGNER, HERE, server.port, "job", "7.s", timeout_s=10)
    with listening(clock=lambda: time.time() + apart * 1.6) as (server, events):
        _refused("refused", SIGNER, HERE, server.port, "job", "7.s")
    assert "it was signed 960 s" in events.reasons()[0]


def test_a_slow_handler_holds_nobody_up() -> None:
    """As long as there is a worker: one that takes its time is one of several."""
    free = threading.Event()
    with listening(handlers={"slow": lambda _: {"free": free.wait(20)}}) as (server, _):
        slow = threading.Thread(target=ask, args=(SIGNER, HERE, server.port, "slow", "7.s"), kwargs={"timeout_s": 20})
        slow.start()
        began = time.monotonic()
        assert ask(SIGNER, HERE, server.port, "job", "7.s", timeout_s=10)
        assert time.monotonic() - began < 5
        free.set()
        slow.join()


def test_signing_that_fails_is_told_as_such() -> None:
    """Not as what the other node did."""

    class Broken(KeySigner):
        def verify(self, text: str) -> bytes:
            raise SigningError("cannot-sign", "munged is away")

    with listening() as (server, _), pytest.raises(SigningError, match="munged is away"):
        ask(Broken(b"k" * 32), HERE, server.port, "job", "7.s", timeout_s=10)
