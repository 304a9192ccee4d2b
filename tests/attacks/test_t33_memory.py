"""T33, and T32 by its quantity: what one user's programs can have of the agent's memory, threads, CPU and lines."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, SLOWER, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, as_user, begin_as, works

pytestmark = [pytest.mark.engine, pytest.mark.threat(32)]
_MIB = 1 << 20


@pytest.fixture
def agent(instance: Instance) -> int:
    """The worker's pid, of an agent that has done nothing yet."""
    instance.kill_agent()
    assert works(instance)
    return instance.agent_pids()[-1]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_announced_and_never_sent(instance: Instance, agent: int) -> None:
    """Largest messages that never come, and a new connection for each: some lines, not thousands a second; a job that
    runs meanwhile is told of as ever, and how much was left out is told too."""
    before = len(instance.events())
    with begin_as(
        instance,
        """
        head, held = (4 << 20).to_bytes(4, "big"), []
        def knock():
            one = socket.socket(socket.AF_UNIX)
            one.connect(sys.argv[1])
            one.sendall(head)
            return one
        for number in range(16):
            held.append(knock())
            held[-1].sendall(b"x")
        print("ready", flush=True)
        import threading
        def flood():
            until = time.monotonic() + 8
            while time.monotonic() < until:
                try:
                    knock().close()
                    link = Link(sys.argv[1], 5.0)
                    link.send(wire.Message("reap"))
                    link.recv()  # who does not wait for the answer is not refused either
                    link.close()
                except (OSError, AgentGone):
                    pass
        threads = [threading.Thread(target=flood) for _ in range(4)]
        [one.start() for one in threads]
        [one.join() for one in threads]
    """,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(1)
            done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n")
            process.communicate(timeout=60)
        finally:
            process.kill()
    lines = instance.events()[before:]
    print("lines", len(lines))

    assert done.exit_status == 0
    assert {"job.planned", "job.ready", "job.started", "job.ended", "job.finished", "release.done"} <= {
        one["event"] for one in instance.trail(done.job_id)
    }
    assert len([one for one in lines if one["event"] == "client.refused"]) <= 25
    sequence = [one["seq"] for one in lines]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))

    if instance.root != Path("/"):  # there it is systemd's to stop
        os.kill(instance.agent_pids()[-1], signal.SIGTERM)
        wait_until("it tells before it stops", lambda: instance.events()[-1]["event"] == "agent.stopped")
        (told,) = [one for one in instance.events()[before:] if one["event"] == "events.limited"]
        assert (told["of"], int(told["who"]) > 0, told["count"] > 100) == ("client.refused", True, True)
        instance.kill_agent()


def test_signals_without_end(instance: Instance) -> None:
    """Each signal is passed on; not each is a line."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 300\n", user=ATTACKER)
    wait_until("it runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    as_user(
        instance,
        """
        link = Link(sys.argv[1], 30.0)
        for number in range(300):
            link.send(wire.Message("signal", job=sys.argv[2], signal=18))
            link.send(wire.Message("adopted", job=sys.argv[2], status=number % 2))
        link.send(wire.Message("ping"))
        assert link.recv()[0].op == "pong"
    """,
        trial.job_id,
    )
    events = [one["event"] for one in instance.events(trial.job_id)]
    print("lines", len(events))
    trial.qdel()
    trial.finish(trial.wait())

    assert 1 <= events.count("job.signalled") <= 65
    assert 1 <= events.count("job.adopted") <= 25
    assert instance.trail(trial.job_id)[-1]["event"] == "job.finished"


def test_large_starts_at_once(instance: Instance, agent: int) -> None:
    """Requests of 4 MiB in small pieces, which wait for one job's turn: what they become in memory is counted as long
    as they wait, others' jobs run meanwhile, and the memory is the host's again afterwards."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 300\n", user=ATTACKER)
    wait_until("it runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    before = most = _resident(agent)
    with begin_as(
        instance,
        """
        import threading
        data = wire.encode(wire.Message("start", job=sys.argv[2], argv=[b"/bin/true"], env=[b"%06d=" % n for n in range(250000)]))
        def ask():
            try:
                one = socket.socket(socket.AF_UNIX)
                one.connect(sys.argv[1])
                one.sendall(data)
            except OSError:
                pass
            time.sleep(100)
        threads = [threading.Thread(target=ask, daemon=True) for _ in range(24)]
        [one.start() for one in threads]
        print("ready", flush=True)
        time.sleep(100)
    """,
        trial.job_id,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            until = time.monotonic() + 12 * SLOWER
            while time.monotonic() < until:
                most = max(most, _resident(agent))
                time.sleep(0.05)
            assert works(instance)
        finally:
            process.kill()
    print("MiB before, at most:", before // _MIB, most // _MIB)
    assert most - before < 300 * _MIB
    wait_until("it is given back", lambda: _resident(agent) - before < 80 * _MIB, 30)
    print("MiB afterwards:", _resident(agent) // _MIB)
    trial.qdel()
    trial.finish(trial.wait())


def test_a_request_is_not_kept_while_its_job_runs(instance: Instance, agent: int) -> None:
    """The connection of a run hook stays as long as the job; what it asked with does not."""
    with begin_as(
        instance,
        """
        held = []
        for number in range(40):
            one = Link(sys.argv[1], 10.0)
            one.send(wire.Message("ping", env=[b"x" * 2000000]))
            assert one.recv()[0].op == "pong"
            held.append(one)
        print("ready", flush=True)
        time.sleep(100)
    """,
    ) as process:
        try:
            before = _resident(agent)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            print("MiB before, held:", before // _MIB, _resident(agent) // _MIB)
            wait_until("it is not kept", lambda: _resident(agent) - before < 40 * _MIB, 5)
        finally:
            process.kill()


def test_one_start_of_a_shell_at_a_time(instance: Instance) -> None:
    """Mom asks once for a job's shell: of many that ask together one gets it, the others are its tasks, a few at a time."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 60\n", user=ATTACKER))
    instance.trials.append(trial)
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.spool.record(None)
    said = as_user(
        instance,
        """
        import threading
        got = []
        def ask():
            link = Link(sys.argv[1], 60.0)
            link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sleep", b"60"], cwd=b"/"))
            answer = link.recv()[0]
            got.append(f"{answer.op} {answer.text('code')} {'task' if answer.text('task') else ''}".strip())
            time.sleep(1)
        threads = [threading.Thread(target=ask) for _ in range(30)]
        [one.start() for one in threads]
        [one.join() for one in threads]
        print("\\n".join(sorted(got)))
    """,
        trial.job_id,
    )
    trial.finish(0)

    assert said.count("started") == 1, said
    assert said.count("started  task") == 29, said


def test_jobs_that_do_not_exist(instance: Instance, agent: int) -> None:
    """Many at once who ask for a job that is not alive, beside 300 that are: a few wait at a time, and it costs no CPU."""
    jobs = instance.mom_priv / "jobs"
    jobs.mkdir(exist_ok=True)
    text = (
        "<job><jobid>{0}.vm</jobid><attributes><Variable_List>" + "A=1," * 5000 + "</Variable_List></attributes></job>"
    )
    made = [jobs / f"{number}.vm.JB" for number in range(800_000, 800_300)]
    for path in made:
        path.write_text(text.format(path.name.partition(".")[0]))
    try:
        spent = _cpu_s(agent)
        said = as_user(
            instance,
            """
            import threading
            took = []
            def ask():
                began = time.monotonic()
                link = Link(sys.argv[1], 60.0)
                link.send(wire.Message("start", job="999999.vm", argv=[b"/bin/sh"], directive=sys.argv[2]))
                answer = link.recv()[0]
                assert answer.text("code") == "no-such-job", answer.fields
                took.append(time.monotonic() - began)
            threads = [threading.Thread(target=ask) for _ in range(10)]
            [one.start() for one in threads]
            [one.join() for one in threads]
            print(max(took))
        """,
            IMAGE,
        )
        spent = _cpu_s(agent) - spent
    finally:
        for path in made:
            path.unlink()
    print("CPU s", spent, "the last was answered after", said)

    assert spent < 3


@pytest.mark.threat(33)
def test_a_wide_job_starts_all_its_tasks_at_once(instance: Instance, agent: int) -> None:
    """No bound is in the way of 256 tasks, each with a long environment: all run, and their ends are told."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 600\n", user=USERS[0])
    wait_until("it runs", lambda: any(one["event"] == "job.started" for one in instance.events(trial.job_id)))
    before = _resident(agent)
    said = as_user(
        instance,
        """
        import threading
        got = []
        environment = [b"VARIABLE_%d=" % n + b"v" * 200 for n in range(400)]
        def ask():
            link = Link(sys.argv[1], 300.0)
            link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/true"], env=environment, cwd=b"/"))
            answer, fds = link.recv()
            got.append(answer.op)
            link.sock.settimeout(60)
            door, null = init.Connection(f"/proc/self/fd/{fds[0]}/socket", 60.0), os.open(os.devnull, os.O_RDWR)
            task, env = answer.text("task"), answer.raw("env")
            door.run(init.Run(task, [b"/bin/true"], env, b"/", umask=18, flags=init.SESSION), (null, null, null))
            while (end := door.receive()).kind == init.PID:
                pass
            link.send(wire.Message("over", job=sys.argv[2], task=task, kind=end.kind, number=end.number))
            answer = link.recv()[0]
            got.append(f"{answer.op} {answer.text('code')}")
            [os.close(one) for one in (*fds, null)]
            door.close()
            link.close()
        threads = [threading.Thread(target=ask) for _ in range(256)]
        [one.start() for one in threads]
        [one.join() for one in threads]
        print("\\n".join(got))
    """,
        trial.job_id,
        user=USERS[0],
    )
    print("MiB more:", (_resident(agent) - before) // _MIB)
    events = [one["event"] for one in instance.events(trial.job_id)]
    trial.qdel()
    trial.finish(trial.wait())

    assert [one for one in said if one not in ("started", "ended 0")] == []
    assert (said.count("started"), said.count("ended 0")) == (256, 256)
    assert events.count("task.started") == 256
