"""A user's own program on the node: carries out the steps of one seed until its time is over.

Started as that user (``python3 -m tests.fuzz.attacker``) with a specification on standard input; says at the end, in
one line of JSON, what it has sent and what it was answered. It takes little of the CPU, so what others wait for is the
agent, not this.
"""

from __future__ import annotations

import array
import ctypes
import errno
import json
import os
import resource
import select
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, Link
from tests.fuzz import actions
from tests.fuzz.actions import Request, Step

_MOST_KEPT = 280  # connections; a user's share is 256
_OF_CPU = 0.07
_SEND_S = 1.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Attacker:
    """One process of one user."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.until = time.monotonic() + float(spec["seconds"])
        self.world_file = Path(spec["shared"]) / "world.json"
        self.light_file = Path(spec["shared"]) / "light"
        self.tmp = Path(os.path.expanduser(f"~{spec['user']}")) / "exchanged"
        self.next = actions.steps(spec["seed"], spec["temper"], spec["image"])
        self.world: dict[str, Any] = {}
        self.kept: list[tuple[float, list[Link], list[int]]] = []
        self.sent: Counter[str] = Counter()
        self.shapes: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.shown: set[str] = set()

    def play(self) -> None:
        """Step after step."""
        time.sleep(float(self.spec["begin_s"]))
        began, used = time.monotonic(), time.process_time()
        while (now := time.monotonic()) < self.until:
            self.world = json.loads(self.world_file.read_text())
            self._let_go(now)
            step = self.next()
            if step.shape == "heavy" and self.light_file.exists():
                continue  # the agent holds more than is good for this host; the figure has been taken
            self.shapes[step.shape] += 1
            self._carry_out(step)
            # Paced by CPU time: the order of steps stays the seed's, only their number differs.
            while (time.process_time() - used) > _OF_CPU * (time.monotonic() - began) and time.monotonic() < self.until:
                time.sleep(0.01)

    def report(self) -> dict[str, Any]:
        """What came of it."""
        return {"sent": self.sent, "shapes": self.shapes, "answers": self.answers, "shown": sorted(self.shown)}

    # -- steps --------------------------------------------------------------------------------------------------------

    def _carry_out(self, step: Step) -> None:
        links, streams = [], []
        exchanging = threading.Event()
        if step.shape == "exchange":
            self._begin_exchange(exchanging)
        try:
            for _ in range(step.connections):
                try:
                    link = Link(self.spec["socket"], _SEND_S)
                except AgentGone as error:
                    self.answers[f"no connection: {str(error)[:40]}"] += 1
                    continue
                links.append(link)
                streams += self._converse(link, step)
                if time.monotonic() > self.until:
                    break
        finally:
            exchanging.set()
        if step.keep_s:
            self.kept.append((time.monotonic() + step.keep_s, links, streams))
        else:
            _close(links, streams)

    def _converse(self, link: Link, step: Step) -> list[int]:
        try:
            if step.raw:
                link.sock.sendall(step.raw)
                self.sent["(no message)"] += 1
            elif step.times == 1 and not step.files and step.wait_s:
                return [fd for one in step.requests for fd in self._ask(link, one, step)]
            data = b"".join(self._encode(one, step) for one in step.requests) * step.times
            if step.files:
                self._send_files(link, data, step)
            else:
                link.sock.sendall(data)
            return self._read(link, step.wait_s, step.times * len(step.requests)) if step.wait_s else []
        except (OSError, AgentGone) as error:
            self.answers[_why(error)] += 1
            return []

    def _ask(self, link: Link, request: Request, step: Step) -> list[int]:
        link.sock.settimeout(_SEND_S)
        link.sock.sendall(self._encode(request, step))
        return self._read(link, step.wait_s, 1)

    def _encode(self, request: Request, step: Step) -> bytes:
        message = wire.Message(request.op)
        job = self._job(request.target)
        for key, values in (("job", (job,)) if job is not None else ("x", ()), *request.fields):
            message.fields[key] = [self._word(one, job) for one in values]
        data = wire.encode(message)
        if step.filling[1]:
            payload = data[wire.HEADER :] + (b"\0env\0" + step.filling[0]) * step.filling[1]
            data = len(payload).to_bytes(wire.HEADER, "big") + payload
        self.sent[request.op or "(empty)"] += step.times
        return data if step.cut < 0 else data[: step.cut]

    def _job(self, target: str) -> bytes | None:
        jobs = self.world["jobs"]
        user, others = self.spec["user"], [one for one in sorted(jobs) if one != self.spec["user"]]
        named = {
            "own": jobs[user]["container"],
            "plain": jobs[user]["plain"],
            "past": self.world["past"],
            "other": jobs[others[len(self.sent) % len(others)]]["container"],
            "bystander": self.world["bystander"],
            "nobody": f"{900000 + sum(self.sent.values()) % 1000}.nowhere",
            "crooked": "../x",
        }
        return named[target].encode() if target in named else None

    def _word(self, value: bytes, job: bytes | None) -> bytes:
        if value == actions.TASK:
            return str(self.world["task"]).encode()
        return value.replace(b"@tmp", os.fsencode(self.tmp / (job or b"x").decode()))

    # -- answers ------------------------------------------------------------------------------------------------------

    def _read(self, link: Link, seconds: float, most: int) -> list[int]:
        """Read up to so many answers within so many seconds; returns the descriptors that came."""
        streams: list[int] = []
        deadline = time.monotonic() + seconds
        while most > 0 and (left := deadline - time.monotonic()) > 0:
            link.sock.settimeout(left)
            try:
                message, fds = link.recv()
            except AgentGone as error:
                self.answers[_why(error)] += 1
                break
            code = message.text("code")
            self.answers[f"{message.op} {code}" if code else message.op] += 1
            most -= message.op != "notice"
            streams += fds
            for fd in fds:
                self._look(fd, min(2.0, left))
        return streams

    def _look(self, fd: int, seconds: float) -> None:
        """Remember what a stream says first: a file of somebody else's would be seen here."""
        if self.spec["temper"] == "starter" and select.select([fd], [], [], seconds)[0]:
            try:
                text = os.read(fd, 4096)[8:72].decode("ascii", "replace").strip()
            except OSError:
                return
            if text and len(self.shown) < 50:
                self.shown.add(text)

    # -- descriptors --------------------------------------------------------------------------------------------------

    def _send_files(self, link: Link, data: bytes, step: Step) -> None:
        made = {kind: _file(kind, link) for kind in sorted(set(step.files))}
        opened = [fd for pair in made.values() for fd in pair]
        fds = array.array("i", [made[kind][0] for kind in step.files])
        try:
            link.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())])
        finally:
            for fd in opened:
                os.close(fd)

    def _begin_exchange(self, stop: threading.Event) -> None:
        own = self._job("plain")
        assert own is not None
        place = self.tmp / own.decode()
        link = place.with_name(place.name + ".link")
        if not os.path.lexists(link):  # later either may be either: they were exchanged last time too
            place.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.spec["closed"])
        library = ctypes.CDLL(None)
        one, two = os.fsencode(place), os.fsencode(link)

        def exchange() -> None:
            for turn in range(6000):
                if stop.is_set():
                    break
                library.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE)
                if turn % 8 == 0:
                    time.sleep(0.001)

        threading.Thread(target=exchange, daemon=True).start()

    # -- what is held -------------------------------------------------------------------------------------------------

    def _let_go(self, now: float) -> None:
        while self.kept and (self.kept[0][0] < now or sum(len(links) for _, links, _ in self.kept) > _MOST_KEPT):
            _, links, streams = self.kept.pop(0)
            _close(links, streams)


def _close(links: list[Link], fds: list[int]) -> None:
    for one in links:
        one.close()
    for fd in fds:
        os.close(fd)


def _why(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.errno:
        return f"({errno.errorcode[error.errno]})"
    return "(no answer)" if "timed out" in text else "(closed)"


def _file(kind: str, link: Link) -> list[int]:
    """A descriptor of that kind first, then what else had to be opened for it."""
    if kind == "pipe":
        return list(os.pipe())
    if kind == "socket":
        return [one.detach() for one in socket.socketpair()]
    makers = {
        "null": lambda: os.open("/dev/null", os.O_RDWR),
        "memory": lambda: os.memfd_create("x"),
        "epoll": lambda: ctypes.CDLL(None).epoll_create1(0),
        "event": lambda: os.eventfd(0),
        "directory": lambda: os.open("/", os.O_RDONLY),
        "path": lambda: os.open("/etc/shadow", os.O_PATH),
        "inotify": lambda: ctypes.CDLL(None).inotify_init(),
        "timer": lambda: ctypes.CDLL(None).timerfd_create(1, 0),
        "agent": lambda: os.dup(link.fileno()),
    }
    return [makers[kind]()]


def main() -> None:
    """Read the specification, play, report."""
    spec = json.loads(sys.stdin.readline())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.nice(10)
    attacker = Attacker(spec)
    attacker.play()
    print(json.dumps(attacker.report()), flush=True)


if __name__ == "__main__":
    main()
