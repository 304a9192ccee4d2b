"""T19: nothing that a job has started with its docker outlives it, whenever it was asked for and whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import is_healthy, works
from tests.support.shim import bare, begin_bare, client
from tests.support.threats import seconds

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("images")]


def test_daemons_and_detached_children_end_with_the_job(instance: Instance) -> None:
    """setsid, double forks, ignored signals, --detach and --restart by hand: none of it is there after the epilogue."""
    stubborn = 'trap "" TERM HUP INT; (setsid setsid sh -c "trap : TERM; sleep 301" &) ; sleep 301'
    done = bare(
        instance,
        f"for i in 1 2 3; do docker run -d {IMAGE} sh -c '{stubborn}' >/dev/null; done\n"
        f"(setsid docker run {IMAGE} sleep 301 &) >/dev/null 2>&1 </dev/null\nsleep 1\ndocker ps -q | wc -l",
    )

    assert int(done.stdout) >= 3, done.stderr
    assert instance.left() == []
    assert not _running(b"sleep\x00301\x00")


def test_children_started_while_the_job_ends(instance: Instance) -> None:
    """docker run -d in loops, while the job is deleted: after the epilogue there is no container and no network."""
    until = time.monotonic() + seconds(20, 200)
    rounds = 0
    while rounds < 3 or (time.monotonic() < until and rounds < 6):
        rounds += 1
        trial = begin_bare(
            instance,
            f"echo ready; for i in 1 2 3 4; do (while :; do docker run -d {IMAGE} sleep 302; docker network create n$i; done)"
            " >/dev/null 2>&1 & done; wait",
        )
        wait_until("it runs", partial(_is_ready, trial))
        time.sleep(0.2 * rounds)
        trial.qdel()
        trial.finish(trial.wait())
        assert instance.left() == []
        assert not _running(b"sleep\x00302\x00")
        assert not _networks(instance)
        assert not list((instance.state_dir / "children").iterdir())
    assert is_healthy(instance)


def test_a_command_that_waits_for_its_client_until_the_job_is_over(instance: Instance, scratch: Path) -> None:
    """An env-file that is told when the job has long ended, by a process that mom's kill has missed: nothing starts.

    Its connection is the job's, for the kernel still says who made it; the job is looked at again.
    """
    said = scratch / "stale.txt"
    said.touch()
    said.chmod(0o666)
    code = f"""
        link = ask("run", "--env-file", "x", "{IMAGE}", "sleep", "303")
        until(link, "read")
        is_away, away = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(away, b"x")  # from here on mom's kill misses it
            if os.fork():
                os._exit(0)
            time.sleep(3)
            try:
                link.send(wire.Message("content", data=b"A=1"))
                message, fds = until(link, "started")
                told = message.op + " " + message.text("code")
            except BaseException as error:
                told = repr(error)
            open(sys.argv[2], "w").write(told + chr(10))
            time.sleep(2)
            os._exit(0)
        os.read(is_away, 1)
        os._exit(0)
    """
    done = bare(instance, f"{{ {client(instance, code, str(said))}\n}} >/dev/null 2>&1")
    assert done.exit_status == 0
    wait_until("it is told", lambda: said.read_text().endswith("\n"), 15)

    assert said.read_text().split()[0] == "refused"
    assert instance.left() == []
    assert not _running(b"sleep\x00303\x00")


def test_an_answer_while_the_job_is_released(instance: Instance) -> None:
    """The same, told at the moment of the epilogue, by many: what is made then is gone with the job."""
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        code = f"""
            links = [ask("run", "-d", "--env-file", "x", "{IMAGE}", "sleep", "304") for _ in range(8)]
            for link in links:
                until(link, "read")
            print("ready", flush=True)
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while os.path.exists(sys.argv[2]):
                time.sleep(0.005)
            for link in links:
                link.send(wire.Message("content", data=b""))
            time.sleep(5)
        """
        flag = Path(f"/tmp/pbsdock-{os.getpid()}-flag")
        flag.touch()
        trial = begin_bare(instance, client(instance, code, str(flag)))
        wait_until("they wait", partial(_is_ready, trial))
        threading.Timer(delay, flag.unlink).start()
        trial.qdel()
        trial.finish(trial.wait())
        assert instance.left() == []
        assert not _running(b"sleep\x00304\x00")


def test_a_full_state_directory(instance: Instance) -> None:
    """Children cannot be written down: none is started, the sentence is the command's, and the job's end is as ever."""
    book = instance.state_dir / "children"
    # Room for a directory, and for no file in it.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=2,mode=0700", "none", str(book)], check=True)
    try:
        done = bare(instance, f"docker run -d {IMAGE} sleep 305; echo code $?")
    finally:
        subprocess.run(["umount", str(book)], check=True)

    assert done.stdout == b"code 125\n", done.stderr
    assert b"docker: " in done.stderr
    assert instance.left() == []
    assert not _running(b"sleep\x00305\x00")
    assert works(instance)


def _is_ready(trial: Trial) -> bool:
    return b"ready" in trial.out_path.read_bytes()


def _running(cmdline: bytes) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == cmdline:
                found.append(path)
        except OSError:
            pass
    return found


def _networks(instance: Instance) -> list[str]:
    client = instance.engine()
    try:
        names = [network["Name"] for network in client.api.networks()]
    finally:
        client.close()
    jobs = {json.loads(path.read_text())["safe"] for path in (instance.state_dir / "jobs").glob("*.json")}
    return [name for name in names if name.startswith("pbsdock-") and any(job in name for job in jobs)]
