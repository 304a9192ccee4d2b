"""Many containers in one job, and much output: nothing grows, nothing is lost. ``PBSDOCK_LONG=full`` has it to the full."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import IMAGE, Instance, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]

FULL = os.environ.get("PBSDOCK_LONG") == "full"
IN_A_ROW, AT_ONCE, LOOKS = (500, 32, 1000) if FULL else (40, 16, 100)
MOST_PIPED = 1 << 30 if FULL else 1 << 26
LOGGED = 200 << 20 if FULL else 40 << 20


def _agent(instance: Instance) -> tuple[int, int, int]:
    """Descriptors, threads, KiB of its own of the agent's worker."""
    worker = Path(f"/proc/{instance.agent_pids()[-1]}")
    rollup = (worker / "smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean:", "Private_Dirty:")))
    return len(os.listdir(worker / "fd")), len(os.listdir(worker / "task")), private


@pytest.mark.timeout(1200)
def test_many_leave_nothing(instance: Instance) -> None:
    """One after another, many at once, and many looks: the agent is as before, and nothing of them is there."""
    instance.start_agent()
    trial = instance.begin(
        f"""#!/bin/sh
cd $PBS_O_WORKDIR
for i in $(seq {AT_ONCE}); do docker run --rm {IMAGE} true & docker run --rm -d {IMAGE} true >/dev/null; done
wait
echo warm; while [ ! -e go ]; do sleep 0.1; done
for i in $(seq {IN_A_ROW}); do docker run --rm {IMAGE} sh -c "exit $((i % 100))"; [ $? = $((i % 100)) ] || echo wrong $i; done
for i in $(seq {AT_ONCE}); do (docker run --rm {IMAGE} echo $i >out.$i; [ $(cat out.$i) = $i ] || echo wrong $i; rm out.$i) & done
wait
for i in $(seq {LOOKS}); do docker ps >/dev/null || echo wrong ps $i; done
docker ps -aq | wc -l
echo many; while [ -e go ]; do sleep 0.1; done
"""
    )
    go = Path(trial.entry.pw_dir) / "go"

    def said(word: bytes) -> bool:
        return word in trial.out_path.read_bytes()

    try:
        wait_until("it is warm", lambda: said(b"warm"))
        time.sleep(1.0)
        before, present = _agent(instance), instance.present()
        go.touch()
        wait_until("all are over", lambda: said(b"many"), 1000)
        wait_until("nothing is left", lambda: instance.present() == present, 20)
        time.sleep(2.0)
        after = _agent(instance)
    finally:
        go.unlink(missing_ok=True)
    done = trial.finish(trial.wait())
    ended = [one for one in instance.trail(trial.job_id) if one["event"] == "child.ended"]

    assert done.stdout.decode().split() == ["warm", "0", "many"], done.stderr
    assert len(ended) == IN_A_ROW + AT_ONCE * 3
    assert after[0] - before[0] <= 16, (before, after)  # connections to the engine that are kept for the next rush
    assert after[1] - before[1] <= 20, (before, after)  # a pool of 16 that does what is due later, and stays
    assert after[2] - before[2] < 8192, (before, after)


def test_every_byte_comes_through_a_pipe(instance: Instance) -> None:
    """Of a few sizes, in and out."""
    sizes = [size for size in (1 << 16, (1 << 20) + 1, 1 << 26, 1 << 30) if size <= MOST_PIPED]
    instance.start_agent()
    lines = [f"docker run --rm {IMAGE} head -c {size} /dev/zero | wc -c" for size in sizes]
    lines += [f"head -c {size} /dev/zero | docker run --rm -i {IMAGE} wc -c" for size in sizes]
    done = instance.run("#!/bin/sh\n" + "\n".join(lines) + "\n")

    assert [int(word) for word in done.stdout.split()] == sizes * 2, done.stderr


def test_logs_are_followed_and_kept_within_bounds(instance: Instance) -> None:
    """Who follows has whole lines and no hole; what is kept is the newest, also of one that was over in a moment."""
    instance.configure('[shim]\nlog_bytes = "1mb"\n')
    instance.start_agent()
    line = "0123456789abcde"
    count = LOGGED // 16
    trial = instance.begin(
        f"""#!/bin/sh
docker run -d --name fast {IMAGE} sh -c 'yes {line} | head -n {count}; echo last' >/dev/null
docker logs -f fast | (sleep 2; tr -d '0-9a-e\\n' | wc -c)
docker wait fast
docker logs fast | tail -n 1
docker logs --tail 2 fast
docker logs fast | wc -c
echo kept; sleep 1000
"""
    )
    wait_until("it is over", lambda: b"kept" in trial.out_path.read_bytes(), 120)
    logs = sorted((instance.state_dir / "children").glob("*/*.out"))
    kept = [path.stat().st_blocks * 512 for path in logs]
    trial.qdel()
    done = trial.finish(trial.wait())

    foreign, code, last, *tail, size, _kept = done.stdout.decode().split()
    assert (int(foreign), code, last, tail) == (len("lst"), "0", "last", [line, "last"]), done.stderr
    assert len(kept) == 1
    assert kept[0] <= 2 << 20
    assert 1 << 20 <= int(size) <= 2 << 20
