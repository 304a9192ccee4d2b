"""T33, T24, T39: floods by the docker of jobs. What clients hold, ask for and never answer costs nobody but their user."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, is_healthy, works
from tests.support.shim import bare, begin_bare, client

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]


@pytest.fixture
def agent(instance: Instance) -> Iterator[int]:
    """The worker's pid; it must outlive the test, and be as it was before."""
    instance.start_agent()
    assert works(instance)
    pids = instance.agent_pids()
    yield pids[-1]
    assert instance.agent_pids() == pids
    assert is_healthy(instance)
    wait_until("its threads end", lambda: _threads(pids[-1]) < 64, 30)


def _slips(instance: Instance) -> int:
    return sum(event["event"] == "agent.error" for event in instance.events())


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _private(pid: int) -> int:
    """Bytes of memory that are the process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) << 10


def _held(instance: Instance, agent: int, code: str) -> tuple[int, int]:
    """The most threads and private bytes while the attacker's job runs *code*, which says ready when all is held; an
    ordinary job of somebody else's runs then."""
    trial = begin_bare(instance, client(instance, code), ATTACKER)
    threads = private = 0

    def looked() -> bool:
        nonlocal threads, private
        threads, private = max(threads, _threads(agent)), max(private, _private(agent))
        return b"ready" in trial.out_path.read_bytes()

    wait_until("all is held", looked, 60)
    began = time.monotonic()
    assert works(instance)
    assert time.monotonic() - began < 6
    looked()
    trial.qdel()
    trial.finish(trial.wait())
    return threads, private


def test_a_thousand_clients_that_never_answer(instance: Instance, agent: int) -> None:
    """Of read, ask, copy and write; half messages; and nobody reads: no thread waits for one of them."""
    before = _private(agent)
    threads, private = _held(
        instance,
        agent,
        f"""
        held = []
        commands = (["run", "--env-file", "x", "{IMAGE}", "true"], ["login"], ["run", "--cidfile", "x", "--env-file", "y", "{IMAGE}"],
                    ["login", "-u", "x", "--password-stdin"], ["logout"])
        for number in range(1000):
            try:
                one = ask(*commands[number % 5])
                held.append(one)
                if number % 7 == 0:
                    until(one, "read", "ask")
                    one._socket.sendall(b"\\0\\0\\1\\0con") if hasattr(one, "_socket") else None
            except (OSError, AgentGone):
                pass
        print("ready", flush=True)
        time.sleep(60)
        """,
    )

    assert threads < 100
    assert private - before < 128 << 20


def test_large_requests_that_are_held(instance: Instance, agent: int) -> None:
    """4 MiB of arguments, or of environment, in commands that then wait for an answer: a user's share, and no more."""
    before = _private(agent)
    _, private = _held(
        instance,
        agent,
        f"""
        held = []
        for number in range(60):
            try:
                env = [b"A%d=%s" % (at, b"x" * 60000) for at in range(60)] if number % 2 else []
                argv = [] if number % 2 else ["x" * 60000 for _ in range(60)]
                held.append(ask("run", "--env-file", "x", "{IMAGE}", "true", *argv, env=env))
                until(held[-1], "read")
            except (OSError, AgentGone):
                pass
        print("ready", flush=True)
        time.sleep(60)
        """,
    )

    assert private - before < 128 << 20


def test_large_words_that_are_remembered(instance: Instance, agent: int) -> None:
    """Commands, labels, variables and paths of megabytes, of children that run and that are over."""
    before = _private(agent)
    _, private = _held(
        instance,
        agent,
        f"""
        for number in range(24):
            env = [item for at in range(40) for item in ("-e", "A%d=%s" % (at, "x" * 30000))]
            until(ask("run", "-d", *env, "{IMAGE}", "sleep", "60", *["y" * 30000] * 30))
        for option in ("-l", "-v", "--tmpfs"):
            words = {{"-l": "k%d=" + "x" * 9000, "-v": "/tmp/%d" + "/x" * 1000 + ":/x", "--tmpfs": "/t%d" + "/x" * 1000}}[option]
            print(until(ask("run", *[item for at in range(60) for item in (option, words % at)], "{IMAGE}", "true"))[0].op)
        print("ready", flush=True)
        time.sleep(60)
        """,
    )

    assert private - before < 96 << 20
    assert sum(path.stat().st_size for path in (instance.state_dir / "children").rglob("*")) < 8 << 20


def test_stops_that_wait(instance: Instance, agent: int) -> None:
    """Hundreds of docker stop, each with its time, waits and follows: no thread each."""
    threads, _ = _held(
        instance,
        agent,
        f"""
        until(ask("run", "-d", "--name", "box", "{IMAGE}", "sh", "-c", "trap : TERM; while :; do sleep 1; done"))
        held = []
        for number in range(220):
            try:
                held.append(ask(*[["stop", "-t", "99999999999"], ["wait"], ["logs", "-f"], ["stop", "-t", "50"]][number % 4], "box"))
            except (OSError, AgentGone):
                pass
        time.sleep(2)
        print("ready", flush=True)
        time.sleep(60)
        """,
    )

    assert threads < 100


@pytest.mark.threat(24)
def test_logs_that_cost(instance: Instance, agent: int) -> None:
    """64 MiB of empty lines, asked for by their number again and again, cost no seconds of the agent's; and what a child
    keeps ready behind its log's end is given back."""
    ticks = os.sysconf("SC_CLK_TCK")
    before = sum(map(int, Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[11:13]))
    done = bare(
        instance,
        f"""
docker run -d --name log {IMAGE} sh -c 'yes "" | head -c 67108864; sleep 60' >/dev/null
sleep 3
for i in 1 2 3 4 5; do docker logs --tail 60000000 log | head -c 1 >/dev/null; done
docker run -d --name ready {IMAGE} sh -c 'fallocate -n -l 400000000 /proc/self/fd/1 2>/dev/null || fallocate -l 400000000 /proc/self/fd/1; sleep 60' >/dev/null
sleep 4
""",
    )
    spent = sum(map(int, Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[11:13])) - before

    assert done.exit_status == 0, done.stderr
    assert spent / ticks < 4


def test_formats_and_filters_that_cost(instance: Instance, agent: int) -> None:
    """Templates that double what they print, deep ones, patterns that go back and forth: a sentence in a moment."""
    before = _slips(instance)
    bombs = (
        "{{range .}}" * 200 + "{{end}}" * 200,
        '{{printf "%0999999999d" 1}}',
        '{{printf "%999999999s" "x"}}' * 9,
        "{{" + "(" * 5000 + ")" * 5000 + "}}",
        '{{range (split .Names "")}}{{range (split $.Names "")}}{{$.Names}}{{end}}{{end}}' * 50,
        "{{json .}}" * 9000,
        "{{define `a`}}{{template `a`}}{{end}}{{template `a`}}",
        '{{$x := "x"}}' + "{{$x = printf `%s%s` $x $x}}" * 60 + "{{$x}}",
    )
    code = f"""
        until(ask("run", "-d", "--name", "box", "{IMAGE}", "sleep", "60"))
        for bomb in {bombs!r}:
            for words in (["ps", "--format"], ["inspect", "box", "-f"], ["images", "--format"], ["info", "-f"]):
                began = time.monotonic()
                message, _ = until(ask(*words, bomb))
                took = time.monotonic() - began
                if took > 3:
                    print(words, bomb[:30], message.op, took)
        for pattern in ("(a*)*b", "(((a+)+)+)+$" , "a{{1,1000}}{{1,1000}}", "[" * 2000, "(?=a)" * 500, "x*" * 4000 + "y"):
            for key in ("name", "label", "ancestor", "reference", "id", "since"):
                began = time.monotonic()
                until(ask("ps" if key != "reference" else "images", "--filter", key + "=" + pattern))
                if time.monotonic() - began > 3:
                    print(key, pattern[:30])
        print("end")
    """
    done = bare(instance, client(instance, code))

    assert done.stdout == b"end\n", (done.stdout, done.stderr)
    assert _slips(instance) == before


def test_command_lines_made_at_random(instance: Instance, agent: int) -> None:
    """Bytes that are no text, words from everywhere, no words: each has an answer, and none is a slip of the agent's."""
    before = _slips(instance)
    code = f"""
        import random
        random.seed(7)
        words = ["run", "exec", "ps", "images", "inspect", "cp", "logs", "wait", "stop", "kill", "rm", "login", "network", "create",
                 "-d", "-it", "--name", "-e", "-v", "--mount", "type=bind,src=,dst=", "--filter", "label=a", "--format", "{{{{.}}}}", "-u",
                 "--", "", "{IMAGE}", "a:b", ":", "/", "..", "=", ",", "--rm=maybe", "-w", "--network", "container:", "--gpus", "all"]
        words = [word.encode() for word in words] + [b"\\xff\\xfe", b"\\xed\\xa0\\x80", b"a" * 5000, "\\u202e\\u0000".encode()[:3], b"\\n", b"\\x1b[2J"]
        count = 0
        until_ = time.monotonic() + 8
        while time.monotonic() < until_:
            argv = [random.choice(words) for _ in range(random.randrange(7))]
            try:
                link = ask(*argv, env=[b"A=\\xff", b"=x", b"\\xff"], cwd=random.choice([b"/", b"", b"x", b"\\xff"]))
                message, fds = until(link, "read", "ask", "write", "copy", "cp", "started")
                for fd in fds:
                    os.close(fd)
                count += 1
            except AgentGone:
                time.sleep(0.05)
        print(count > 20)
    """
    done = bare(instance, client(instance, code))

    assert done.stdout == b"True\n", (done.stdout, done.stderr)
    assert _slips(instance) == before
    assert works(instance, USERS[0])
