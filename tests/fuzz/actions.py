"""What an attacker does, chosen by a seed: a :class:`Step` is a whole act, and nothing of it depends on an answer. Pure.

The attacker (:mod:`tests.fuzz.attacker`) carries steps out. Jobs and tasks are named by their part in the play, because
their numbers differ from run to run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.fuzz.directives import directive

ROOT_OPS = ("prepare", "release", "sweep", "reap", "list")
USER_OPS = ("start", "rejoin", "signal", "resize", "adopted", "eof", "why", "ping")
STRANGE = ("", "END", "prepare ", "st\tart", "\x7f", "x" * 32)
# Whose job a request is about: two of one's own, others', one that is over, and ids that are none.
TARGETS = ("own", "own", "own", "plain", "plain", "other", "bystander", "past", "nobody", "crooked", "none")
FILES = ("null", "pipe", "socket", "memory", "epoll", "event", "directory", "path", "inotify", "timer", "agent")
TASK = b"@task"  # stands for a bystander's task id; only the run knows it
_CROOKED = (b"../x", b"7.*", b"7[].h", b"1\n2", b"\xff", b"9" * 30, b"-1", b"%n", b"7.host/..")
_VALUES = (
    b"",
    b"0",
    b"1",
    b"-1",
    b"15",
    b"9",
    b"17",
    b"9" * 18,
    b"9" * 19,
    b"x",
    b"\xff\xfe",
    b"A=B",
    b"=",
    b"\n{}",
    b"%n" * 50,
)
_ENVIRONMENT = (
    b"A=1",
    b"=",
    b"NOEQUALS",
    b"B=" + b"x" * 5000,
    b"C=\xff\xfe",
    b"LD_PRELOAD=/x.so",
    b"TMPDIR=/etc",
    b"TMPDIR=@tmp",
    b"TMPDIR=/tmp/../root",
    b"PBS_NODEFILE=/etc/shadow",
    b"PATH=",
    b"PBS_JOBID=1.x",
    b"D=\nE=2",
    b"PBSDOCK=busybox",
)
_COMMANDS = (
    (b"/bin/sleep", b"3"),
    (b"/bin/sh", b"-c", b"exit 3"),
    (b"/bin/true",),
    (b"/nosuch",),
    (b"/bin/sh",),
    (b"",),
    (b"/bin/sh", b"-c", b"head -c 300000 /dev/zero"),
    (b"/bin/sh", b"-c", b"trap '' TERM; sleep 5"),
    (b"x" * 5000,),
    (b"/bin/echo", *[b"a"] * 2000),
)

Fields = tuple[tuple[str, tuple[bytes, ...]], ...]


@dataclass(frozen=True)
class Request:
    """One message. *target* is in ``TARGETS``; *fields* are all but the job's id."""

    op: str
    target: str = "none"
    fields: Fields = ()


@dataclass(frozen=True)
class Step:
    """One act: *requests* on *connections* connections, each sent *times* times.

    *cut* bytes of each are sent (-1: all), *wait_s* is how long an answer is waited for (0: never read), *keep_s* how
    long the connections are kept afterwards. *raw* is sent in place of requests; *filling* is a variable that the last
    field "env" of each request has so many times more.
    """

    shape: str
    requests: tuple[Request, ...] = ()
    connections: int = 1
    times: int = 1
    cut: int = -1
    raw: bytes = b""
    filling: tuple[bytes, int] = (b"", 0)
    files: tuple[str, ...] = ()
    wait_s: float = 0.0
    keep_s: float = 0.0


def steps(seed: str, temper: str, image: str) -> Callable[[], Step]:
    """The endless play of one attacker: each call has the next step; the same for the same arguments."""
    rng = random.Random(seed)
    shapes = TEMPERS[temper]
    names, weights = list(shapes), list(shapes.values())
    return lambda: _SHAPES[rng.choices(names, weights)[0]](rng, image)


# -- requests ----------------------------------------------------------------------------------------------------------


def any_request(rng: random.Random, image: str) -> Request:
    """Any request at all, of any state of any job."""
    op = rng.choice((*ROOT_OPS, *USER_OPS, *USER_OPS, *USER_OPS, rng.choice(STRANGE)))
    target = rng.choice(TARGETS)
    if op == "start":
        return start(rng, target, directive(rng, image) if rng.random() < 0.3 else "")
    made: dict[str, tuple[bytes, ...]] = {}
    if op in ROOT_OPS:
        made["argv"] = tuple(rng.choice((*_VALUES, *_CROOKED)) for _ in range(rng.choice((0, 1, 1, 8, 11))))
    for key in rng.sample(("task", "signal", "rows", "columns", "status", "attached", "dry_run", "x"), 3):
        made[key] = (rng.choice((*_VALUES, TASK, b"f" * 64)),)
    if op == "signal" and rng.random() < 0.7:
        made["signal"] = (str(rng.choice((1, 2, 3, 9, 10, 12, 15, 18, 19, 20))).encode(),)
    return Request(op, target, tuple(made.items()))


def start(rng: random.Random, target: str, text: str) -> Request:
    """A start: of a job, of a task in it, or on demand when there is a directive's *text*."""
    made: dict[str, tuple[bytes, ...]] = {
        "argv": rng.choice(_COMMANDS),
        "env": tuple(rng.choice(_ENVIRONMENT) for _ in range(rng.choice((0, 2, 6, 200)))),
        "cwd": (rng.choice((b"/", b"/tmp", b"/nosuch", b"relative", b"/root", b"\xff")),),
        "umask": (rng.choice((b"0", b"63", b"511", b"99999")),),
        "tty": (rng.choice((b"0", b"0", b"1")),),
    }
    if rng.random() < 0.2:
        made["again"] = (b"1",)
    if text:
        made["directive"] = (text.encode("utf-8", "surrogateescape").replace(b"\0", b""),)
    return Request("start", target, tuple(made.items()))


def job_name(rng: random.Random) -> bytes:
    """A job id that is none."""
    return rng.choice(_CROOKED)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _ask(rng: random.Random, image: str) -> Step:
    made = tuple(any_request(rng, image) for _ in range(rng.randint(1, 8)))
    return Step("ask", made, wait_s=rng.choice((0.0, 0.2, 1.0)), keep_s=rng.choice((0.0, 0.0, 2.0)))


def _flood(rng: random.Random, image: str) -> Step:
    """Requests as fast as they go, mostly such as are refused with an event."""
    op, target = rng.choice(
        (
            ("reap", "none"),
            ("list", "none"),
            ("signal", "bystander"),
            ("rejoin", "other"),
            ("eof", "bystander"),
            ("signal", "own"),
            ("adopted", "own"),
            ("why", "own"),
            ("why", "other"),
            ("start", "bystander"),
            ("start", "crooked"),
        )
    )
    number = (("signal", (b"18",)), ("argv", (b"1.x",)))
    # Fewer than find room without a reader, mostly: all are carried out.
    return Step(
        "flood",
        (Request(op, target, number),),
        times=rng.choice((50, 150, 250)),
        wait_s=rng.choice((0.0, 0.0, 3.0)),
        keep_s=5.0,
    )


def _garbage(rng: random.Random, image: str) -> Step:
    body = rng.randbytes(rng.choice((0, 1, 3, 4, 40, 4000)))
    head = rng.choice((b"", len(body).to_bytes(4, "big"), b"\xff" * 4, bytes(4), b"\0\x40\0\1"))
    return Step("garbage", raw=head + body, connections=rng.choice((1, 4)), wait_s=0.1)


def _half(rng: random.Random, image: str) -> Step:
    return Step(
        "half",
        (any_request(rng, image),),
        connections=rng.choice((1, 8, 30)),
        cut=rng.randint(1, 60),
        keep_s=rng.choice((0.0, 5.0, 20.0)),
    )


def _announce(rng: random.Random, image: str) -> Step:
    """A length that is never sent, or sent but for one byte."""
    size = rng.choice((1, 1000, 1 << 20, 4 << 20, (4 << 20) + 1, (1 << 32) - 1))
    sent = rng.choice((0, 0, 1, min(size - 1, 4 << 20)))
    return Step("announce", raw=size.to_bytes(4, "big") + bytes(sent), connections=rng.choice((1, 4, 16)), keep_s=15.0)


def _unread(rng: random.Random, image: str) -> Step:
    """More questions than the answers find room for, on a connection nobody reads from."""
    op, target = rng.choice(
        (("ping", "none"), ("ping", "none"), ("rejoin", "own"), ("rejoin", "nobody"), ("start", "nobody"))
    )
    return Step("unread", (Request(op, target),), connections=rng.choice((1, 2)), times=600, keep_s=25.0)


def _hold(rng: random.Random, image: str) -> Step:
    """As many connections as one gets, and for as long: a rejoined one has no deadline."""
    said = rng.choice(((), (Request("ping"),), (Request("rejoin", "own"),)))
    return Step("hold", said, connections=rng.choice((20, 60, 120)), keep_s=rng.choice((8.0, 20.0)))


def _heavy(rng: random.Random, image: str) -> Step:
    """The largest messages there are, of the most fields, held by the agent while it waits for a job to appear."""
    filling = rng.choice(((b"", 260_000), (b"", 260_000), (b"x" * 10, 260_000), (b"y" * 100_000, 40)))
    fields: Fields = (("directive", (image.encode(),)), ("argv", (b"/bin/true",)))
    return Step(
        "heavy", (Request("start", "nobody", fields),), connections=rng.choice((4, 8)), filling=filling, keep_s=6.0
    )


def _pass(rng: random.Random, image: str) -> Step:
    """Descriptors for the agent, as many as one message carries."""
    files = tuple(rng.choice(FILES) for _ in range(rng.choice((1, 30, 250))))
    return Step(
        "pass",
        (any_request(rng, image),),
        connections=rng.choice((1, 4)),
        times=rng.choice((1, 5)),
        files=files,
        wait_s=0.2,
        keep_s=rng.choice((0.0, 5.0)),
    )


def _demand(rng: random.Random, image: str) -> Step:
    """A start on demand: of a job that lives, of nobody's, of others'."""
    target = rng.choice(("plain", "plain", "plain", "own", "nobody", "other", "past"))
    return Step(
        "demand",
        (start(rng, target, directive(rng, image)),),
        connections=rng.choice((1, 1, 3)),
        wait_s=rng.choice((0.0, 2.0, 4.0)),
    )


def _exchange(rng: random.Random, image: str) -> Step:
    """A start on demand whose TMPDIR is a directory at one moment and a link to somebody else's at the next."""
    show = (
        ("argv", (b"/bin/sh", b"-c", b'cat "$TMPDIR/secret" 2>/dev/null; exit 0')),
        ("env", (b"TMPDIR=@tmp",)),
        ("directive", (image.encode(),)),
        ("cwd", (b"/",)),
    )
    return Step("exchange", (Request("start", "plain", show),), wait_s=3.0)


def _eof(rng: random.Random, image: str) -> Step:
    """ "My streams are over", said again and again of a job that runs: each is worth a new stream of the engine's."""
    made = (Request("rejoin", "own", (("attached", (b"1",)),)), *(Request("eof", "own"),) * rng.choice((1, 20, 60)))
    return Step("eof", made, wait_s=rng.choice((0.0, 0.0, 1.0)), keep_s=rng.choice((0.0, 10.0, 25.0)))


def _tasks(rng: random.Random, image: str) -> Step:
    """TM tasks in one's own container; their streams are kept and not read."""
    argv = rng.choice(_COMMANDS)
    made = Request("start", "own", (("argv", argv), ("cwd", (b"/",))))
    return Step(
        "tasks",
        (made,),
        connections=rng.choice((1, 4, 10)),
        wait_s=rng.choice((0.0, 2.0)),
        keep_s=rng.choice((0.0, 10.0)),
    )


_SHAPES: Mapping[str, Callable[[random.Random, str], Step]] = {
    "ask": _ask,
    "flood": _flood,
    "garbage": _garbage,
    "half": _half,
    "announce": _announce,
    "unread": _unread,
    "hold": _hold,
    "heavy": _heavy,
    "pass": _pass,
    "demand": _demand,
    "exchange": _exchange,
    "eof": _eof,
    "tasks": _tasks,
}
# A user has one program of each temper.
TEMPERS: Mapping[str, Mapping[str, int]] = {
    "talker": {"ask": 4, "flood": 6, "garbage": 1, "pass": 1},
    "hoarder": {"hold": 3, "unread": 3, "heavy": 4, "half": 2, "announce": 2, "pass": 1},
    "starter": {"demand": 4, "exchange": 2, "eof": 4, "tasks": 3, "ask": 1},
}
